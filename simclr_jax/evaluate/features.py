"""Pictures to features, once; the quick protocols then work on the arrays."""

import collections
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.batch import Batch
from simclr_jax.data.prefetch import feed
from simclr_jax.sharding import DATA, by_batch, replicated

AHEAD = 2  # batches in flight: the host decodes the next while devices encode the last


class Features(NamedTuple):
    """What an encoder says about a split, on the host, in the order of `index`."""

    h: np.ndarray  # [N, F] float32, the representation
    z: np.ndarray  # [N, D] float32, the projection
    label: np.ndarray  # [N] int32; [0], empty, where the pictures have no labels
    index: np.ndarray  # [N] int32, places in the split


@functools.partial(jax.jit, static_argnames=("encode", "mesh"))
def embed(encode: Callable, params, stats, batch: Batch, mesh: Mesh) -> dict:
    """h, z and the fields of the batch without its pictures, on every device."""
    y = encode(params, stats, batch.views[0])
    rows = {"index": batch.index, "label": batch.label, "valid": batch.valid}
    rows |= {"h": y.h[0].astype(jnp.float32), "z": y.z[0].astype(jnp.float32)}
    # said twice: computed where the images are, and only then sent to everybody
    rows = jax.lax.with_sharding_constraint(rows, by_batch(mesh))
    return jax.lax.with_sharding_constraint(rows, replicated(mesh))


def extract(encode: Callable, params, stats, batches: Iterable, mesh: Mesh) -> Features:
    """Walks a split once; every process gets the features of all of it.

    Compiles once for an `encode` and a batch shape, also over several calls.

    Args:
      encode: `Network.encode`, (params, stats, uint8 [N, H, W, 3]) -> Outputs with
        h [1, N, F] and z [1, N, D], in evaluation mode.
      params, stats: of the branch to judge.
      batches: this process's rows, all batches of one shape, with one view, uint8
        [n, H, W, 3], index, valid and perhaps label. Rows that are not valid fill up
        the last batch; they are left out.
      mesh: the rows of all processes together must divide by its size.

    Raises:
      ValueError: if there is no picture at all.
    """
    params, stats = jax.device_put((params, stats), replicated(mesh))
    flying, landed = collections.deque(), []
    for batch in feed(batches, mesh):
        flying.append(embed(encode, params, stats, batch, mesh))
        if len(flying) > AHEAD:
            landed.append(_fetch(flying.popleft()))
    landed += map(_fetch, flying)
    if not sum(len(rows["index"]) for rows in landed):
        raise ValueError("The split has no pictures, so there are no features of it.")
    order = np.argsort(np.concatenate([rows["index"] for rows in landed]))
    labels = landed[0]["label"] is not None
    label = _column(landed, "label", order) if labels else np.empty(0)
    h, z, index = (_column(landed, name, order) for name in ("h", "z", "index"))
    return Features(h, z, label.astype(np.int32), index)


def _column(landed: list[dict], name: str, order) -> np.ndarray:
    """Rows of all batches in that order; frees the parts, which may be many GB."""
    return np.concatenate([rows.pop(name) for rows in landed])[order]


def _fetch(rows: dict) -> dict:
    """Device rows -> host rows, without those that only fill up the batch."""
    rows = jax.device_get(rows)
    valid = rows.pop("valid")
    return jax.tree.map(lambda x: x[valid], rows)


def in_blocks(x: np.ndarray, rows: int, mesh: Mesh, fill=0) -> jax.Array:
    """Host rows [N, ...] -> [K, rows, ...], each block split over the mesh by rows.

    For walking a long array with `jax.lax.scan` or `map`, one block at a time.

    Args:
      x: the same on every process.
      rows: asked for; cut to N and then rounded up to a multiple of the mesh's size.
      fill: stands in the last block's surplus rows. With label -1 it marks them.
    """
    rows = -(-min(rows, len(x)) // mesh.size) * mesh.size
    count = -(-len(x) // rows)
    full = np.full((count * rows, *x.shape[1:]), fill, x.dtype)
    full[: len(x)] = x
    full = full.reshape(count, rows, *x.shape[1:])
    sharding = NamedSharding(mesh, P(None, DATA))
    return jax.make_array_from_callback(full.shape, sharding, lambda part: full[part])


def check(train, train_label, test, test_label, classes: int) -> None:
    """What the quick protocols ask of their arrays.

    Raises:
      ValueError: as `check_split`, and for features of unlike widths.
    """
    check_split("train", train, train_label, classes)
    check_split("test", test, test_label, classes)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"Train features have width {train.shape[1]} and test features width "
            f"{test.shape[1]}; both must come from the same encoder and feature."
        )


def check_split(name: str, x, label, classes: int) -> None:
    """What every protocol asks of features and labels.

    Raises:
      ValueError: for missing labels, labels outside [0, classes), and arrays other
        than [N, F] and [N].
      FloatingPointError: for features that are not finite.
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
            "Judge an earlier checkpoint, or train with a lower rate."
        )
