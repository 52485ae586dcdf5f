"""Directions and spread of embeddings on the unit sphere."""

import jax
import jax.numpy as jnp


def normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x: [..., D] -> the same directions on the unit sphere.

    eps bounds the squared norm from below, as in the released SimCLR code.
    """
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), eps))


def spread(z: jax.Array) -> jax.Array:
    """How evenly the directions of z cover the sphere.

    Args:
      z: [V, N, D].

    Returns:
      [] the standard deviation over the batch of each coordinate of normalised z,
      averaged and divided by 1/sqrt(D), its value for directions drawn uniformly from
      the sphere: about 1 for those, 0 if all directions are equal (SimSiam,
      arXiv:2011.10566, section 4.1).
    """
    z = normalize(z)
    return jnp.mean(jnp.std(z, axis=1)) * z.shape[-1] ** 0.5


def effective_rank(x: jax.Array, eps: float = 1e-7) -> jax.Array:
    """The effective number of dimensions of x: RankMe (arXiv:2210.02885) eq. 1.

    Args:
      x: [N, D], neither centred nor normalised.
      eps: added to each singular value after division by their sum.

    Returns:
      [] exp of the entropy of these shares, between 1 and min(N, D).
    """
    sigma = jnp.linalg.svd(x, compute_uv=False)
    share = sigma / jnp.sum(sigma) + eps
    return jnp.exp(-jnp.sum(share * jnp.log(share)))
