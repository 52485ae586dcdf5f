"""Contrastive losses on Euclidean distances, for embeddings of two dimensions."""

import jax
import jax.numpy as jnp

from simclr_jax.losses import blockwise
from simclr_jax.losses.block_size import block_on_mesh, pairs_matrix
from simclr_jax.sharding import all_gather


def cauchy(z: jax.Array, *, block: int = 0) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Contrastive loss with a Cauchy similarity, t-SimCNE (arXiv:2210.09879), sec. 3.

    s(a, b) = 1 / (1 + |a - b|^2), the kernel of t-SNE, stands where NT-Xent has
    exp(cos / tau): of each of the 2N points it is -log of the positive's share among
    the other 2N - 1, over the global batch. z is not normalised.

    Args:
      z: [2, N, D] embeddings; z[0, i] and z[1, i] are two views of image i. Of any
        float dtype; the arithmetic is in the wider of it and float32.
      block: images whose distances to all points are in memory together; 0 has the
        number chosen (see losses/block_size.py).

    Returns:
      loss: [] mean over the 2N points: attraction + repulsion.
      metrics: attraction [], the mean of log(1 + d^2) of the positives; repulsion [],
        the mean log of the summed similarities to all others; contrast_accuracy [],
        how often the positive is the nearest of the N images of view 1 to view 0.

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
    """|a - b|^2 of all pairs, exact to rounding also far from the origin.

    t-SimCNE's coordinates grow to hundreds while neighbours stay within one, where
    |a|^2 - 2 ab + |b|^2 cancels; so the differences themselves are squared, coordinate
    by coordinate and again for the gradient: a [2, N, 2, M, D], 2 GB for 1024 images in
    128 dimensions, is never in memory.

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
