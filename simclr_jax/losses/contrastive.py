"""Contrastive losses: pull the positive, push the rest. Arrays in, scalars out."""

import jax
import jax.numpy as jnp

from simclr_jax.losses import blockwise
from simclr_jax.losses.geometry import normalize
from simclr_jax.sharding import all_gather

GATHERS = ("float32", "bfloat16")


def nt_xent(z, temperature: float, *, block: int = 0, gather: str = "float32"):
    """NT-Xent, SimCLR (arXiv:2002.05709) eq. 1, over the global batch.

    The gradient flows through both sides of every similarity, through the anchors and
    through the gathered copies, so it is that of one machine with the whole batch.

    Args:
      z: [2, N, D] projections; z[0, i] and z[1, i] are two views of image i. Of any
        float dtype; the arithmetic is in the wider of it and float32.
      temperature: tau > 0; the smaller, the harder the hardest negative counts.
      block: images whose similarities to all anchors are there together; 0 for as
        many as do well, all of a batch of thousands (see losses/streaming.py).
      gather: "bfloat16" rounds z to it before anything is compared: half the bytes
        between devices, a fast product; gradients are within 1e-2 of the exact ones.
        Sums are in float32 all the same. "float32" does not round.

    Returns:
      loss: [] mean over the 2N anchors (Algorithm 1; the released code sums the two
        views instead, which is twice this).
      metrics: of view 0 against the N images of view 1, as the released code logs
        them: contrast_accuracy [] is how often the twin is the nearest,
        contrast_entropy [] the mean entropy in nats of the softmax over the images.

    Raises:
      ValueError: if z is not [2, N, D], or for another `gather`.
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"nt_xent wants z of shape [2, N, D], got {z.shape}.")
    if gather not in GATHERS:
        raise ValueError(f'gather is "float32" or "bfloat16", got {gather!r}.')
    z = normalize(z.astype(jnp.promote_types(z.dtype, jnp.float32)))
    dtype = jnp.dtype(gather) if gather == "bfloat16" else z.dtype
    if dtype == jnp.bfloat16:
        z = jax.lax.reduce_precision(z, exponent_bits=8, mantissa_bits=7)
    similarity, top = cosine_by(temperature, dtype)
    block = blockwise.choose(block, 2 * z.shape[1], z.shape[1], views=2)
    others = blockwise.mean_log_sum_of_others(z, similarity, block, top, dtype.name)
    loss = others - jnp.mean(jnp.sum(z[0] * z[1], -1)) / temperature

    columns = all_gather(z.astype(dtype))  # view 0 against view 1, as released
    right, entropy = blockwise.retrieve(z[:1], columns, similarity, block)
    metrics = {
        "contrast_accuracy": jnp.mean(right, dtype=loss.dtype),
        "contrast_entropy": jnp.mean(entropy),
    }
    return loss, metrics


def cosine_by(temperature: float, dtype=None):
    """cos / tau of unit vectors, and what its exponentials may be counted from.

    dtype: of the factors, where they are rounded to it already; None leaves them.
    """

    def similarity(a, b):  # [V, N, D], [W, M, D] -> [V, N, W, M]
        wide = jnp.promote_types(a.dtype, jnp.float32)
        a, b = (x.astype(dtype or x.dtype) for x in (a, b))
        s = jnp.einsum(
            "vnd,wmd->vnwm", a, b, precision="highest", preferred_element_type=wide
        )
        return s / temperature

    return similarity, blockwise.within_reach(-1 / temperature, 1 / temperature)


def info_nce(q, k, queue, temperature: float, *, block: int = 0):
    """InfoNCE against a queue, MoCo (arXiv:1911.05722) eq. 1.

    Args:
      q: [N, D] queries of any float dtype; the arithmetic is in the wider of it and
        float32.
      k: [N, D] keys; k[i] is the positive of q[i].
      queue: [K, D] unit vectors, the negatives of all.
      temperature: tau > 0.
      block: keys of the queue that are met together, as in `nt_xent`.

    Returns:
      loss: [] mean over the N queries of the cross-entropy among 1 + K classes.
      metrics: contrast_accuracy [], how often the positive is the nearest.
    """
    q, k = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (q, k)
    )
    similarity, top = cosine_by(temperature)
    block = blockwise.choose(block, q.shape[0], queue.shape[0])
    positive = jnp.sum(q * k, -1) / temperature
    negative = blockwise.log_sum(q[None], queue[None], similarity, block, top)[0]
    loss = jnp.mean(jnp.logaddexp(positive, negative) - positive)
    rival = blockwise.most_similar(q[None], queue[None], similarity, block)[0]
    right = jnp.mean(positive > rival, dtype=loss.dtype)
    return loss, {"contrast_accuracy": right}


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


def ctr(q, k, temperature: float, *, block: int = 0):
    """MoCo v3's contrastive term, arXiv:2104.02057, Algorithm 1.

    Every query meets the keys of the whole global batch, of which its own image's is
    the positive; views of its own kind are no negatives.

    Args:
      q: [N, D] predictions of one view, of any float dtype; the arithmetic is in the
        wider of it and float32.
      k: [N, D] the momentum encoder's projections of the other view.
      temperature: tau > 0.
      block: keys that are met together, as in `nt_xent`.

    Returns:
      [] 2 tau times the mean cross-entropy; 2 tau log N where all are alike.
    """
    q, k = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (q, k)
    )
    similarity, top = cosine_by(temperature)
    block = blockwise.choose(block, *q.shape[:1], *k.shape[:1])
    keys = all_gather(k)[None]
    all_keys = blockwise.log_sum(q[None], keys, similarity, block, top)[0]
    positive = jnp.sum(q * k, -1) / temperature
    return 2 * temperature * jnp.mean(all_keys - positive)
