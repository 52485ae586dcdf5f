"""Contrastive losses on Euclidean distances, for embeddings of two dimensions."""

import jax
import jax.numpy as jnp

from simclr_jax.losses import blockwise
from simclr_jax.losses.block_size import block_on_mesh, pairs_matrix
from simclr_jax.sharding import all_gather


def cauchy(z: jax.Array, *, block: int = 0) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Contrastive loss with a Cauchy similarity, t-SimCNE (arXiv:2210.09879), sec. 3.

    NT-Xent over the global batch, with the kernel of t-SNE, s(a, b) = 1 / (1 +
    |a - b|^2), instead of exp(cos / tau): the mean over the 2N points of -log(s of the
    positive / sum of s over the other 2N - 1 points). z is not normalised.

    Args:
      z: [2, N, D] embeddings; z[0, i] and z[1, i] are two views of image i. Any float
        dtype; computed in at least float32.
      block: the number of images that are compared with all points at a time; 0: chosen
        by `block_size`.

    Returns:
      loss: [] attraction + repulsion, the mean over the 2N points.
      metrics: attraction [], the mean of log(1 + d^2) of the positives; repulsion [],
        the mean log of the summed similarities to all others; contrast_accuracy [], the
        share of images in view 0 whose positive is the nearest of the N in view 1.

    Raises:
      ValueError: if z is not [2, N, D].
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"cauchy needs z of shape [2, N, D], got {z.shape}.")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    block = block_on_mesh(pairs_matrix(z.shape[1], block))
    repulsion = blockwise.mean_log_sum_of_others(z, log_cauchy, block, 0.0)
    attraction = jnp.mean(jnp.log1p(jnp.sum((z[0] - z[1]) ** 2, -1)))
    correct, _ = blockwise.retrieve(z[:1], all_gather(z), log_cauchy, block)
    metrics = {
        "contrast_accuracy": jnp.mean(correct, dtype=z.dtype),
        "attraction": attraction,
        "repulsion": repulsion,
    }
    return attraction + repulsion, metrics


def log_cauchy(a: jax.Array, b: jax.Array) -> jax.Array:
    """log 1 / (1 + |a - b|^2) of all pairs, see `squared_distances`."""
    return -jnp.log1p(squared_distances(a, b))


def squared_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """|a - b|^2 of all pairs, accurate also far from the origin.

    t-SimCNE's coordinates grow to hundreds while neighbours are less than 1 apart, so
    |a|^2 - 2 ab + |b|^2 would suffer from cancellation. So the differences are
    squared, one coordinate at a time, and computed again for the gradient: an array
    [2, N, 2, M, D], 2 GB for 1024 images in 128 dimensions, is never in memory.

    Args:
      a: [V, N, D] float.
      b: [W, M, D] of the same dtype.

    Returns:
      [V, N, W, M].
    """

    @jax.checkpoint
    def add(total, coordinate):
        x, y = coordinate  # [V, N] and [W, M]
        return total + (x[:, :, None, None] - y[None, None]) ** 2, None

    zeros = jnp.zeros(a.shape[:2] + b.shape[:2], a.dtype)
    coordinates = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
    # Unrolled: fewer passes over the sum, fewer sums of b's gradient over devices.
    return jax.lax.scan(add, zeros, coordinates, unroll=16)[0]
