"""A batch in parts: the same gradient, less memory, no picture on the move."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.methods.catalog import METHODS
from simclr_jax.models.heads import projector
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network
from simclr_jax.models.norm import BatchNorm
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.models.transformer import INITIALIZERS, Block
from simclr_jax.sharding import by_batch, make_mesh
from tests.tools import (
    METHOD_WIDTHS,
    Tiny,
    TinyDecoder,
    plain,
    small_batch,
    temporary_bytes,
)

KEY = jax.random.key(1)


class Dropping(nn.Module):
    """Four patches of a picture and a block that drops paths; no batch norm."""

    dtype: Any = jnp.float32
    width: int = 8

    @nn.compact
    def __call__(self, x, train: bool, rows: Rows = WHOLE):
        x = x.reshape(len(x), 4, -1).astype(self.dtype) / 255
        x = nn.Dense(self.width, param_dtype=self.dtype)(x)
        return Block(2, INITIALIZERS["dino"], drop=0.5)(x, train, rows).mean(1)

    @nn.nowrap
    def decoder(self, size):
        return TinyDecoder(size)


def without_batch_norm():
    def skip(call, args, kwargs, context):
        y = call(*args, **kwargs)  # its parameters are there all the same
        return args[0] if isinstance(context.module, BatchNorm) else y

    return nn.intercept_methods(skip)


def in_parts(name, k, batch, encoder=None):
    method = METHODS[name](
        encoder or Dropping(), BatchOptions(k), **METHOD_WIDTHS[name]
    )
    state = method.init(jax.random.key(0), batch.views)

    @jax.jit
    def differentiate(params):
        loss = jax.value_and_grad(method.loss, has_aux=True)
        return loss(params, state.for_loss(), batch, KEY)

    return differentiate(state.params)


def apart(tree, true):
    """The norm of the difference of two trees, relative to the second one's."""
    a, b = (np.concatenate([x.ravel() for x in plain(t)]) for t in (tree, true))
    assert a.dtype == b.dtype
    return np.linalg.norm(a - b) / np.linalg.norm(b)


QUICK = ("simclr", "moco")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in METHODS],
)
def test_without_batch_norm_the_gradient_is_that_of_the_whole_batch(name):
    batch = small_batch(16)
    with without_batch_norm():
        (loss, (_, y, _)), grads = in_parts(name, 1, batch)
        (same, (_, again, _)), found = in_parts(name, 4, batch)
    np.testing.assert_allclose(same, loss, rtol=1e-5)
    np.testing.assert_allclose(
        again.heads["projector"], y.heads["projector"], rtol=1e-4, atol=1e-5
    )
    assert apart(found, grads) <= 1e-5


class Twice(nn.Module):
    """A head in float64."""

    @nn.compact
    def __call__(self, h, train: bool, rows: Rows = WHOLE):
        return nn.Dense(4, param_dtype=jnp.float64)(h)


@pytest.mark.parametrize(("joint", "ks"), [(True, (2, 8)), (False, (4,))])
def test_in_float64_nothing_but_rounding_is_left(joint, ks):
    views = small_batch(16).views

    def gradient(k):
        net = network(
            Dropping(jnp.float64), Twice(), options=BatchOptions(k), joint=joint
        )
        params, stats = net.init(jax.random.key(0), views)
        params = jax.tree.map(jnp.float64, params)

        def loss(params):
            y, _ = net.apply(params, stats, views, KEY)
            return nt_xent(y.heads["projector"], 0.1)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    with jax.enable_x64():
        value, grads = gradient(1)
        assert value.dtype == np.float64
        for k in ks:
            same, found = gradient(k)
            np.testing.assert_allclose(same, value, rtol=1e-13)
            assert apart(found, grads) <= 1e-10


def test_paths_are_dropped_by_image():
    """As it is in a whole batch: not the same for all parts, nor for all views."""
    views = small_batch(16).views
    net = network(Dropping(), projector(out=4), options=BatchOptions(4), joint=True)
    params, stats = net.init(jax.random.key(0), views)
    same = tuple(np.repeat(view[:1], 16, 0) for view in views)
    y, _ = net.apply(params, stats, same, KEY)
    fates = {h.tobytes() for h in np.asarray(y.h).reshape(32, -1).round(5)}
    assert 2 < len(fates) <= 8  # two branches, two pictures


def test_batch_norm_has_the_statistics_of_each_part():
    """Of every fourth image; what runs is the mean over the parts."""
    (view, _) = small_batch(32).views
    net = network(Tiny(), projector(layers=1, out=4), options=BatchOptions(4))
    params, stats = net.init(jax.random.key(0), [view])
    y, new = net.apply(params, stats, [view], KEY)
    means = []
    for k in range(4):
        whole = network(Tiny(), projector(layers=1, out=4), options=WHOLE_BATCH)
        part, told = whole.apply(params, stats, [view[k::4]], KEY)
        np.testing.assert_allclose(
            y.heads["projector"][:, k::4], part.heads["projector"], atol=1e-5
        )
        means.append(told["encoder"]["bn1"]["mean"])
    np.testing.assert_allclose(
        new["encoder"]["bn1"]["mean"], np.mean(means, 0), atol=1e-6
    )


def test_keys_are_shuffled_among_the_groups_of_their_part():
    """place says by rank who is whose neighbour, in a part as in the batch."""
    (view, _) = small_batch(32).views
    place = np.random.default_rng(0).permutation(32)
    net = network(Tiny(4), projector(layers=1, out=4), options=BatchOptions(2))
    params, stats = net.init(jax.random.key(0), [view])
    y, _ = net.apply(params, stats, [view], KEY, place)
    for k in range(2):
        order = np.argsort(place[k::2])
        whole = network(Tiny(4), projector(layers=1, out=4), options=WHOLE_BATCH)
        part, _ = whole.apply(params, stats, [view[k::2][order]], KEY)
        np.testing.assert_allclose(y.h[0, k::2][order], part.h[0], atol=1e-5)


class Deep(nn.Module):
    """Many activations a picture."""

    width: int = 16

    @nn.compact
    def __call__(self, x, train: bool, rows: Rows = WHOLE):
        x = x / 255
        for _ in range(6):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return x.mean((1, 2))


def compiled(k, batch, devices=1) -> Any:
    mesh = make_mesh(jax.devices()[:devices])
    method = METHODS["simclr"](Deep(), BatchOptions(k), **METHOD_WIDTHS["simclr"])
    state = method.init(jax.random.key(0), batch.views)
    place = by_batch(mesh)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), batch
    )
    with jax.set_mesh(mesh):
        gradient = jax.grad(lambda p, b: method.loss(p, state.for_loss(), b, KEY)[0])
        return jax.jit(gradient).lower(state.params, shapes).compile()


def test_a_kth_of_the_activations():
    """On the compiled plan, beside the pictures themselves and z."""
    batch = small_batch(256, side=16)
    temporaries = {k: temporary_bytes(compiled(k, batch)) for k in (1, 8)}
    pictures = sum(view.nbytes for view in batch.views)
    assert temporaries[8] < 1.1 * temporaries[1] / 8 + 3 * pictures


def test_no_picture_leaves_its_device():
    text = compiled(4, small_batch(64), devices=8).as_text()
    gathered = re.findall(r"= (\S+) (?:all-gather|all-to-all|collective-permute)", text)
    assert all("u8" not in kind and ",3]" not in kind for kind in gathered), gathered
