"""What every method owes the step, the loop and the checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.methods.catalog import METHODS
from simclr_jax.sharding import by_batch, make_mesh
from tests.tools import (
    SMALL,
    compiled_step,
    plain,
    small_batch,
    small_method,
    small_optimiser,
    small_state,
)

pytestmark = pytest.mark.parametrize("name", list(METHODS))


def begin(name, probe=True, n=16):
    mesh = make_mesh(jax.devices()[:1])
    method, tx, batch = small_method(name, probe), small_optimiser(), small_batch(n)
    if not probe:
        tx = small_optimiser_without_probe()
        del batch["label"]
    return method, tx, batch, mesh, small_state(method, tx, batch, mesh)


def small_optimiser_without_probe():
    from simclr_jax.train.optim import sgd

    return sgd(weight_decay=1e-4)


def test_has_its_row_here(name):
    assert name in SMALL


def test_the_loss_reads_only_a_blind_state(name):
    method, _, batch, _, state = begin(name)
    loss, (new, y, _) = method.loss(
        state.params, state.blind(), batch, jax.random.key(1)
    )
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert new.params is None
    assert y.h.ndim == y.z.ndim == 3
    assert y.h.dtype == y.z.dtype == jnp.float32


def test_no_gradient_reaches_the_target(name):
    method, _, batch, _, state = begin(name)

    def loss(target):
        seen = state.blind().replace(target_params=target)
        return method.loss(state.params, seen, batch, jax.random.key(1))[0]

    grads = jax.grad(loss)(state.target_params)
    assert all((g == 0).all() for g in plain(grads))


def test_steps_keep_the_tree_compile_once_and_donate(name):
    method, tx, batch, mesh, state = begin(name)
    step, structure = compiled_step(method, tx, mesh), jax.tree.structure(state)
    types = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    batch = jax.device_put(batch, by_batch(mesh))
    for done in (1, 2, 3):
        before = state
        state, metrics = step(state, batch)
        assert int(state.step) == done
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
    assert jax.tree.structure(state) == structure
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == types
    assert step._cache_size() == 1
    assert {"loss", "lr", "grad_norm", "spread", "probe_loss"} <= metrics.keys()


def test_the_loss_in_the_metrics_is_the_methods_own(name):
    """The probe adds its own numbers, and teaches the encoder nothing."""
    with_probe, tx, batch, mesh, state = begin(name)
    alone, tx_alone, views, _, bare = begin(name, probe=False)
    _, probed = compiled_step(with_probe, tx, mesh)(state, batch)
    _, plainly = compiled_step(alone, tx_alone, mesh)(bare, views)
    np.testing.assert_allclose(probed["loss"], plainly["loss"], rtol=1e-6)
    assert "probe_loss" not in plainly

    state = small_state(with_probe, tx, batch, mesh)
    grads = jax.grad(with_probe.loss, has_aux=True)(
        state.params, state.blind(), batch, jax.random.key(1)
    )[0]
    own = jax.grad(alone.loss, has_aux=True)(
        {k: v for k, v in state.params.items() if k != "probe"},
        state.blind(),
        views,
        jax.random.key(1),
    )[0]
    for branch, tree in own.items():
        for a, b in zip(plain(grads[branch]), plain(tree), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_everything_but_the_count(name, what):
    method, tx, batch, mesh, state = begin(name)
    own = method.loss

    def broken(params, state, batch, rng):
        loss, rest = own(params, state, batch, rng)
        bad = state.step == 1
        if what == "loss":
            return jnp.where(bad, jnp.nan, loss), rest
        first = jax.tree.leaves(params)[0].ravel()[0]
        return loss + _slope(first, bad), rest

    step = compiled_step(method._replace(loss=broken), tx, mesh)
    state, _ = step(state, batch)
    before = jax.tree.map(jnp.copy, state)
    state, metrics = step(state, batch)
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


@jax.custom_vjp
def _slope(x, bad):
    """0, with an infinite slope where `bad`."""
    return jnp.zeros_like(x)


_slope.defvjp(
    lambda x, bad: (jnp.zeros_like(x), bad),
    lambda bad, g: (jnp.where(bad, jnp.inf, 0.0) * jnp.ones_like(g), None),
)


def test_any_mesh_gives_the_same_numbers(name):
    """Loss, gradient norm and probe over three steps on 1, 2, 4 and 8 devices."""
    seen = []
    for devices in (1, 2, 4, 8):
        mesh = make_mesh(jax.devices()[:devices])
        with jax.set_mesh(mesh):
            method, tx, batch = small_method(name), small_optimiser(), small_batch(32)
            state = small_state(method, tx, batch, mesh)
            # A low rate: at a high one rounding alone grows tenfold in a step.
            step = compiled_step(method, tx, mesh, rate=1e-4)
            batch = jax.device_put(batch, by_batch(mesh))
            numbers = []
            for _ in range(3):
                state, metrics = step(state, batch)
                keys = ("loss", "grad_norm", "probe_loss", "spread")
                numbers.append([float(metrics[key]) for key in keys])
            seen.append(numbers)
    for other in seen[1:]:
        np.testing.assert_allclose(other, seen[0], rtol=5e-5)
