"""MoCo: the released module's numbers, the shuffle, and the queue over the steps."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.batch import Batch
from simclr_jax.methods.moco import moco
from simclr_jax.models.norm import BatchNorm
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.train.optim import sgd
from simclr_jax.train.step import update_target
from tests.losses.test_moco import unit, wave
from tests.tools import Tiny, compiled_step, small_batch, small_state

KEY = jax.random.key(1)


class Flat(nn.Module):
    """The pixels as they are."""

    width: int = 4

    @nn.compact
    def __call__(self, x, train: bool, rows: Rows = WHOLE):
        return x.reshape(x.shape[0], -1)


def test_the_released_module():
    """Spec fixture: linear encoders, one step at m = 0.9 and tau = 0.2."""
    method = moco(Flat(), temperature=0.2, layers=1, out=3, queue=6)
    x_q, x_k = (
        jnp.asarray(wave(2, 4, s), jnp.float32)[:, None, None] for s in (0.1, 0.2)
    )
    state = method.init(KEY, (x_q, x_k))

    def linear(kernel, bias):
        return {"projector": {"dense1": {"kernel": kernel.T, "bias": bias}}}

    online = linear(wave(3, 4, 0.5), wave(1, 3, 2.0)[0])
    target = update_target(linear(wave(3, 4, 0.9), np.zeros(3)), online, 0.9)
    head = target["projector"]["dense1"]
    w = [0.75293677, 0.99282015, 0.7657647, 0.17855814]
    np.testing.assert_allclose(head["kernel"][:, 0], w, rtol=1e-6)
    np.testing.assert_allclose(
        head["bias"], [0.09092974, 0.04273799, -0.02555411], 1e-6
    )

    queue = jnp.asarray(unit(wave(3, 6, 1.0), 0).T, jnp.float32)
    memory = {"queue": queue, "oldest": jnp.int32(4)}
    state = state.replace(target_params=target, method_state=memory)
    batch = Batch(views=(x_q, x_k))
    loss, (new, _, _) = method.loss(online, state.for_loss(), batch, KEY)
    np.testing.assert_allclose(loss, 0.7933281232, rtol=1e-5)
    assert int(new.method_state["oldest"]) == 0
    newest = [
        [0.53764675, -0.58553888, 0.60669612],
        [-0.407966, 0.60511694, -0.68366456],
    ]
    np.testing.assert_allclose(new.method_state["queue"][4:], newest, atol=1e-6)
    np.testing.assert_array_equal(new.method_state["queue"][:4], queue[:4])


def test_shuffled_batch_norm_of_the_spec():
    """Permute, normalise in groups, permute back."""
    x = jnp.array([[1.0], [2], [3], [10]])
    inverse = jnp.array([1, 3, 0, 2])  # of the permutation 2, 0, 3, 1
    norm = BatchNorm(groups=2, use_scale=False, use_bias=False)
    variables = norm.init(KEY, x, False)
    for place, expected in [(None, [-1, 1, -1, 1]), (inverse, [-1, -1, 1, 1])]:
        y, _ = norm.apply(
            variables, x, True, Rows(shuffle=place), mutable=["batch_stats"]
        )
        np.testing.assert_allclose(np.ravel(y), expected, atol=1e-4)
    whole = BatchNorm(use_scale=False, use_bias=False)
    for place in (None, inverse):
        y, _ = whole.apply(
            variables, x, True, Rows(shuffle=place), mutable=["batch_stats"]
        )
        global_bn = [-0.8485, -0.5657, -0.2828, 1.6971]
        np.testing.assert_allclose(np.ravel(y), global_bn, atol=1e-4)


def test_a_shuffle_is_permute_normalise_permute_back():
    """In values, gradients and running statistics, on feature maps too."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(2, 3, (12, 3, 2, 5)), jnp.float32)
    order = draw.permutation(12)
    place = jnp.asarray(np.argsort(order))
    norm = BatchNorm(groups=3)
    variables = norm.init(KEY, x, False)

    def by_place(x):
        return norm.apply(
            variables, x, True, Rows(shuffle=place), mutable=["batch_stats"]
        )

    def by_moving(x):
        y, new = norm.apply(variables, x[order], True, mutable=["batch_stats"])
        return y[place], new

    (a, stats), (b, others) = by_place(x), by_moving(x)
    np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), stats, others)
    weight = jnp.asarray(draw.normal(size=x.shape), jnp.float32)
    grads = [
        jax.grad(lambda x, f=f: (f(x)[0] * weight).sum())(x)
        for f in (by_place, by_moving)
    ]
    np.testing.assert_allclose(*grads, atol=1e-5)


def test_the_shuffle_changes_groups_of_keys_only():
    """With one group it does nothing, with several it does."""
    batch, losses = small_batch(16), {}
    for groups in (1, 4):
        for shuffle in (False, True):
            method = moco(Tiny(groups), hidden=8, out=4, queue=32, shuffle=shuffle)
            state = method.init(KEY, batch.views)
            loss, (_, y, _) = method.loss(state.params, state.for_loss(), batch, KEY)
            losses[groups, shuffle] = float(loss), np.asarray(y.heads["projector"])
    np.testing.assert_allclose(losses[1, False][0], losses[1, True][0], rtol=1e-5)
    assert abs(losses[4, False][0] - losses[4, True][0]) > 1e-5
    np.testing.assert_array_equal(losses[4, False][1], losses[4, True][1])


def begin(**keywords):
    method = moco(Tiny(), hidden=8, out=4, **keywords)
    tx, batch, mesh = sgd(), small_batch(16), sharding.make_mesh(jax.devices()[:1])
    state = small_state(method, tx, batch, mesh)
    return compiled_step(method, tx, mesh), state, batch


def test_a_step_s_own_keys_are_no_negatives_of_it():
    step, state, batch = begin(queue=40)
    before = np.asarray(state.method_state["queue"])
    state, _ = step(state, batch)
    after = np.asarray(state.method_state["queue"])
    np.testing.assert_array_equal(before[16:], after[16:])
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)
    assert int(state.method_state["oldest"]) == 16
    assert not np.isclose(before[:16], after[:16]).all()


@pytest.mark.parametrize(("ema", "consistent"), [(0.999, True), (0.0, False)])
def test_a_slow_encoder_keeps_the_queue_consistent(ema, consistent):
    """The keys of the same pictures, some steps apart: alike only if the encoder is."""
    step, state, batch = begin(queue=160, ema=ema)
    for _ in range(10):
        state, _ = step(state, batch)
    queue = np.asarray(state.method_state["queue"]).reshape(10, 16, 4)
    drift = np.einsum("nd,nd->n", queue[0], queue[-1]).mean()
    assert (drift > 0.98) == consistent


def test_no_picture_moves_for_the_shuffle():
    """Between devices: keys, sums over groups, gradients; nothing of picture size."""
    mesh, side = sharding.make_mesh(), 12
    method, tx = moco(Tiny(groups=4), hidden=8, out=4, queue=64), sgd()
    batch = small_batch(32, side)
    with jax.set_mesh(mesh):
        state = small_state(method, tx, batch, mesh)
        placed = jax.device_put(batch, sharding.by_batch(mesh))
        text = compiled_step(method, tx, mesh).lower(state, placed).compile().as_text()
    pattern = r"= (\S+|\([^)]*\)) (?:all-\w+|collective-permute|reduce-scatter)\("
    found = re.findall(pattern, text)
    assert found
    sizes = [
        np.prod([int(n) for n in dims.split(",") if n] or [1])
        for shape in found
        for dims in re.findall(r"\[([\d,]*)\]", shape)
    ]
    assert max(sizes) < 32 * side * side * 3 / 8  # one device's pictures of one view


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queue": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"ema": 1.5}, "0 to 1"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        moco(Tiny(), **arguments)
