"""Weighted nearest neighbours, the judge that learns nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from simclr_jax.evaluate.features import check, in_blocks
from simclr_jax.losses.geometry import normalize
from simclr_jax.sharding import DATA

QUERIES, BANK = 1024, 8192  # queries a device by rows of the bank, at a time


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
) -> dict:
    """Top-1 accuracy of the vote of the k most similar training pictures.

    As in Wu et al. (arXiv:1805.01978, section 3.4) and DINO: similarity s is the
    cosine, a neighbour's vote weighs exp(s / temperature). Of equally similar
    neighbours the one earlier in `train` counts as nearer; of classes with equal votes
    the lower one wins.

    The queries live on the mesh, split by rows; the bank passes by once in blocks, so
    it may be larger than the devices' memory.

    Args:
      train: [N, F] the bank; train_label: [N] integers in [0, classes).
      test: [M, F] the queries; test_label: [M].
      mesh: of any size.
      k: neighbours that vote; a bank of fewer pictures votes as a whole.
      temperature: of the votes' weights; the smaller, the more the nearest decide.

    Returns:
      {"accuracy": in [0, 1], "count": M}.

    Raises:
      ValueError: for k or temperature not above 0, and as `features.check`.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(
            f"kNN needs k >= 1 and temperature > 0, got k={k}, temperature="
            f"{temperature}. The usual values are 200 and 0.1."
        )
    check(train, train_label, test, test_label, classes)
    rows = QUERIES * mesh.size
    queries = in_blocks(test, rows, mesh)
    label = in_blocks(test_label, rows, mesh, fill=-1)
    far = np.full((len(test), min(k, len(train))), -np.inf, np.float32)
    nobody = np.full(far.shape, -1, np.int32)
    near = in_blocks(far, rows, mesh), in_blocks(nobody, rows, mesh)
    for start in range(0, len(train), BANK):
        part = slice(start, start + BANK)
        bank = in_blocks(train[part], BANK, mesh)[0]
        bank_label = in_blocks(train_label[part], BANK, mesh, fill=-1)[0]
        near = _nearer(*near, queries, bank, bank_label, mesh)
    right = _right(*near, label, classes, temperature)
    return {"accuracy": int(right) / len(test), "count": len(test)}


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def _nearer(sim, label, queries, bank, bank_label, mesh: Mesh):
    """The neighbours so far and one more block of the bank -> the nearest of both.

    Args:
      sim, label: [K, Q, k] similarities, falling, and labels of the neighbours.
      queries: [K, Q, F].
      bank, bank_label: [B, F] and [B]; label -1 marks what only fills up the block.
    """

    # Each device looks up its own queries. The partitioner cannot split a top-k: left
    # to itself it would gather all similarities on every device.
    rows, whole = P(None, DATA), P()
    specs = (rows, rows, rows, whole, whole)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=rows)
    def nearer(sim, label, queries, bank, bank_label):
        bank = normalize(bank)

        def merge(block):
            sim, label, x = block
            new = jnp.einsum("qf,bf->qb", normalize(x), bank, precision="highest")
            new = jnp.where(bank_label >= 0, new, -jnp.inf)
            both = jnp.concatenate((label, jnp.broadcast_to(bank_label, new.shape)), 1)
            sim, at = jax.lax.top_k(jnp.concatenate((sim, new), 1), sim.shape[1])
            return sim, jnp.take_along_axis(both, at, 1)

        return jax.lax.map(merge, (sim, label, queries))

    return nearer(sim, label, queries, bank, bank_label)


@functools.partial(jax.jit, static_argnames="classes")
def _right(sim, label, truth, classes: int, temperature: float):
    """How many of the queries, truth [K, Q], their neighbours [K, Q, k] vote for."""

    def count(block):
        sim, label, truth = block
        weight = jnp.exp((sim - sim[:, :1]) / temperature)  # the nearest weighs 1
        mine = label[:, :, None] == jnp.arange(classes)
        votes = jnp.sum(jnp.where(mine, weight[:, :, None], 0), 1)
        return jnp.sum(jnp.argmax(votes, -1) == truth)  # never -1, the filling

    return jnp.sum(jax.lax.map(count, (sim, label, truth)))
