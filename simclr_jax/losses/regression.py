"""Losses without negatives: one view's prediction of the other's projection."""

import jax
import jax.numpy as jnp

from simclr_jax.losses.geometry import normalize


def cosine(p: jax.Array, z: jax.Array) -> jax.Array:
    """Mean cosine of predictions and projections, SimSiam (arXiv:2011.10566) eq. 1.

    Args:
      p: [N, D] predictions of any float dtype; computed in at least float32.
      z: [N, D] projections.

    Returns:
      [] in [-1, 1].
    """
    p, z = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (p, z)
    )
    return jnp.mean(jnp.sum(p * z, -1))


def regression(p: jax.Array, z: jax.Array) -> jax.Array:
    """Mean squared distance of the directions, BYOL (arXiv:2006.07733) eq. 2.

    Args:
      p, z: as for `cosine`.

    Returns:
      [] |p/|p| - z/|z||^2 = 2 - 2 cos: 0 for equal directions, 4 for opposite ones.
    """
    return 2 - 2 * cosine(p, z)
