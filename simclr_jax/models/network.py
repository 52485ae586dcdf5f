"""Encoder f, projector g and, for an online branch, predictor q, as pure functions."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.sharding import split_rows

DROPOUT = zlib.crc32(b"dropout")  # the stream of random numbers inside the layers

Array = jax.Array | np.ndarray
Params = Any  # nested dicts of arrays; their paths are the names in checkpoints
Stats = Any  # nested dicts of batch-norm statistics


class Outputs(NamedTuple):
    """The features of V views of N images by name; all float32."""

    h: jax.Array  # [V, N, F] representation: kept after pretraining
    # [V, N, D] by head: "projector", "predictor", "key"; if requested, also
    # "projector1", "projector2", ...: the outputs of the projector's layers.
    heads: dict[str, jax.Array]
    tokens: dict[int, Any]  # by block, if requested: `vit.Tokens`, [V, N, ...]


class BatchOptions(NamedTuple):
    """How a network runs a training batch.

    The batch runs in `microbatches` parts, one after the other. The loss still gets the
    features of the whole batch at once, so its gradient is that of the whole batch.
    Only one part's activations are in memory at a time; the backward pass computes them
    again, which costs a third more arithmetic. Batch norm uses the statistics of each
    part; groups keep their size, and running statistics are the means over the parts.
    """

    microbatches: int = 1
    momentum_power: float = 1.0  # see `rows.Rows`


WHOLE_BATCH = BatchOptions()


class Init(Protocol):
    def __call__(self, rng: jax.Array, views: Sequence[Any]) -> tuple[Params, Stats]:
        """The initial parameters and statistics.

        Args:
          rng: key.
          views: arrays [N, H, W, 3] or their shapes; only shape and dtype are used.
        """
        ...


class Apply(Protocol):
    def __call__(
        self,
        params: Params,
        stats: Stats,
        views: Sequence[Array],
        rng: jax.Array | None = None,
        shuffle: Array | None = None,
    ) -> tuple[Outputs, Stats]:
        """The training-mode features of V views, and the statistics after them.

        Args:
          views: V of [N, H, W, 3], uint8 or float in [0, 1]; sizes may differ.
          rng: key of dropout and stochastic depth; None: nothing is dropped.
          shuffle: int [N], as in `rows.Rows`.
        """
        ...


class Encode(Protocol):
    def __call__(
        self,
        params: Params,
        stats: Stats,
        images: Array,
        token_blocks: tuple[int, ...] = (),
        head_layers: tuple[int, ...] = (),
    ) -> Outputs:
        """The evaluation-mode features of images [N, H, W, 3], with V = 1.

        Args:
          token_blocks: of a ViT, the blocks whose tokens are returned.
          head_layers: layers of the projector, counted from 1, that are returned.
        """
        ...


class Network(NamedTuple):
    """A network as pure functions; methods see nothing else of Flax."""

    init: Init
    apply: Apply
    encode: Encode
    width: int  # F, of h
    head_layers: int = 0  # the layers of the projector; 0 if it gives only its output
    blocks: int = 0  # the blocks of a transformer; 0: the encoder has no tokens
    # k -> the network with only the first k layers of its projector, for fine-tuning,
    # -1: with all of them; its arrays are among this one's.
    shortened: Callable[[int], "Network"] | None = None


class EncoderWithHeads(nn.Module):
    """An encoder, projector and predictor, each (x, train, rows) -> y.

    upto: the layers of the projector; -1: all.
    """

    encoder: nn.Module
    projector: nn.Module | None = None
    predictor: nn.Module | None = None
    upto: int = -1

    def __call__(
        self,
        x: jax.Array,
        train: bool,
        rows: Rows = WHOLE,
        token_blocks: tuple[int, ...] = (),
        head_layers: tuple[int, ...] = (),
    ) -> Outputs:
        tokens = {}
        if token_blocks:
            h, tokens = self.encoder(x, train, rows, token_blocks)
        else:
            h = self.encoder(x, train, rows)
        heads = {}
        if self.projector:
            limit = {} if self.upto == -1 else {"upto": self.upto}
            heads["projector"] = self.projector(h, train, rows, **limit)
            for i in head_layers:  # the compiler computes what they share once
                heads[f"projector{i}"] = self.projector(h, train, rows, upto=i)
        if self.predictor:
            heads["predictor"] = self.predictor(heads["projector"], train, rows)
        return Outputs(h, heads, tokens)


def network(
    encoder: Any,
    projector: nn.Module,
    predictor: nn.Module | None = None,
    *,
    options: BatchOptions,
    joint: bool = False,
) -> Network:
    """Binds modules into a Network.

    Args:
      encoder: a Flax module with `width`, F, and (x, train, rows) -> h [n, F]; a
        transformer also has `blocks`, their number, and the argument `token_blocks`.
      projector: a Flax module, (h, train, rows) -> z [n, D]; one with the number
        `layer_count` also has the argument `upto`.
      predictor: a Flax module, (z, train, rows) -> p [n, D].
      options: how a training batch is run.
      joint: whether all views of one size run as a single batch, so that they share
        batch-norm statistics (SimCLR), or view by view (BYOL, MoCo, SimSiam).
    """

    def shortened(layers):
        head = projector if layers else None
        module = EncoderWithHeads(encoder, head, upto=layers)
        return _bound(module, WHOLE_BATCH, joint)

    module = EncoderWithHeads(encoder, projector, predictor)
    return _bound(module, options, joint)._replace(
        head_layers=getattr(projector, "layer_count", 0), shortened=shortened
    )


def _bound(module: EncoderWithHeads, options: BatchOptions, joint: bool) -> Network:
    def init(rng, views):
        # One blank picture is enough: only its shape and type matter.
        x = jnp.zeros((1, *views[0].shape[1:]), views[0].dtype)
        variables = module.init(rng, x, train=False)
        return variables["params"], variables.get("batch_stats", {})

    @jax.jit  # so that views of one size are traced once
    def run(params, stats, rng, x, shuffle):
        return _in_parts(module, options, params, stats, rng, x, shuffle)

    def apply(params, stats, views, rng=None, shuffle=None):
        by_view: dict[int, Outputs] = {}
        for i, (numbers, x) in enumerate(_passes(views, joint)):
            key = None if rng is None else _fold_in(rng, DROPOUT, i)
            y, stats = run(params, stats, key, x, shuffle)
            by_view |= {v: _view(y, k) for k, v in enumerate(numbers)}
        outputs = [by_view[v] for v in range(len(views))]
        return jax.tree.map(lambda *y: jnp.stack(y), *outputs), stats

    def encode(params, stats, images, token_blocks=(), head_layers=()):
        y = module.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=False,
            token_blocks=token_blocks,
            head_layers=head_layers,
        )
        return jax.tree.map(lambda leaf: leaf[None], y)

    blocks = getattr(module.encoder, "blocks", 0)
    return Network(init, apply, encode, module.encoder.width, blocks=blocks)


class _Part(NamedTuple):
    """W views of each of the n images of a batch or of a microbatch."""

    x: Any  # [n, W, H, W, 3]
    rows: Any  # int [n, W], their row numbers in the whole batch
    shuffle: Any  # int [n] or None, see `rows.Rows`


def _in_parts(module, options: BatchOptions, params, stats, rng, x, shuffle):
    """Runs a batch, or one microbatch after the other.

    Args:
      x: [N, W, H, W, 3].

    Returns:
      Outputs with leaves [N, W, ...], and the new statistics.
    """
    rows = jnp.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])
    batch = _Part(x, rows, shuffle)
    if options.microbatches == 1:
        return _forward(module, options, params, stats, rng, batch)

    @partial(jax.checkpoint, prevent_cse=False)
    def one(_, part):
        part = part._replace(shuffle=jax.tree.map(_ranks, part.shuffle))
        return None, _forward(module, options, params, stats, rng, part)

    parts = jax.tree.map(lambda x: _split(x, options.microbatches), batch)
    _, (y, new) = jax.lax.scan(one, None, parts)
    return jax.tree.map(_join, y), jax.tree.map(lambda s: s.mean(0), new)


def _forward(module, options: BatchOptions, params, stats, rng, part: _Part):
    rows = Rows(part.rows.ravel(), part.shuffle, options.momentum_power)
    y, new = module.apply(
        {"params": params, "batch_stats": stats},
        _flatten(part.x),
        train=True,
        rows=rows,
        mutable=["batch_stats"],
        rngs={} if rng is None else {"dropout": rng},
    )
    shape = part.rows.shape
    y = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), y)
    return y, dict(new).get("batch_stats", {})


def _fold_in(rng, *numbers):
    for number in numbers:
        rng = jax.random.fold_in(rng, number)
    return rng


def _passes(views: Sequence[Array], joint: bool) -> Iterator[tuple[list[int], Array]]:
    """Yields (numbers of W views, [N, W, H, W, 3] of them), one per forward pass."""
    if not joint:
        yield from (([v], x[:, None]) for v, x in enumerate(views))
        return
    for shape in dict.fromkeys(x.shape for x in views):
        numbers = [v for v, x in enumerate(views) if x.shape == shape]
        # Image by image, so that each device keeps its own rows: a concatenation along
        # the sharded batch axis would send images from device to device.
        yield numbers, jnp.stack([views[v] for v in numbers], axis=1)


def _view(outputs: Outputs, k: int) -> Outputs:
    """The k-th of the views of one pass: leaves [N, W, ...] -> [N, ...]."""
    return jax.tree.map(lambda y: y[:, k], outputs)


def _flatten(x):
    """[N, W, ...] -> [N * W, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _split(x, k: int):
    """[N, ...] -> [K, N / K, ...]; every K-th row: rows stay on their devices."""
    return split_rows(jnp.moveaxis(x.reshape(-1, k, *x.shape[1:]), 1, 0))


def _join(y):
    """The inverse of `_split`: [K, N / K, ...] -> [N, ...]."""
    return _flatten(jnp.moveaxis(y, 0, 1))


def _ranks(shuffle):
    """Distinct numbers -> the permutation with the same order."""
    return jnp.argsort(jnp.argsort(shuffle))
