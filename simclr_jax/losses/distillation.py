"""Self-distillation: the student predicts which prototypes the teacher finds.

DINO (arXiv:2104.14294), section 3.1 and algorithm 1. Arrays in, scalars out.
"""

import jax
import jax.numpy as jnp

from simclr_jax.losses.geometry import normalize

PARTS = 16  # of the prototypes, at most; about as many as there are crops


def weight_normalised(v, g=None):
    """The prototypes [K, D]: in the directions of v [K, D], with lengths g [K] or 1."""
    w = normalize(v)
    return w if g is None else w * g[:, None]


def prototype_logits(z, w):
    """How much of each prototype there is in z: [..., D], [K, D] -> [..., K]."""
    return jnp.einsum("...d,kd->...k", z, w, precision="highest")


def sharpen(logits, centre, temperature):
    """The teacher's distribution, softmax((logits - centre) / temperature).

    The centre keeps one prototype from taking all images; the temperature, below the
    student's, keeps all prototypes from taking each image alike.

    Args:
      logits: [..., K].
      centre: [K].

    Returns:
      [..., K] probabilities.
    """
    return jax.nn.softmax((logits - centre) / temperature)


def distil(z, w, p, temperature: float):
    """DINO's loss: cross-entropy of the student against the teacher, over all pairs.

    A pair is a teacher's view t and a student's view v other than t.

    The logits of all views, [V, N, K], would be most of a step's memory. So they are
    made for one part of the prototypes at a time, and again for the gradient. View by
    view would be as small, but have the devices add up the gradient of w for each view.

    Args:
      z: [V, N, D] the student's projections; its first T views are the teacher's.
      w: [K, D] the student's prototypes.
      p: [T, N, K] the teacher's distributions.
      temperature: the student's.

    Returns:
      [] mean over pairs and images, in nats.
    """
    parts = max(n for n in range(1, PARTS + 1) if len(w) % n == 0)
    size = len(w) // parts

    @jax.checkpoint
    def part(at):
        w, start = at
        logits = prototype_logits(z, w) / temperature  # [V, N, K / parts]
        target = jax.lax.dynamic_slice_in_dim(p, start, size, axis=-1)
        agreed = jnp.sum(target * logits[:, None], -1)
        return jax.nn.logsumexp(logits, -1), agreed

    starts = size * jnp.arange(parts)
    norms, agreed = jax.lax.map(part, (w.reshape(parts, size, -1), starts))
    cross = jax.nn.logsumexp(norms, 0)[:, None] - jnp.sum(agreed, 0)  # [V, T, N]
    others = 1 - jnp.eye(len(z), len(p))  # 0 where both see the same view
    return jnp.sum(others * jnp.mean(cross, -1)) / jnp.sum(others)


def recentre(centre, logits, momentum: float):
    """The next centre, momentum * centre + (1 - momentum) * mean of the logits.

    Args:
      centre: [K].
      logits: [T, N, K] the teacher's, as they are before centre and temperature.
    """
    return momentum * centre + (1 - momentum) * jnp.mean(logits, (0, 1))


def entropy(p):
    """[..., K] -> [...] nats: 0 if one prototype has all, ln K if all have alike."""
    return jnp.sum(jax.scipy.special.entr(p), -1)
