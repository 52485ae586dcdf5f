"""Encoder f, projector g and, for an online branch, predictor q, as one network."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.norm import telling

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
    module = Siamese(encoder, projector, predictor)

    def init(rng, views):
        # One blank picture will do: only its shape and type count.
        x = jnp.zeros((1, *views[0].shape[1:]), views[0].dtype)
        variables = module.init(rng, x, train=False)
        return variables["params"], variables.get("batch_stats", {})

    @jax.jit  # so that views of one size are traced once
    def forward(params, stats, x, rng, shuffle):
        with telling(place=shuffle):
            y, new = module.apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={} if rng is None else {"dropout": rng},
            )
        return y, dict(new).get("batch_stats", {})

    def apply(params, stats, views, rng=None, shuffle=None):
        said: dict[int, Outputs] = {}  # by view
        for i, (which, x) in enumerate(_passes(views, joint)):
            key = None if rng is None else _fold(rng, DROPOUT, i)
            y, stats = forward(params, stats, x, key, shuffle)
            said |= {v: _view(y, len(which), k) for k, v in enumerate(which)}
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


def _passes(
    views: Sequence[jax.Array], joint: bool
) -> Iterator[tuple[list[int], jax.Array]]:
    """Yields (which views, their images as one batch), one item per forward pass."""
    if not joint:
        yield from (([v], x) for v, x in enumerate(views))
        return
    for shape in dict.fromkeys(x.shape for x in views):
        which = [v for v, x in enumerate(views) if x.shape == shape]
        # Image by image, so that each device keeps its own rows: a concatenation along
        # the sharded batch axis would send images from device to device.
        x = jnp.stack([views[v] for v in which], axis=1)
        yield which, x.reshape(-1, *shape[1:])


def _view(outputs: Outputs, views: int, k: int) -> Outputs:
    """The k-th of the views that one pass held: leaves [N * views, D] -> [N, D]."""
    return jax.tree.map(lambda y: y.reshape(-1, views, y.shape[-1])[:, k], outputs)
