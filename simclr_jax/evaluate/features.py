"""Features of all pictures of a split, as arrays for the quick protocols."""

import collections
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.batch import Batch
from simclr_jax.data.prefetch import feed
from simclr_jax.models import cpu
from simclr_jax.sharding import DATA, by_batch, replicated

AHEAD = 2  # batches in flight: the host decodes the next while devices encode the last


class FrozenEncoder(NamedTuple):
    """The network to evaluate, with its weights; it runs in evaluation mode."""

    encode: Callable[..., Any]  # (params, stats, uint8 [N, H, W, 3]) -> Outputs
    features: Callable[[Any], dict[str, jax.Array]]  # Outputs -> {name: [1, N, D]}
    params: Any
    stats: Any

    def on(self, mesh: Mesh) -> "FrozenEncoder":
        """The encoder with its weights on every device."""
        params, stats = jax.device_put((self.params, self.stats), replicated(mesh))
        return self._replace(params=params, stats=stats)


class Features(NamedTuple):
    """The features of a split, on the host, in the order of `index`."""

    values: dict[str, np.ndarray]  # float32 [N, D] by name, such as "h" and "z"
    label: np.ndarray  # int32 [N]; [0], empty, for pictures without labels
    index: np.ndarray  # int32 [N], positions in the split


@functools.cache
def embedder(mesh: Mesh) -> Any:
    """A compiled function: features, index, label and valid of a batch.

    Returns:
      (encode, features, params, stats, batch) -> rows, on every device of the mesh. The
      first four are those of `FrozenEncoder`; the batch has one view, and is split by
      rows over the mesh.
    """

    def embed(encode, features, params, stats, batch):
        outputs = features(encode(params, stats, batch.views[0]))
        values = {name: x[0].astype(jnp.float32) for name, x in outputs.items()}
        rows = {"index": batch.index, "label": batch.label, "valid": batch.valid}
        rows |= {"values": values}
        # Two constraints: computed on the devices that have the images, then sent to
        # all.
        rows = jax.lax.with_sharding_constraint(rows, by_batch(mesh))
        return jax.lax.with_sharding_constraint(rows, replicated(mesh))

    return jax.jit(
        embed,
        static_argnames=("encode", "features"),
        compiler_options=cpu.compiler_options(mesh),
    )


def extract(encoder: FrozenEncoder, batches: Iterable[Batch], mesh: Mesh) -> Features:
    """The features of all pictures of a split, on every process.

    Compiles once for an encoder and a batch shape, even over several calls.

    Args:
      encoder: to evaluate.
      batches: this process's rows, all batches of one shape, with one view, uint8
        [n, H, W, 3], index, valid and optionally label. Rows that are not valid are
        left out.
      mesh: its size must divide the rows of all processes together.

    Raises:
      ValueError: there are no pictures.
    """
    encode, features, params, stats = encoder.on(mesh)
    embed, pending, finished = embedder(mesh), collections.deque(), []
    for batch in feed(batches, mesh):
        pending.append(embed(encode, features, params, stats, batch))
        if len(pending) > AHEAD:
            finished.append(_fetch(pending.popleft()))
    finished += map(_fetch, pending)
    if not sum(len(rows["index"]) for rows in finished):
        raise ValueError("The split has no pictures, so there are no features of it.")
    order = np.argsort(np.concatenate([rows["index"] for rows in finished]))
    names = list(finished[0]["values"])
    values = {
        name: _column([rows["values"] for rows in finished], name, order)
        for name in names
    }
    labels = finished[0]["label"] is not None
    label = _column(finished, "label", order) if labels else np.empty(0)
    return Features(values, label.astype(np.int32), _column(finished, "index", order))


def _column(parts: list[dict[str, Any]], name: str, order: np.ndarray) -> np.ndarray:
    """Rows of all batches in this order; frees those of `parts`, often many GB."""
    return np.concatenate([rows.pop(name) for rows in parts])[order]


def _fetch(rows: dict[str, Any]) -> dict[str, Any]:
    """Device rows -> host rows, only the valid ones."""
    rows = jax.device_get(rows)
    valid = rows.pop("valid")
    return jax.tree.map(lambda x: x[valid], rows)


def in_blocks(x: np.ndarray, rows: int, mesh: Mesh, fill: float = 0) -> jax.Array:
    """Host rows [N, ...] -> [K, rows, ...], each block split over the mesh by rows.

    For `jax.lax.scan` or `map` over a long array, one block at a time.

    Args:
      x: the same on every process.
      rows: of a block; at most N, then rounded up to a multiple of the mesh's size.
      fill: value of the padding rows of the last block; -1 for labels, to mark them.
    """
    rows = -(-min(rows, len(x)) // mesh.size) * mesh.size
    count = -(-len(x) // rows)
    full = np.full((count * rows, *x.shape[1:]), fill, x.dtype)
    full[: len(x)] = x
    full = full.reshape(count, rows, *x.shape[1:])
    sharding = NamedSharding(mesh, P(None, DATA))
    return jax.make_array_from_callback(full.shape, sharding, lambda part: full[part])


def from_blocks(blocks: jax.Array, count: int, mesh: Mesh) -> np.ndarray:
    """The inverse of `in_blocks` on every process: [K, rows, ...] -> host [N, ...].

    Args:
      count: N; the rows after them are padding.
    """
    gathered = jax.device_get(jax.device_put(blocks, replicated(mesh)))
    return gathered.reshape(-1, *blocks.shape[2:])[:count]


def check(
    train: np.ndarray,
    train_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    classes: int,
) -> None:
    """Checks the arrays of the quick protocols.

    Raises:
      ValueError: as `check_split`, and for features of different widths.
    """
    check_split("train", train, train_label, classes)
    check_split("test", test, test_label, classes)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"Train features have width {train.shape[1]} and test features width "
            f"{test.shape[1]}; both must come from the same encoder and feature."
        )


def check_split(name: str, x: np.ndarray, label: np.ndarray, classes: int) -> None:
    """Checks the features and labels of a split.

    Raises:
      ValueError: missing labels, labels outside [0, classes), or arrays other than
        [N, F] and [N].
      FloatingPointError: features that are not finite.
    """
    if not len(label):
        raise ValueError(
            f"The {name} split has no labels; kNN and linear evaluation need them. "
            "Without labels, look at the losses and the embedding picture."
        )
    if x.ndim != 2 or len(x) != len(label):
        raise ValueError(
            f"The {name} split needs features [N, F] and labels [N]; got "
            f"{x.shape} and {label.shape}."
        )
    if label.min() < 0 or label.max() >= classes:
        raise ValueError(
            f"Labels of the {name} split run from {label.min()} to {label.max()}, "
            f"but there are {classes} classes: they must lie in [0, {classes})."
        )
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise FloatingPointError(
            f"The {name} features are not all finite: the encoder has diverged. "
            "Evaluate an earlier checkpoint, or train with a lower rate."
        )
