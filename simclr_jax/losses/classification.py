"""The loss of classifiers: probes, linear evaluation, fine-tuning."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, label: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Mean of -log softmax(logits)[label], in nats.

    With smoothing e the target is not the label alone: it has probability 1 - e, and
    all C classes share e (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Args:
      logits: [..., C] of any float dtype; computed in at least float32.
      label: [...] integer classes in [0, C); any other value makes the loss NaN, so
        that a wrong number of classes is noticed.
      smoothing: e in [0, 1].

    Returns:
      [] the mean over all rows.

    Raises:
      ValueError: if label does not have the shape of logits without its last axis.
    """
    if label.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy needs one label per row: {logits.shape[:-1]} for logits "
            f"{logits.shape}, got {label.shape}."
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    target = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    positive = jnp.sum(jnp.where(target, logits, 0), -1)
    positive = jnp.where(jnp.any(target, -1), positive, jnp.nan)
    if smoothing:
        positive = (1 - smoothing) * positive + smoothing * jnp.mean(logits, -1)
    return jnp.mean(jax.nn.logsumexp(logits, -1) - positive)
