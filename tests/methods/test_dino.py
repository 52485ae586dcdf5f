"""DINO with views of two sizes: algorithm 1, meshes, and the two ways to collapse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.methods.dino import dino
from simclr_jax.models.heads import DistillationHead
from simclr_jax.models.network import WHOLE_BATCH, network
from simclr_jax.sharding import by_batch, make_mesh
from simclr_jax.train.optim import adamw
from tests.models.test_network import Tiny
from tests.tools import collectives, compiled_step, small_state

KEY = jax.random.key(1)


def small(**changes):
    keywords: dict[str, Any] = {
        "hidden": 16,
        "out": 8,
        "prototypes": 16,
        "total_steps": 100,
        "steps_per_epoch": 10,
    }
    return dino(Tiny(), **(keywords | changes))


def optimiser():
    return adamw(weight_decay=0.0, no_decay=(), total_steps=100)


def crops(n=32, sides=(6, 6, 4, 4), seed=0):
    """Pictures of one colour each; every view sees it a little differently."""
    draw = np.random.default_rng(seed)
    colour = draw.uniform(0, 1, (n, 1, 1, 3))
    return tuple(
        np.clip(colour + draw.normal(0, 0.05, (n, side, side, 3)), 0, 1).astype("f")
        for side in sides
    )


def distinct(method, views, **changes):
    """A state whose teacher is not the student, whose centre is not zero."""
    state, other = (method.init(jax.random.key(seed), views) for seed in (0, 9))
    centre = 0.1 * jnp.sin(jnp.arange(len(state.method_state)))
    return state.replace(
        target_params=other.params, method_state=centre, step=jnp.int32(0), **changes
    )


def algorithm_1(z, t, v, w, centre, sharp):
    """As it is printed, in float64, one pair at a time; also the next centre."""

    def logits(z, v):
        v = np.asarray(v, np.float64)
        return np.asarray(z, np.float64) @ (v / np.linalg.norm(v, axis=1)[:, None]).T

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    found = logits(t, w)
    losses = [
        -(softmax((found[i] - centre) / sharp) * np.log(softmax(logits(z[j], v) / 0.1)))
        .sum(-1)
        .mean()
        for i in range(2)
        for j in range(len(z))
        if i != j
    ]
    return np.mean(losses), 0.9 * np.asarray(centre) + 0.1 * found.mean((0, 1))


@pytest.mark.parametrize("sides", [(6, 6), (6, 6, 4, 4)])
def test_agrees_with_algorithm_1(sides):
    method, views = small(), crops(sides=sides)
    state = distinct(method, views)
    loss, (new, y, metrics) = method.loss(
        state.params, state.for_loss(), Batch(views=views), KEY
    )
    net = network(Tiny(), DistillationHead(16, 8), options=WHOLE_BATCH, joint=True)
    t, seen = net.apply(
        state.target_params, state.model_state["target"], views[:2], None
    )
    v, w = (p["prototypes"]["v"] for p in (state.params, state.target_params))
    expected, centre = algorithm_1(
        y.heads["projector"], t.heads["projector"], v, w, state.method_state, 0.04
    )
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    np.testing.assert_allclose(new.method_state, centre, atol=1e-6)
    np.testing.assert_allclose(metrics["kl"], loss - metrics["teacher_entropy"])
    for a, b in zip(
        jax.tree.leaves(new.model_state["target"]), jax.tree.leaves(seen), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("epoch", "warmup", "sharp"),
    [
        (0, 3, 0.04),
        (1, 3, 0.055),
        (2, 3, 0.07),
        (8, 3, 0.07),
        (0, 1, 0.04),
        (0, 0, 0.07),
    ],
)
def test_the_teachers_temperature_warms_up_by_epochs(epoch, warmup, sharp):
    """Its distribution at that temperature has the entropy that is reported."""
    method, views = small(teacher_warmup_epochs=warmup), crops()
    state = distinct(method, views)
    for step in (10 * epoch, 10 * epoch + 9):
        seen = state.for_loss().replace(step=jnp.int32(step))
        batch = Batch(views=views)
        _, (_, _, metrics) = method.loss(state.params, seen, batch, KEY)
        still = small(teacher_temperature=sharp, teacher_temperature_end=sharp)
        _, (_, _, same) = still.loss(state.params, seen, batch, KEY)
        np.testing.assert_allclose(
            metrics["teacher_entropy"], same["teacher_entropy"], rtol=1e-5
        )


def test_only_the_student_learns():
    method, views = small(norm_last_layer=False), crops()
    state = distinct(method, views)

    def loss(params, target):
        seen = state.for_loss().replace(target_params=target)
        return method.loss(params, seen, Batch(views=views), KEY)[0]

    student, teacher = jax.grad(loss, (0, 1))(state.params, state.target_params)
    assert all((x == 0).all() for x in jax.tree.leaves(teacher))
    assert all((x != 0).any() for x in jax.tree.leaves(student["prototypes"]))
    assert set(student["prototypes"]) == {"v", "g"}
    assert set(small().init(KEY, views).params["prototypes"]) == {"v"}


def test_the_teacher_is_kept_and_starts_as_the_student():
    method, views = small(), crops()
    state = method.init(jax.random.key(0), views)
    params, stats = method.kept(state.replace(params=None))
    assert params is state.target_params
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert method.network.encode(params, stats, views[2]).h.shape == (1, 32, 8)
    v = state.params["prototypes"]["v"]
    assert float(jnp.abs(v).max()) <= 8**-0.5
    np.testing.assert_array_equal(state.method_state, jnp.zeros(16))


def test_any_mesh_gives_the_same_numbers_and_no_image_travels():
    seen, views = [], crops(sides=(12, 12, 10, 10))
    for devices in (1, 4):
        mesh = make_mesh(jax.devices()[:devices])
        with jax.set_mesh(mesh):
            method, tx = small(), optimiser()
            state = small_state(method, tx, Batch(views=views), mesh)
            step = compiled_step(method, tx, mesh, rate=1e-3)
            batch = Batch(views=jax.device_put(views, by_batch(mesh)))
            compiled = step.lower(state, batch).compile()
            numbers = []
            for _ in range(3):
                state, metrics = compiled(state, batch)
                numbers.append([float(metrics[k]) for k in ("loss", "grad_norm", "kl")])
            seen.append(numbers)
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-4)
    found = collectives(compiled)
    assert {kind for kind, _ in found} == {"all-reduce"}  # centre, statistics, gradient
    assert not any("12,12" in kinds or "10,10" in kinds for _, kinds in found)


def trained(steps=40, **changes):
    """The metrics of the last of some steps with a quick teacher."""
    method, views, tx = small(ema=0.9, **changes), crops(), optimiser()
    mesh = make_mesh(jax.devices()[:1])
    state = small_state(method, tx, Batch(views=views), mesh)
    step = compiled_step(method, tx, mesh, rate=0.02)
    metrics = {}
    for _ in range(steps):
        state, metrics = step(state, Batch(views=views))
    return {name: float(x) for name, x in metrics.items()}


@pytest.mark.long
def test_centre_and_temperature_hold_each_other_in_balance():
    """Section 5.3: without the one, one prototype has all; without the other, each."""
    cold = {"teacher_temperature": 0.04, "teacher_temperature_end": 0.04}
    warm = {"teacher_temperature": 1.0, "teacher_temperature_end": 1.0}
    both = trained(**cold)
    assert both["prototype_entropy"] > both["teacher_entropy"] + 0.5
    assert both["kl"] > 0.05
    assert both["spread"] > 0.5

    uncentred = trained(**cold, centre_momentum=1.0)
    assert uncentred["teacher_entropy"] < 0.01
    assert uncentred["prototype_entropy"] < 0.01

    blunt = trained(**warm)
    assert blunt["teacher_entropy"] > np.log(16) - 0.01
    assert blunt["kl"] < 0.05
    assert blunt["spread"] < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prototypes": 1}, "two prototypes"),
        ({"out": 0}, "width 1 or more"),
        ({"temperature": 0.0}, r"above 0.*temperature = 0\.0"),
        ({"teacher_temperature": -0.04}, r"above 0.*-0\.04"),
        ({"teacher_temperature_end": 0.0}, "above 0"),
        ({"ema": 1.1}, "ema must be from 0 to 1"),
        ({"centre_momentum": 1.1}, "centre_momentum must be from 0 to 1"),
    ],
)
def test_numbers_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize("sides", [(6,), (6, 4), (4, 6, 6)])
def test_views_that_no_teacher_can_see(sides):
    method, views = small(), crops(sides=sides)
    with pytest.raises(ValueError, match="the first two of one size"):
        method.init(KEY, views)
    state = distinct(method, crops())
    with pytest.raises(ValueError, match="the first two of one size"):
        method.loss(state.params, state.for_loss(), Batch(views=views), KEY)
