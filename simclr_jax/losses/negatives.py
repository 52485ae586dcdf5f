"""How a softmax loss divides its gradient over the negatives. No loss: diagnostics.

The gradient of -log softmax with respect to the logit of a negative is its share of the
softmax. So the shares say which negatives a step pushes away.
"""

import math

import jax
import jax.numpy as jnp

from simclr_jax.losses.blockwise import Similarity
from simclr_jax.sharding import all_gather

ANCHORS = 256  # images whose shares are averaged
HARDEST = 0.01  # of the negatives


def shares(positive: jax.Array, negatives: jax.Array) -> dict[str, jax.Array]:
    """Means over anchors of how their softmax is divided.

    Args:
      positive: [A], the logit of the positive of each anchor.
      negatives: [A, M], the logits of its negatives.

    Returns:
      positive_share: [] the probability of the positive; the loss of an anchor is
        minus its log.
      effective_negatives: [] exp of the entropy of the negatives' shares, from 1 to M.
      hardest_share: [] of the gradient of all negatives, the share of the hardest 1 %
        of them, at least of one.
    """
    weights = jax.nn.softmax(negatives)
    count = math.ceil(HARDEST * negatives.shape[1])
    hardest = jnp.sum(jax.lax.top_k(weights, count)[0], -1)
    entropy = jnp.sum(jax.scipy.special.entr(weights), -1)
    total = jnp.logaddexp(positive, jax.nn.logsumexp(negatives, -1))
    return {
        "positive_share": jnp.mean(jnp.exp(positive - total)),
        "effective_negatives": jnp.mean(jnp.exp(entropy)),
        "hardest_share": jnp.mean(hardest),
    }


def shares_in_batch(
    queries: jax.Array, keys: jax.Array, similarity: Similarity
) -> dict[str, jax.Array]:
    """`shares` where the negatives are the keys of the batch's other images.

    Args:
      queries: [N, D], of which the first ANCHORS are the anchors.
      keys: [W, N, D]; the positive of queries[i] is keys[-1, i], and keys[:, j] are
        negatives of it for j != i.
      similarity: of queries and keys: their logits.
    """
    n = keys.shape[1]
    anchors = jnp.arange(min(n, ANCHORS))
    s = similarity(all_gather(queries[None, : len(anchors)]), all_gather(keys))[0]
    others = (anchors[:, None] + jnp.arange(1, n)) % n  # [A, N - 1]
    negatives = jnp.take_along_axis(s, others[:, None], axis=2)
    return shares(s[anchors, -1, anchors], negatives.reshape(len(anchors), -1))


def shares_in_queue(
    queries: jax.Array, keys: jax.Array, queue: jax.Array, similarity: Similarity
) -> dict[str, jax.Array]:
    """`shares` where the negatives are the keys of a queue.

    Args:
      queries, keys: [N, D]; the positive of queries[i] is keys[i].
      queue: [K, D].
      similarity: as in `shares_in_batch`.
    """
    queries, keys = (all_gather(x[:ANCHORS]) for x in (queries, keys))
    negatives = similarity(queries[None], queue[None])[0, :, 0]
    s = similarity(queries[None], keys[None])[0, :, 0]
    return shares(jnp.diagonal(s), negatives)
