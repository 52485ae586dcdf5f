"""Losses without negatives: predictions of a projection, or of the pixels."""

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


def squared_error(x: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared difference of two arrays of one shape, computed in float32.

    Raises:
      ValueError: the shapes differ.
    """
    if x.shape != target.shape:
        raise ValueError(
            f"squared_error compares arrays of one shape, got {x.shape} and "
            f"{target.shape}."
        )
    difference = x.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(difference**2)
