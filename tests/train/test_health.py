"""The diagnostics beside the step: their values, on any mesh, and their cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.experiment import build, config
from simclr_jax.losses import geometry
from simclr_jax.methods.catalog import METHODS
from simclr_jax.methods.health import Health
from simclr_jax.plan.jaxpr_flops import flops
from simclr_jax.sharding import by_batch, make_mesh, replicated
from simclr_jax.train.health import (
    SAMPLE,
    features_work,
    make_health,
    parameters_health,
)
from simclr_jax.train.step import make_train_step
from tests.tools import (
    collectives,
    compiled_step,
    small_batch,
    small_method,
    small_optimiser,
    small_state,
)

BATCH = small_batch(32)
FEATURES = {"spread", "dead", "uniformity", "rank", "samples"}
PAIRS = {"alignment", "lidar"}
NEGATIVES = {"positive_share", "effective_negatives", "hardest_share"}
TARGET = {"target_distance", "target_cosine"}
ADDED = {  # of each method
    "simclr": NEGATIVES,
    "moco": NEGATIVES | TARGET,
    "mocov3": NEGATIVES | TARGET,
    "byol": TARGET,
    "simsiam": set(),
    "dino": TARGET | {"centre_norm", "centre_range"},
    "tsimcne": NEGATIVES,
    "supervised": set(),
    "autoencoder": set(),
}


@functools.cache
def beginning(name):
    mesh = make_mesh(jax.devices()[:1])
    return small_state(small_method(name), small_optimiser(), BATCH, mesh)


@pytest.mark.parametrize("name", METHODS)
def test_the_diagnostics_of_each_method(name):
    method = small_method(name)
    state = jax.eval_shape(lambda key: method.init(key, BATCH.views), jax.random.key(0))
    metrics = jax.eval_shape(make_health(method), state.replace(step=0), BATCH)
    features = FEATURES if name == "moco" else FEATURES | PAIRS  # MoCo: one query
    names = "h" if name == "autoencoder" else "hz"
    expected = {f"{x}_{key}" for x in names for key in features} | ADDED[name]
    expected |= {"weight_rms"} | ({"z_alignment"} if name == "moco" else set())
    assert metrics.keys() == expected
    assert all(x.shape == () for x in metrics.values())


@pytest.mark.parametrize(
    "name",
    [
        "moco",
        *(pytest.param(x, marks=pytest.mark.long) for x in METHODS if x != "moco"),
    ],
)
def test_any_mesh_gives_the_same_numbers_and_no_picture_travels(name):
    method, state, values = small_method(name), beginning(name), []
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        with jax.set_mesh(mesh):
            batch = jax.device_put(BATCH, by_batch(mesh))
            program = jax.jit(make_health(method), out_shardings=replicated(mesh))
            compiled = program.lower(
                jax.device_put(state, replicated(mesh)), batch
            ).compile()
            metrics = compiled(jax.device_put(state, replicated(mesh)), batch)
            values.append({key: float(x) for key, x in metrics.items()})
    assert values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-5)
    assert not any("8,8,3" in shapes for _, shapes in collectives(compiled))


def test_the_numbers_are_those_of_the_outputs_of_the_loss():
    method, state = small_method("byol"), beginning("byol")
    target = {k: jax.tree.map(lambda x: 2 * x, x) for k, x in state.params.items()}
    state = state.replace(target_params={k: target[k] for k in state.target_params})

    @jax.jit
    def both(state):
        key = jax.random.fold_in(state.rng, state.step)
        _, (_, y, _) = method.loss(state.params, state.for_loss(), BATCH, key)
        return make_health(method)(state, BATCH), y

    metrics, y = both(state)
    z = y.heads["projector"]
    for name, value in {
        "h_spread": geometry.spread(y.h),
        "z_rank": geometry.effective_rank(z[0]),
        "z_alignment": geometry.alignment(*z),
        "z_lidar": geometry.lidar(z),
        "z_samples": 32,
        "target_distance": 1,
        "target_cosine": 1,
    }.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_distance_and_cosine_of_parameters():
    online = {"a": {"w": jnp.asarray([3.0, 0])}, "b": jnp.asarray([4.0]), "probe": 9.0}
    target = {"a": {"w": jnp.asarray([0.0, 3])}, "b": jnp.asarray([4.0])}
    metrics = parameters_health(online, target)
    np.testing.assert_allclose(metrics["target_distance"], 18**0.5 / 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["target_cosine"], 16 / 25, rtol=1e-6)


@pytest.mark.parametrize("name", ["moco", "mocov3"])
def test_the_program_of_the_step_stays_as_it_is(name):
    """Its text is that of a step whose method has neither diagnostics nor keys."""
    method, mesh = small_method(name), make_mesh(jax.devices()[:1])

    def loss(params, state, batch, rng):
        value, (state, y, metrics) = method.loss(params, state, batch, rng)
        heads = {k: x for k, x in y.heads.items() if k != "key"}
        return value, (state, y._replace(heads=heads), metrics)

    bare = method._replace(loss=loss, health=Health())
    texts = [
        compiled_step(x, small_optimiser(), mesh)
        .lower(beginning(name), BATCH)
        .as_text()
        for x in (method, bare)
    ]
    assert texts[0] == texts[1]


def test_diagnostics_cost_less_than_2_percent_of_the_steps_between_them():
    """Products and convolutions as counted, decompositions in closed form."""
    c = config.load("configs/simclr_imagenet.py")
    method = build.build_method(c, images=1_281_167, classes=1000)
    n, size = c.data.batch_size, c.data.image_size
    view = jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)
    label = jax.ShapeDtypeStruct((n,), jnp.int32)
    batch = Batch(views=(view, view), label=label)
    tx = small_optimiser()

    def create(key):
        state = method.init(key, batch.views)
        return state.replace(opt_state=tx.init(state.params))

    state = jax.eval_shape(create, jax.random.key(0))
    step, extra = (
        flops(jax.make_jaxpr(program)(state, batch).jaxpr)
        for program in (
            make_train_step(method, tx, lambda step: 0.1),
            make_health(method),
        )
    )
    extra += sum(features_work(2, n, width) for width in (2048, 128))
    assert 0.3 * step < extra < 0.4 * step  # the forward pass: about a third
    assert extra / (c.health_every * step) < 0.02


def test_the_closed_form_of_the_decompositions():
    n = SAMPLE
    assert features_work(1, 10 * n, n) == pytest.approx(8 / 3 * n**3)
    assert features_work(2, n, 2 * n) == pytest.approx(8 * n**3 - 4 / 3 * n**3)
    assert features_work(2, 3, 3) == pytest.approx((8 / 3 + 11 / 3) * 27)
