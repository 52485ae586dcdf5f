"""Self-distillation: the student predicts which prototypes the teacher finds.

DINO (arXiv:2104.14294), section 3.1 and algorithm 1. Arrays in, scalars out.
"""

import jax
import jax.numpy as jnp

from simclr_jax.losses.geometry import normalize


def prototype_logits(z, v, g=None):
    """A weight-normalised layer: how much of each prototype there is in z.

    Args:
      z: [..., D] unit vectors.
      v: [K, D] the prototypes, of which only the directions count.
      g: [K] their lengths; None for 1, and the logits are cosines.

    Returns:
      [..., K] logits.
    """
    w = normalize(v)
    if g is not None:
        w = w * g[:, None]
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


def distil(logits, target, temperature: float):
    """Cross-entropy of the student's distribution against the teacher's.

    Args:
      logits: [N, K] the student's, of one crop.
      target: [N, K] probabilities, or the sum of those of several teacher views: the
        cross-entropy against a sum is the sum of the cross-entropies.
      temperature: the student's.

    Returns:
      [] mean over the images, in nats.
    """
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits / temperature), -1))


def recentre(centre, logits, momentum: float):
    """The next centre, momentum * centre + (1 - momentum) * mean of the logits.

    Args:
      centre: [K].
      logits: [..., K] the teacher's, of all its views and images, as they are before
        centre and temperature.
    """
    mean = jnp.mean(logits, tuple(range(logits.ndim - 1)))  # a reshape would gather
    return momentum * centre + (1 - momentum) * mean


def entropy(p):
    """[..., K] -> [...] nats: 0 if one prototype has all, ln K if all have alike."""
    return jnp.sum(jax.scipy.special.entr(p), -1)
