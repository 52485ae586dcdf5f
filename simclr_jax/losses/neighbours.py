"""Losses on distances, not directions: neighbours in a space that can be drawn."""

import jax
import jax.numpy as jnp

from simclr_jax.sharding import all_gather


def cauchy(z):
    """Contrastive loss with a Cauchy similarity, t-SimCNE (arXiv:2210.09879), sec. 3.

    s(a, b) = 1 / (1 + |a - b|^2), the kernel of t-SNE, stands where NT-Xent has
    exp(cos / tau): of each of the 2N points it is -log of the positive's share among
    the other 2N - 1, over the global batch. z is not normalised.

    Args:
      z: [2, N, D] embeddings; z[0, i] and z[1, i] are two views of image i. Of any
        float dtype; the arithmetic is in the wider of it and float32.

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
    far = squared_distances(z, all_gather(z))  # [2, N, 2, N]: v n w m, global batch
    v, n, w, m = (jax.lax.broadcasted_iota(jnp.int32, far.shape, i) for i in range(4))
    sim = jnp.where((v == w) & (n == m), 0, 1 / (1 + far))  # nobody is their own
    repulsion = jnp.mean(jnp.log(jnp.sum(sim, (2, 3))))
    attraction = jnp.mean(jnp.log1p(jnp.sum((z[0] - z[1]) ** 2, -1)))

    twins = far[0, :, 1]  # [N, N]: view 0 against view 1, right on the diagonal
    right = jnp.argmin(twins, -1) == jnp.arange(twins.shape[0])
    metrics = {
        "contrast_accuracy": jnp.mean(right, dtype=far.dtype),
        "attraction": attraction,
        "repulsion": repulsion,
    }
    return attraction + repulsion, metrics


def squared_distances(a, b):
    """|a - b|^2 of all pairs, exact to rounding also far from the origin.

    t-SimCNE's coordinates grow to hundreds while neighbours stay within one, where
    |a|^2 - 2 ab + |b|^2 cancels; so the differences themselves are squared. Coordinate
    by coordinate and once more for the gradient, so that no [2, N, 2, M, D] is ever
    held, which for 1024 images in 128 dimensions would be 2 GB.

    Args:
      a: [2, N, D] float.
      b: [2, M, D] of the same dtype.

    Returns:
      [2, N, 2, M].
    """

    @jax.checkpoint
    def add(far, coordinate):
        x, y = coordinate  # [2, N] and [2, M]
        return far + (x[:, :, None, None] - y[None, None]) ** 2, None

    far = jnp.zeros(a.shape[:2] + b.shape[:2], a.dtype)
    coordinates = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
    # Several a round: fewer passes over `far`, fewer sums of b's gradient over devices.
    return jax.lax.scan(add, far, coordinates, unroll=16)[0]
