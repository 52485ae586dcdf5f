"""Losses on distances, not directions: neighbours in a space that can be drawn."""

import jax
import jax.numpy as jnp

from simclr_jax.losses import blockwise
from simclr_jax.sharding import all_gather


def cauchy(z, *, block: int = 0):
    """Contrastive loss with a Cauchy similarity, t-SimCNE (arXiv:2210.09879), sec. 3.

    s(a, b) = 1 / (1 + |a - b|^2), the kernel of t-SNE, stands where NT-Xent has
    exp(cos / tau): of each of the 2N points it is -log of the positive's share among
    the other 2N - 1, over the global batch. z is not normalised.

    Args:
      z: [2, N, D] embeddings; z[0, i] and z[1, i] are two views of image i. Of any
        float dtype; the arithmetic is in the wider of it and float32.
      block: images whose distances to all points are there together, 0 for as many as
        do well (see losses/streaming.py).

    Returns:
      loss: [] mean over the 2N points: attraction + repulsion.
      metrics: attraction [], the mean of log(1 + d^2) of the positives; repulsion [],
        the mean log of the summed similarities to all others; contrast_accuracy [],
        how often view 0 has its twin nearest among the N images of view 1.

    Raises:
      ValueError: if z is not [2, N, D].
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"cauchy wants z of shape [2, N, D], got {z.shape}.")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    block = blockwise.choose(block, 2 * z.shape[1], z.shape[1], views=2)
    repulsion = blockwise.mean_log_sum_of_others(z, log_cauchy, block, 0.0)
    attraction = jnp.mean(jnp.log1p(jnp.sum((z[0] - z[1]) ** 2, -1)))
    right, _ = blockwise.retrieve(z[:1], all_gather(z), log_cauchy, block)
    metrics = {
        "contrast_accuracy": jnp.mean(right, dtype=z.dtype),
        "attraction": attraction,
        "repulsion": repulsion,
    }
    return attraction + repulsion, metrics


def log_cauchy(a, b):
    """log 1 / (1 + |a - b|^2) of all pairs, see `squared_distances`."""
    return -jnp.log1p(squared_distances(a, b))


def squared_distances(a, b):
    """|a - b|^2 of all pairs, exact to rounding also far from the origin.

    t-SimCNE's coordinates grow to hundreds while neighbours stay within one, where
    |a|^2 - 2 ab + |b|^2 cancels; so the differences themselves are squared. Coordinate
    by coordinate and once more for the gradient, so that no [2, N, 2, M, D] is ever
    held, which for 1024 images in 128 dimensions would be 2 GB.

    Args:
      a: [V, N, D] float.
      b: [W, M, D] of the same dtype.

    Returns:
      [V, N, W, M].
    """

    @jax.checkpoint
    def add(far, coordinate):
        x, y = coordinate  # [V, N] and [W, M]
        return far + (x[:, :, None, None] - y[None, None]) ** 2, None

    far = jnp.zeros(a.shape[:2] + b.shape[:2], a.dtype)
    coordinates = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
    # Several a round: fewer passes over `far`, fewer sums of b's gradient over devices.
    return jax.lax.scan(add, far, coordinates, unroll=16)[0]
