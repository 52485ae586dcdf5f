"""Contrastive losses: pull the positive, push the rest. Arrays in, scalars out."""

import jax
import jax.numpy as jnp

from simclr_jax.losses.geometry import normalize
from simclr_jax.sharding import all_gather


def nt_xent(z, temperature: float):
    """NT-Xent, SimCLR (arXiv:2002.05709) eq. 1, over the global batch.

    The gradient flows through both sides of every similarity, through the anchors and
    through the gathered copies, so it is that of one machine with the whole batch.

    Args:
      z: [2, N, D] projections; z[0, i] and z[1, i] are two views of image i. Of any
        float dtype; the arithmetic is in the wider of it and float32.
      temperature: tau > 0; the smaller, the harder the hardest negative counts.

    Returns:
      loss: [] mean over the 2N anchors (Algorithm 1; the released code sums the two
        views instead, which is twice this).
      metrics: of view 0 against the N images of view 1, as the released code logs
        them: contrast_accuracy [] is how often the twin is the nearest,
        contrast_entropy [] the mean entropy in nats of the softmax over the images.

    Raises:
      ValueError: if z is not [2, N, D].
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"nt_xent wants z of shape [2, N, D], got {z.shape}.")
    z = normalize(z.astype(jnp.promote_types(z.dtype, jnp.float32)))
    others = all_gather(z)  # [2, N, D] on every device: the global batch
    sim = jnp.einsum("vnd,wmd->vnwm", z, others, precision="highest") / temperature
    v, n, w, m = (jax.lax.broadcasted_iota(jnp.int32, sim.shape, i) for i in range(4))
    sim = jnp.where((v == w) & (n == m), -jnp.inf, sim)  # nobody is their own negative
    positive = jnp.sum(z[:1] * z[1:], -1) / temperature  # [1, N], for both views
    loss = jnp.mean(jax.nn.logsumexp(sim, axis=(2, 3)) - positive)

    twins = sim[0, :, 1]  # [N, N]: view 0 against view 1, right on the diagonal
    guess = jax.nn.softmax(twins)
    entropy = -jnp.mean(jnp.sum(guess * jnp.log(guess + 1e-8), -1))
    right = jnp.argmax(twins, -1) == jnp.arange(twins.shape[0])
    accuracy = jnp.mean(right, dtype=sim.dtype)
    return loss, {"contrast_accuracy": accuracy, "contrast_entropy": entropy}


def info_nce(q, k, queue, temperature: float):
    """InfoNCE against a queue, MoCo (arXiv:1911.05722) eq. 1.

    Args:
      q: [N, D] queries of any float dtype; the arithmetic is in the wider of it and
        float32.
      k: [N, D] keys; k[i] is the positive of q[i].
      queue: [K, D] unit vectors, the negatives of all.
      temperature: tau > 0.

    Returns:
      loss: [] mean over the N queries of the cross-entropy among 1 + K classes.
      metrics: contrast_accuracy [], how often the positive is the nearest.
    """
    q, k = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (q, k)
    )
    positive = jnp.sum(q * k, -1, keepdims=True)
    negative = jnp.einsum("nd,kd->nk", q, queue, precision="highest")
    logits = jnp.concatenate([positive, negative], 1) / temperature
    loss = jnp.mean(jax.nn.logsumexp(logits, 1) - logits[:, 0])
    accuracy = jnp.mean(jnp.argmax(logits, 1) == 0, dtype=logits.dtype)
    return loss, {"contrast_accuracy": accuracy}


def enqueue(queue, pointer, k):
    """The newest keys in, the oldest out, whatever the size of the batch.

    Args:
      queue: [K, D] unit vectors.
      pointer: int32 [], the row of the oldest.
      k: [N, D] keys.

    Returns:
      The queue and the pointer after it.

    Raises:
      ValueError: if the keys do not fit into the queue.
    """
    if k.shape[0] > queue.shape[0]:
        raise ValueError(
            f"A queue of {queue.shape[0]} keys has no room for a batch of "
            f"{k.shape[0]}: make the queue larger or the batch smaller."
        )
    rows = (pointer + jnp.arange(k.shape[0])) % queue.shape[0]
    newest = all_gather(normalize(k.astype(queue.dtype)))
    return queue.at[rows].set(newest), (rows[-1] + 1) % queue.shape[0]


def ctr(q, k, temperature: float):
    """MoCo v3's contrastive term, arXiv:2104.02057, Algorithm 1.

    Every query meets the keys of the whole global batch, of which its own image's is
    the positive; views of its own kind are no negatives.

    Args:
      q: [N, D] predictions of one view, of any float dtype; the arithmetic is in the
        wider of it and float32.
      k: [N, D] the momentum encoder's projections of the other view.
      temperature: tau > 0.

    Returns:
      [] 2 tau times the mean cross-entropy; 2 tau log N where all are alike.
    """
    q, k = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (q, k)
    )
    logits = jnp.einsum("nd,md->nm", q, all_gather(k), precision="highest")
    logits /= temperature
    positive = jnp.sum(q * k, -1) / temperature
    return 2 * temperature * jnp.mean(jax.nn.logsumexp(logits, 1) - positive)
