"""Measures of embeddings: directions, spread, alignment, uniformity, ranks."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular


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


def deviation(z: jax.Array) -> jax.Array:
    """`spread` before the average over the coordinates: [V, N, D] -> [D].

    A coordinate that is the same for all images has 0.
    """
    z = normalize(z)
    return jnp.mean(jnp.std(z, axis=1), 0) * z.shape[-1] ** 0.5


def alignment(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared distance of the directions of positives (arXiv:2005.10242, eq. 8).

    Args:
      x, y: [N, D]; x[i] and y[i] are of two views of image i.

    Returns:
      [] with the paper's alpha = 2: 0 if the two views are equal, 2 if unrelated, at
      most 4.
    """
    return jnp.mean(jnp.sum((normalize(x) - normalize(y)) ** 2, -1))


def uniformity(x: jax.Array) -> jax.Array:
    """How evenly directions cover the sphere (arXiv:2005.10242, eq. 9), with t = 2.

    Args:
      x: [N, D], of different images.

    Returns:
      [] log of the mean of exp(-2 |x_i - x_j|^2) over all pairs i != j: 0 if all are
      equal; about -4 + 8/D, the more accurate the larger D, if they are uniform.
    """
    x = normalize(x)
    cosine = jnp.einsum("nd,md->nm", x, x, precision="highest")
    n = len(x)
    exponent = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, 4 * (cosine - 1))
    return jax.nn.logsumexp(exponent) - jnp.log(jnp.asarray(n * (n - 1), x.dtype))


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


def lidar(z: jax.Array, delta: float = 1e-4, eps: float = 1e-7) -> jax.Array:
    """The effective number of dimensions that tell images apart: LiDAR.

    arXiv:2312.04000, section 4: the classes of a linear discriminant analysis are the
    images, and their members are the views. A coordinate counts as much as its scatter
    between the images exceeds that between the views of an image.

    Args:
      z: [V, N, D], V >= 2, not normalised. For N < D the result is not meaningful.
      delta: added to the diagonal of the scatter within images.
      eps: as in `effective_rank`.

    Returns:
      [] exp of the entropy of the eigenvalues' shares, between 1 and D.
    """
    views, n, d = z.shape
    centre = jnp.mean(z, 0)
    between = centre - jnp.mean(centre, 0)
    within = (z - centre).reshape(-1, d)
    scatter_between = _scatter(between, n - 1)
    scatter_within = _scatter(within, n * (views - 1)) + delta * jnp.eye(d)
    # L^-1 B L^-T has the eigenvalues of W^-1/2 B W^-1/2, for W = L L^T.
    root = jnp.linalg.cholesky(scatter_within)
    half = solve_triangular(root, scatter_between, lower=True)
    ratio = jnp.linalg.eigvalsh(solve_triangular(root, half.T, lower=True))
    ratio = jnp.maximum(ratio, 0)
    share = ratio / jnp.sum(ratio) + eps
    return jnp.exp(-jnp.sum(share * jnp.log(share)))


def _scatter(x: jax.Array, degrees: int) -> jax.Array:
    return jnp.einsum("nd,ne->de", x, x, precision="highest") / degrees
