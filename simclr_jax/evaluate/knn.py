"""Accuracy of nearest neighbours; nothing is trained."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from simclr_jax.evaluate.features import check, from_blocks, in_blocks
from simclr_jax.evaluate.scores import TOP, classification
from simclr_jax.losses.geometry import normalize
from simclr_jax.sharding import DATA

QUERIES, BANK = 1024, 8192  # rows of a block: of queries on a device, of the bank


def knn(
    train: np.ndarray,
    train_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    classes: int,
    mesh: Mesh,
    *,
    k: int = 200,
    temperature: float = 0.1,
    weighted: bool = True,
) -> dict[str, Any]:
    """Accuracy of the vote of the k most similar training pictures.

    As in Wu et al. (arXiv:1805.01978, section 3.4) and DINO: similarity s is the
    cosine, a neighbour's vote weighs exp(s / temperature), or 1 in a plain vote. Of
    equally similar neighbours the one earlier in `train` counts as nearer; of classes
    with equal votes the lower one wins.

    The queries are on the mesh, split by rows; the bank is sent in blocks, once, so it
    may be larger than the devices' memory.

    Args:
      train: [N, F], the bank; train_label: [N] integers in [0, classes).
      test: [M, F], the queries; test_label: [M].
      mesh: of any size.
      k: the number of neighbours that vote; fewer if the bank is small, see `votes`.
      temperature: of the votes' weights.
      weighted: whether nearer neighbours weigh more.

    Returns:
      as `scores.classification`, and "k", the number of neighbours that voted.

    Raises:
      ValueError: k or temperature not above 0, and as `features.check`.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(
            f"kNN needs k >= 1 and temperature > 0, got k={k}, temperature="
            f"{temperature}. The usual values are 200 and 0.1."
        )
    check(train, train_label, test, test_label, classes)
    rows = QUERIES * mesh.size
    queries = in_blocks(test, rows, mesh)
    k = votes(k, len(train), classes)
    shape = len(test), k
    similarities = in_blocks(np.full(shape, -np.inf, np.float32), rows, mesh)
    labels = in_blocks(np.full(shape, -1, np.int32), rows, mesh)
    neighbours = similarities, labels
    for begin in range(0, len(train), BANK):
        part = slice(begin, begin + BANK)
        bank = in_blocks(train[part], BANK, mesh)[0]
        bank_label = in_blocks(train_label[part], BANK, mesh, fill=-1)[0]
        neighbours = merge_nearest(*neighbours, queries, bank, bank_label, mesh)
    ranked = _ranked(*neighbours, classes, temperature if weighted else np.inf)
    ranked = from_blocks(ranked, len(test), mesh)
    return classification(ranked, test_label, classes) | {"k": k}


def votes(k: int, bank: int, classes: int) -> int:
    """The number of neighbours that vote: k, or the mean size of a class if smaller.

    With more, most votes would come from other classes even if the nearest neighbours
    of every picture were all those of its class.

    Args:
      k: as asked for.
      bank: N, its pictures.
      classes: C.
    """
    return max(1, min(k, bank // classes))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def merge_nearest(
    sim: jax.Array,
    label: jax.Array,
    queries: jax.Array,
    bank: jax.Array,
    bank_label: jax.Array,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
    """Updates the k nearest neighbours with one more block of the bank.

    Args:
      sim, label: [K, Q, k] similarities, decreasing, and labels of the neighbours.
      queries: [K, Q, F].
      bank, bank_label: [B, F] and [B]; rows with label -1 fill up the block.
    """

    # Each device searches for its own queries only. The compiler's partitioner cannot
    # split a top-k: it would gather all similarities on every device.
    rows, replicated = P(None, DATA), P()
    specs = (rows, rows, rows, replicated, replicated)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=rows)
    def nearest(sim, label, queries, bank, bank_label):
        bank = normalize(bank)

        def merge(block):
            sim, label, x = block
            new = jnp.einsum("qf,bf->qb", normalize(x), bank, precision="highest")
            new = jnp.where(bank_label >= 0, new, -jnp.inf)
            labels = jnp.concatenate(
                (label, jnp.broadcast_to(bank_label, new.shape)), 1
            )
            sim, order = jax.lax.top_k(jnp.concatenate((sim, new), 1), sim.shape[1])
            return sim, jnp.take_along_axis(labels, order, 1)

        return jax.lax.map(merge, (sim, label, queries))

    return nearest(sim, label, queries, bank, bank_label)


@functools.partial(jax.jit, static_argnames="classes")
def _ranked(sim, label, classes: int, temperature: float):
    """The classes with most votes of the neighbours [K, Q, k]: [K, Q, at most TOP]."""

    def rank(block):
        sim, label = block
        weight = jnp.exp((sim - sim[:, :1]) / temperature)  # the nearest weighs 1
        of_class = label[:, :, None] == jnp.arange(classes)
        votes = jnp.sum(jnp.where(of_class, weight[:, :, None], 0), 1)
        return jax.lax.top_k(votes, min(TOP, classes))[1]

    return jax.lax.map(rank, (sim, label))
