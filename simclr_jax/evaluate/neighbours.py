"""Nearest pictures and near duplicates by cosine, block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax.evaluate.features import from_blocks, in_blocks
from simclr_jax.evaluate.knn import BANK, QUERIES, merge_nearest
from simclr_jax.losses.geometry import normalize
from simclr_jax.sharding import replicated


def nearest(x: np.ndarray, k: int, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The k other rows with the largest cosine to every row, the nearest first.

    Of equally similar ones the earlier row is nearer. At no time there are more
    similarities than those of a block.

    Args:
      x: [N, F].
      k: at least 1 and less than N.
      mesh: of any size.

    Returns:
      rows int32 [N, k], and their cosines float32 [N, k].

    Raises:
      ValueError: k is not in this range.
    """
    if not 1 <= k < len(x):
        raise ValueError(
            f"{len(x)} pictures have 1 to {len(x) - 1} neighbours each; got {k}."
        )
    block = QUERIES * mesh.size
    queries = in_blocks(x, block, mesh)
    shape = len(x), k + 1  # a row is among its own neighbours
    unset = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32)
    best = tuple(in_blocks(array, block, mesh) for array in unset)
    rows = np.arange(len(x), dtype=np.int32)
    for begin in range(0, len(x), BANK):
        part = slice(begin, begin + BANK)
        bank = in_blocks(x[part], BANK, mesh)[0]
        number = in_blocks(rows[part], BANK, mesh, fill=-1)[0]
        best = merge_nearest(*best, queries, bank, number, mesh)
    return _without_self(*(from_blocks(blocks, len(x), mesh) for blocks in best))


def _without_self(similarity, index):
    """Leaves the row itself out, or, if it has k duplicates before it, the last."""
    itself = index == np.arange(len(index))[:, None]
    itself[:, -1] |= ~itself.any(1)
    shape = len(index), -1
    return index[~itself].reshape(shape), similarity[~itself].reshape(shape)


def duplicate_groups(x: np.ndarray, threshold: float, mesh: Mesh) -> np.ndarray:
    """Groups of near duplicates: connected by pairs with a cosine above a threshold.

    Args:
      x: [N, F].
      threshold: of the cosine, in (0, 1).
      mesh: of any size.

    Returns:
      int32 [N], the number of a row's group; -1 for a row without duplicates. Group 0
      is the largest, of equally large ones that with the earliest row.

    Raises:
      ValueError: the threshold is not in this range.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"A cosine of duplicates is between 0 and 1, got {threshold}.")
    root = np.arange(len(x))
    size = QUERIES * mesh.size
    for begin in range(0, len(x), size):
        queries = in_blocks(x[begin : begin + size], size, mesh)[0]
        for first in range(begin, len(x), BANK):
            bank = in_blocks(x[first : first + BANK], BANK, mesh)[0]
            above = np.asarray(_above(queries, bank, threshold, mesh))
            a, b = np.nonzero(above[: len(x) - begin, : len(x) - first])
            root = merged(root, a + begin, b + first)
    return _numbered(root)


@functools.partial(jax.jit, static_argnames="mesh")
def _above(queries, bank, threshold: float, mesh: Mesh):
    """Whether the cosines of queries [Q, F] and bank [B, F] exceed it, bool [Q, B]."""
    bank = jax.lax.with_sharding_constraint(normalize(bank), replicated(mesh))
    similarity = jnp.einsum("qf,bf->qb", normalize(queries), bank, precision="highest")
    return similarity > threshold


def merged(root: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Connects the pairs (a, b) in a forest whose trees are single roots with leaves.

    Args:
      root: int [N], the smallest row of the component of every row.
      a, b: int [E], rows.

    Returns:
      the same after connecting.
    """
    root = root.copy()
    while True:
        low, high = np.sort((root[a], root[b]), axis=0)
        apart = low != high
        if not apart.any():
            return root
        a, b, low, high = a[apart], b[apart], low[apart], high[apart]
        np.minimum.at(root, high, low)
        while (root != root[root]).any():
            root = root[root]


def _numbered(root):
    """Roots -> numbers of groups by their size; -1 for components of one row."""
    roots, inverse, counts = np.unique(root, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 1]
    number = np.full(len(roots), -1, np.int32)
    number[order] = np.arange(len(order))
    return number[inverse]
