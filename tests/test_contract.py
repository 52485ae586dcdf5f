"""What every method owes the step, the loop and the checkpoints.

With --method=module:factory:key=value,... the tests are of that method, with these
settings; see docs/own_parts.md.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.experiment import schema
from simclr_jax.methods.base import without
from simclr_jax.methods.catalog import METHODS
from simclr_jax.models.network import WHOLE_BATCH
from simclr_jax.models.resnet import resnet10
from simclr_jax.plan.jaxpr_flops import inner_jaxprs
from simclr_jax.sharding import by_batch, fsdp, make_mesh, replicated
from simclr_jax.state import LossState
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_reader import template
from simclr_jax.train.step import make_train_step
from tests.tools import (
    METHOD_WIDTHS,
    Tiny,
    add_method,
    collectives,
    compiled_step,
    plain,
    small_batch,
    small_method,
    small_optimiser,
    small_state,
)

KEY = jax.random.key(1)
KEYS = ("loss", "grad_norm", "probe_loss", "spread")
BATCH = small_batch(32).replace(index=np.arange(32, dtype=np.int32))
BAD_LOSS, BAD_SLOPE = -1, -2  # as index


def pytest_generate_tests(metafunc):
    external = metafunc.config.getoption("method")
    metafunc.parametrize("name", [add_method(external)] if external else [*METHODS])


@functools.cache
def method_of(name):
    """The method; a batch can make its loss or gradient infinite by its index."""
    method = small_method(name)

    def loss(params, state, batch, rng):
        loss, rest = method.loss(params, state, batch, rng)
        first = jax.tree.leaves(params)[0].ravel()[0]
        loss = jnp.where((batch.index == BAD_LOSS).any(), jnp.nan, loss)
        return loss + _slope(first, (batch.index == BAD_SLOPE).any()), rest

    return method._replace(loss=loss)


@jax.custom_vjp
def _slope(x, bad):
    """0, with an infinite slope where `bad`."""
    return jnp.zeros_like(x)


_slope.defvjp(
    lambda x, bad: (jnp.zeros_like(x), bad),
    lambda bad, g: (jnp.where(bad, jnp.inf, 0.0) * jnp.ones_like(g), None),
)


@functools.cache
def _beginning(name):
    mesh = make_mesh(jax.devices()[:1])
    return small_state(method_of(name), small_optimiser(), BATCH, mesh)


@functools.cache
def step_of(name, devices=1):
    mesh = make_mesh(jax.devices()[:devices])
    return compiled_step(method_of(name), small_optimiser(), mesh, rate=0.003)


def begin(name, devices=1):
    """The step, its state and the batch, on so many devices."""
    mesh = make_mesh(jax.devices()[:devices])
    state = jax.tree.map(jnp.copy, _beginning(name))  # a step eats its state
    batch = jax.device_put(BATCH, by_batch(mesh))
    return step_of(name, devices), jax.device_put(state, replicated(mesh)), batch


@functools.cache
def differentiated(name, probe=True):
    """The loss's result and its gradient for params and target, at the beginning."""
    method, state = small_method(name, probe), _beginning(name)
    params = state.params if probe else without("probe", state.params)

    def loss(params, target, batch):
        seen = state.for_loss().replace(target_params=target)
        return method.loss(params, seen, batch, KEY)

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(grad)(params, state.target_params, BATCH)


def test_the_statistics_of_the_forward_pass_are_kept(name):
    """A loss that returns the state it was given would leave them as they were."""
    (_, (after, _, _)), _ = differentiated(name)
    before = _beginning(name).model_state
    for branch, statistics in before.items():
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), statistics, after.model_state[branch]
        )
        assert jax.tree.leaves(moved), branch
        assert all(jax.tree.leaves(moved)), branch


def test_shapes_and_dtypes_of_the_loss(name):
    (loss, (state, y, _)), _ = differentiated(name)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert isinstance(state, LossState)
    features = method_of(name).features(y)
    assert next(iter(features)) == "h"
    assert all(x.ndim == 3 and x.dtype == jnp.float32 for x in features.values())


def test_a_loss_changes_statistics_and_memory_only(name):
    """The step ignores a step count or a target that a loss returns."""
    method = method_of(name)

    def loss(params, state, batch, rng):
        value, (new, *rest) = method.loss(params, state, batch, rng)
        zeros = jax.tree.map(jnp.zeros_like, new.target_params)
        return value, (new.replace(step=new.step + 7, target_params=zeros), *rest)

    mesh = make_mesh(jax.devices()[:1])
    intruder = compiled_step(
        method._replace(loss=loss), small_optimiser(), mesh, rate=0.003
    )
    step, state, batch = begin(name)
    expected, _ = step(state, batch)
    _, state, batch = begin(name)
    new, _ = intruder(state, batch)
    for a, b in zip(plain(new), plain(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_gradient_reaches_the_target(name):
    _, (_, grads) = differentiated(name)
    assert all((g == 0).all() for g in plain(grads))


def test_target_and_online_do_not_alias(name):
    state = _beginning(name)
    leaves = jax.tree.leaves((state.params, state.target_params))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_the_target_follows_the_updated_network(name):
    """ema * target + (1 - ema) * online, online as it is after the update."""
    schedule = method_of(name).ema
    if schedule is None:
        assert _beginning(name).target_params is None
        return
    step, state, batch = begin(name)
    ema, before = schedule(0), plain(state.target_params)
    state, _ = step(state, batch)
    online = {branch: state.params[branch] for branch in state.target_params}
    for old, new, now in zip(
        before, plain(state.target_params), plain(online), strict=True
    ):
        np.testing.assert_allclose(new, ema * old + (1 - ema) * now, atol=1e-6)


def test_steps_keep_the_tree_compile_once_and_donate(name):
    step, state, batch = begin(name)
    structure = jax.tree.structure(state)
    types = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    for done in (1, 2, 3):
        before = state
        state, metrics = step(state, batch)
        assert int(state.step) == done
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
    assert jax.tree.structure(state) == structure
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == types
    assert step._cache_size() == 1
    assert {"loss", "lr", "grad_norm", "spread", "probe_loss"} <= metrics.keys()


def test_devices_send_each_other_embeddings_and_sums_and_no_picture(name):
    """The compiled step gathers at most z of both views once; all else are sums."""
    step, state, batch = begin(name, 8)
    with jax.set_mesh(make_mesh()):
        found = collectives(step.lower(state, batch).compile())
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce"}
    sizes = {"all-gather": [0], "all-reduce": [0]}
    for kind, kinds in found:
        shapes = re.findall(r"\[([\d,]*)\]", kinds)
        sizes[kind] += [math.prod(map(int, filter(None, x.split(",")))) for x in shapes]
    views, n, side, _, colours = np.shape(BATCH.views)
    # Of a baseline, which compares no images with each other, nothing is gathered.
    width = METHOD_WIDTHS[name].get("out", 0)
    assert sum(sizes["all-gather"]) <= views * n * width
    pictures = n / 8 * side * side * colours  # of one device
    assert max(sizes["all-reduce"]) < pictures, (
        "an array that is summed is too large: smaller METHOD_WIDTHS"
    )


def test_in_bfloat16_no_convolution_takes_float32_and_nothing_is_float64(name):
    encoder = resnet10(channels=4, stem="small", dtype="bfloat16")
    method, tx = small_method(name, encoder=encoder), small_optimiser()
    batch, mesh = small_batch(), make_mesh(jax.devices()[:1])
    state = jax.eval_shape(lambda: small_state(method, tx, batch, mesh))
    text = compiled_step(method, tx, mesh).lower(state, batch).as_text()
    taken = re.findall(r"stablehlo\.convolution.*: \((.*)\) ->", text)
    assert len(taken) > 20
    for kinds in taken:
        assert kinds.count("bf16>") == 2, kinds
    assert "f64" not in text


def test_by_blocks_there_is_no_matrix_of_all_to_all(name):
    n = 2048
    queue = {"queue": 2 * n} if name == "moco" else {}
    batch = small_batch(n)
    factory = schema.factory("method", name)
    blocks = "block" in schema.defaults(factory)  # else nobody meets all others
    for block in (n, 16) if blocks else (0,):
        words = {"block": block} if blocks else {}
        method = factory(Tiny(), WHOLE_BATCH, **METHOD_WIDTHS[name] | queue | words)
        state = jax.eval_shape(method.init, jax.random.key(0), batch.views)
        gradient = jax.grad(method.loss, has_aux=True)
        made = jax.make_jaxpr(gradient)(state.params, state.for_loss(), batch, KEY)
        assert (largest(made.jaxpr) >= n * n) == (block == n)


def largest(jaxpr) -> int:
    """Elements of the largest array that is made on the way."""
    sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
    inner = [largest(x) for e in jaxpr.eqns for x in inner_jaxprs(e)]
    return max(sizes + inner)


def test_the_probe_teaches_the_encoder_nothing(name):
    """It adds its own numbers, and the loss in the metrics is the method's own."""
    (_, (_, _, metrics)), (grads, _) = differentiated(name)
    (own, (_, _, bare)), (taught, _) = differentiated(name, probe=False)
    np.testing.assert_allclose(metrics["loss"], own, rtol=1e-6)
    assert "probe_loss" not in bare
    for branch, tree in taught.items():
        for a, b in zip(plain(grads[branch]), plain(tree), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("bad", [BAD_LOSS, BAD_SLOPE])
def test_a_step_that_is_not_finite_leaves_everything_but_the_count(name, bad):
    step, state, batch = begin(name)
    state, _ = step(state, batch)
    before = jax.tree.map(jnp.copy, state)
    spoilt = jax.device_put(np.full(32, bad, np.int32), batch.index.sharding)
    state, metrics = step(state, batch.replace(index=spoilt))
    assert int(metrics["streak"]) == int(metrics["skipped"]) == 1
    assert int(state.step) == 2
    for part in ("params", "opt_state", "model_state", "method_state", "target_params"):
        for a, b in zip(
            plain(getattr(before, part)), plain(getattr(state, part)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    state, metrics = step(state, batch)
    assert int(metrics["streak"]) == 0
    assert int(metrics["skipped"]) == 1
    assert any(
        (a != b).any()
        for a, b in zip(plain(before.params), plain(state.params), strict=True)
    )


def test_a_saved_state_goes_on_to_the_bit(name, tmp_path):
    """Queue, centre, targets and statistics, too."""
    step, state, batch = begin(name)
    for _ in range(2):
        state, _ = step(state, batch)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(2, state)
    checkpoints.wait()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    places = jax.tree.map(lambda x: x.sharding, state)
    undisturbed, _ = step(state, batch)
    resumed, _ = step(checkpoints.restore(template(shapes, places), 2), batch)
    checkpoints.close()
    for a, b in zip(plain(undisturbed), plain(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_a_split_state_gives_the_same_numbers(name):
    """placement = fsdp: every array that can be is split over four devices."""
    mesh = make_mesh(jax.devices()[:4])
    _, state, batch = begin(name, 4)
    placement = fsdp(mesh, state, smallest=16)
    state = jax.device_put(state, placement)
    with jax.set_mesh(mesh):
        train_step = make_train_step(
            method_of(name), small_optimiser(), lambda step: jnp.float32(0.003)
        )
        step = jax.jit(
            train_step, donate_argnums=0, out_shardings=(placement, replicated(mesh))
        )
        state, metrics = step(state, batch)
    first = three_steps(name, 1)[0][0]
    np.testing.assert_allclose([float(metrics[key]) for key in KEYS], first, rtol=1e-4)
    assert not all(x.is_fully_replicated for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    "devices", [8, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 4))]
)
def test_any_mesh_gives_the_same_numbers(name, devices):
    """Three steps' losses, and what all their gradients made of the state."""
    (numbers, one), (others, many) = three_steps(name, 1), three_steps(name, devices)
    np.testing.assert_allclose(others, numbers, rtol=1e-4, atol=1e-6)
    for a, b in zip(one, many, strict=True):
        size = max(1, np.abs(a).max(initial=0))
        np.testing.assert_allclose(a / size, b / size, atol=3e-5)


@functools.cache
def three_steps(name, devices):
    step, state, batch = begin(name, devices)
    numbers = []
    with jax.set_mesh(make_mesh(jax.devices()[:devices])):
        for _ in range(3):
            state, metrics = step(state, batch)
            numbers.append([float(metrics[key]) for key in KEYS])
    return numbers, plain(state)
