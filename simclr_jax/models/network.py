"""Encoder f, projector g and, for an online branch, predictor q, as one network."""

import contextlib
import contextvars
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.norm import MOMENTUM, BatchNorm
from simclr_jax.models.transformer import Block
from simclr_jax.sharding import split_rows

DROPOUT = zlib.crc32(b"dropout")  # the stream of random numbers inside the layers


class Outputs(NamedTuple):
    """What a network says of V views of N images; all float32."""

    h: Any  # [V, N, F] representation: kept after pretraining
    z: Any  # [V, N, D] projection: where the losses live
    p: Any = None  # [V, N, D] prediction: online branches only


class Network(NamedTuple):
    """A network as pure functions; this is all the methods ever see of Flax.

    Views are [N, H, W, 3], uint8 or float in [0, 1]; their sizes may differ.
    """

    init: Callable  # (rng, views) -> params, stats
    # (params, stats, views, rng=None, shuffle=None) -> Outputs, stats; training.
    # Without rng nothing is dropped; shuffle [N] is BatchNorm's `place`.
    apply: Callable
    encode: Callable  # (params, stats, images) -> Outputs of V = 1; evaluation


class Siamese(nn.Module):
    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None

    def __call__(self, x, train: bool) -> Outputs:
        h = self.encoder(x, train)
        z = self.projector(h, train)
        return Outputs(h, z, self.predictor(z, train) if self.predictor else None)


class Manner(NamedTuple):
    """How a network goes through a training batch."""

    microbatches: int = 1
    momentum: float = MOMENTUM


_manner: contextvars.ContextVar = contextvars.ContextVar("manner", default=None)


@contextlib.contextmanager
def manner(microbatches: int, momentum: float = MOMENTUM):
    """How the networks built inside go through a training batch.

    Args:
      microbatches: K, in so many parts, one after the other. The losses see all of z at
        once, as ever: their gradient is that of the whole batch. Only one part's
        activations are there at a time; backward they are made anew, for a third more
        arithmetic. Batch norm has statistics of each part; groups keep their size, and
        the running statistics are the means over the parts.
      momentum: how much of batch norm's running statistics stays at a pass.
    """
    token = _manner.set(Manner(microbatches, momentum))
    try:
        yield
    finally:
        _manner.reset(token)


def network(
    encoder: nn.Module,
    projector: nn.Module,
    predictor: nn.Module | None = None,
    *,
    joint: bool = False,
) -> Network:
    """Binds modules, each (x, train) -> y, into a Network.

    joint: all views of one size run as a single batch, so that batch norm sees them
      together (SimCLR); otherwise view by view (BYOL, MoCo, SimSiam).
    """
    module, how = Siamese(encoder, projector, predictor), _manner.get() or Manner()

    def init(rng, views):
        # One blank picture will do: only its shape and type count.
        x = jnp.zeros((1, *views[0].shape[1:]), views[0].dtype)
        variables = module.init(rng, x, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def forward(params, stats, rng, part):
        with (
            _telling(BatchNorm, place=part.place, momentum=how.momentum),
            _telling(Block, rows=part.rows.ravel()),
        ):
            y, new = module.apply(
                {"params": params, "batch_stats": stats},
                _flat(part.x),
                train=True,
                mutable=["batch_stats"],
                rngs={} if rng is None else {"dropout": rng},
            )
        y = jax.tree.map(lambda leaf: leaf.reshape(*part.rows.shape, -1), y)
        return y, dict(new).get("batch_stats", {})

    @jax.jit  # so that views of one size are traced once
    def whole(params, stats, rng, x, place):
        rows = jnp.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])
        batch = _Part(x, rows, place)
        if how.microbatches == 1:
            return forward(params, stats, rng, batch)

        @partial(jax.checkpoint, prevent_cse=False)
        def one(_, part):
            part = part._replace(place=jax.tree.map(_ranks, part.place))
            return None, forward(params, stats, rng, part)

        parts = jax.tree.map(lambda x: _split(x, how.microbatches), batch)
        _, (y, new) = jax.lax.scan(one, None, parts)
        return jax.tree.map(_joined, y), jax.tree.map(lambda s: s.mean(0), new)

    def apply(params, stats, views, rng=None, shuffle=None):
        said: dict[int, Outputs] = {}  # by view
        for i, (which, x) in enumerate(_passes(views, joint)):
            key = None if rng is None else _fold(rng, DROPOUT, i)
            y, stats = whole(params, stats, key, x, shuffle)
            said |= {v: _view(y, k) for k, v in enumerate(which)}
        outputs = [said[v] for v in range(len(views))]
        return jax.tree.map(lambda *y: jnp.stack(y), *outputs), stats

    def encode(params, stats, images):
        variables = {"params": params, "batch_stats": stats}
        y = module.apply(variables, images, train=False)
        return jax.tree.map(lambda leaf: leaf[None], y)

    return Network(init, apply, encode)


def _fold(rng, *numbers):
    for number in numbers:
        rng = jax.random.fold_in(rng, number)
    return rng


class _Part(NamedTuple):
    """W views each of some images of a batch: all, or a microbatch."""

    x: Any  # [N, W, H, W, 3]
    rows: Any  # int [N, W], which each is of all
    place: Any  # int [N] or None, see BatchNorm


def _telling(layer: type[nn.Module], **words):
    """Inside, every layer of this type is called with these words, too."""

    def tell(call, args, kwargs, context):
        if isinstance(context.module, layer) and context.method_name == "__call__":
            kwargs |= words
        return call(*args, **kwargs)

    return nn.intercept_methods(tell)


def _passes(
    views: Sequence[jax.Array], joint: bool
) -> Iterator[tuple[list[int], jax.Array]]:
    """Yields (which W views, [N, W, H, W, 3] of them), one item per forward pass."""
    if not joint:
        yield from (([v], x[:, None]) for v, x in enumerate(views))
        return
    for shape in dict.fromkeys(x.shape for x in views):
        which = [v for v, x in enumerate(views) if x.shape == shape]
        # Image by image, so that each device keeps its own rows: a concatenation along
        # the sharded batch axis would send images from device to device.
        yield which, jnp.stack([views[v] for v in which], axis=1)


def _view(outputs: Outputs, k: int) -> Outputs:
    """The k-th of the views that one pass held: leaves [N, W, D] -> [N, D]."""
    return jax.tree.map(lambda y: y[:, k], outputs)


def _flat(x):
    """[N, W, ...] -> [N * W, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _split(x, k: int):
    """[N, ...] -> [K, N / K, ...]; every K-th row, as then none leaves its device."""
    return split_rows(jnp.moveaxis(x.reshape(-1, k, *x.shape[1:]), 1, 0))


def _ranks(place):
    """A permutation that leaves some numbers in the order of these."""
    return jnp.argsort(jnp.argsort(place))


def _joined(y):
    """And back: [K, N / K, ...] -> [N, ...]."""
    return _flat(jnp.moveaxis(y, 0, 1))
