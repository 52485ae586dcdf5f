"""Self-distillation: the student predicts the teacher's distribution over prototypes.

DINO (arXiv:2104.14294), section 3.1 and algorithm 1. Arrays in, scalars out.
"""

import jax
import jax.numpy as jnp

from simclr_jax.losses.geometry import normalize

PARTS = 16  # largest number of parts of the prototypes; about the number of crops


def weight_normalised(v: jax.Array, g: jax.Array | None = None) -> jax.Array:
    """The prototypes [K, D] of directions v [K, D] and lengths g [K], 1 if None."""
    w = normalize(v)
    return w if g is None else w * g[:, None]


def prototype_logits(z: jax.Array, w: jax.Array) -> jax.Array:
    """The products of z with each prototype: [..., D], [K, D] -> [..., K]."""
    return jnp.einsum("...d,kd->...k", z, w, precision="highest")


def sharpen(
    logits: jax.Array, centre: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """The teacher's distribution, softmax((logits - centre) / temperature).

    The centre keeps one prototype from dominating for all images; a temperature below
    the student's keeps the distributions from being uniform.

    Args:
      logits: [..., K].
      centre: [K].

    Returns:
      [..., K] probabilities.
    """
    return jax.nn.softmax((logits - centre) / temperature)


def distil(z: jax.Array, w: jax.Array, p: jax.Array, temperature: float) -> jax.Array:
    """DINO's loss: cross-entropy of the student against the teacher, over all pairs.

    A pair is a teacher's view t and a student's view v other than t.

    The logits of all views, [V, N, K], would take most of a step's memory. So they are
    computed for one part of the prototypes at a time, and again for the gradient. One
    view at a time would need as little memory, but the gradient of w would have to be
    summed over devices once for each view.

    Args:
      z: [V, N, D] the student's projections; its first T views are the teacher's.
      w: [K, D] the student's prototypes.
      p: [T, N, K] the teacher's distributions.
      temperature: the student's.

    Returns:
      [] mean over pairs and images, in nats.
    """
    count = max(n for n in range(1, PARTS + 1) if len(w) % n == 0)
    size = len(w) // count

    @jax.checkpoint
    def part(weights_and_offset):
        w, offset = weights_and_offset
        logits = prototype_logits(z, w) / temperature  # [V, N, K / parts]
        target = jax.lax.dynamic_slice_in_dim(p, offset, size, axis=-1)
        products = jnp.sum(target * logits[:, None], -1)
        return jax.nn.logsumexp(logits, -1), products

    offsets = size * jnp.arange(count)
    norms, products = jax.lax.map(part, (w.reshape(count, size, -1), offsets))
    cross = jax.nn.logsumexp(norms, 0)[:, None] - jnp.sum(products, 0)  # [V, T, N]
    pairs = 1 - jnp.eye(len(z), len(p))  # 0 where both are of the same view
    return jnp.sum(pairs * jnp.mean(cross, -1)) / jnp.sum(pairs)


def recentre(centre: jax.Array, logits: jax.Array, momentum: float) -> jax.Array:
    """The next centre, momentum * centre + (1 - momentum) * mean of the logits.

    Args:
      centre: [K].
      logits: [T, N, K] the teacher's, before centring and sharpening.
    """
    return momentum * centre + (1 - momentum) * jnp.mean(logits, (0, 1))


def entropy(p: jax.Array) -> jax.Array:
    """[..., K] -> [...] nats: 0 for a single prototype, ln K for a uniform p."""
    return jnp.sum(jax.scipy.special.entr(p), -1)
