"""The loss of classifiers: probes, linear evaluation, fine-tuning."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Mean of -log softmax(logits)[label], in nats.

    Args:
      logits: [..., C] of any float dtype; computed in at least float32.
      label: [...] integer classes in [0, C); any other value makes the loss NaN, so
        that a wrong number of classes is noticed.

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
    return jnp.mean(jax.nn.logsumexp(logits, -1) - positive)
