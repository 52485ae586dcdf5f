"""Contrastive losses on cosines. Arrays in, scalars out."""

from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.losses import blockwise
from simclr_jax.losses.block_size import (
    block_on_mesh,
    pairs_matrix,
    queries_matrix,
    shared_maximum,
)
from simclr_jax.losses.geometry import normalize
from simclr_jax.sharding import all_gather

GATHER_DTYPES = ("float32", "bfloat16")


def nt_xent(
    z: jax.Array, temperature: float, *, block: int = 0, gather: str = "float32"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """NT-Xent, SimCLR (arXiv:2002.05709) eq. 1, over the global batch.

    The gradient flows through both sides of every similarity, through the anchors and
    through the gathered copies, so it equals that of one device with the whole batch.

    Args:
      z: [2, N, D] projections; z[0, i] and z[1, i] are two views of image i. Any float
        dtype; computed in at least float32.
      temperature: tau > 0; the smaller, the larger the weight of hard negatives.
      block: the number of images that are compared with all anchors at a time; 0:
        chosen by `block_size`.
      gather: "bfloat16" rounds z before the products: half the bytes between devices,
        faster products; gradients are within 1e-2 of the exact ones. Sums are float32
        in both cases. "float32" does not round.

    Returns:
      loss: [] mean over the 2N anchors (Algorithm 1; the released code sums the two
        views instead, which is twice this).
      metrics: of view 0 against the N images of view 1, as the released code logs
        them: contrast_accuracy [] is the share of images whose positive is the nearest,
        contrast_entropy [] the mean entropy in nats of the softmax over the images.

    Raises:
      ValueError: if z is not [2, N, D], or for another `gather`.
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"nt_xent needs z of shape [2, N, D], got {z.shape}.")
    if gather not in GATHER_DTYPES:
        raise ValueError(f'gather is "float32" or "bfloat16", got {gather!r}.')
    z = normalize(z.astype(jnp.promote_types(z.dtype, jnp.float32)))
    dtype = jnp.dtype(gather) if gather == "bfloat16" else z.dtype
    if dtype == jnp.bfloat16:
        z = jax.lax.reduce_precision(z, exponent_bits=8, mantissa_bits=7)
    similarity, maximum = cosine_by(temperature, dtype)
    block = block_on_mesh(pairs_matrix(z.shape[1], block))
    others = blockwise.mean_log_sum_of_others(z, similarity, block, maximum, dtype.name)
    loss = others - jnp.mean(jnp.sum(z[0] * z[1], -1)) / temperature

    columns = all_gather(z.astype(dtype))  # view 0 against view 1, as in released code
    correct, entropy = blockwise.retrieve(z[:1], columns, similarity, block)
    metrics = {
        "contrast_accuracy": jnp.mean(correct, dtype=loss.dtype),
        "contrast_entropy": jnp.mean(entropy),
    }
    return loss, metrics


def cosine_by(
    temperature: float, dtype: Any = None
) -> tuple[blockwise.Similarity, float | None]:
    """The similarity cos / tau of unit vectors, and its `shared_maximum`.

    Args:
      temperature: tau.
      dtype: in which to multiply vectors that are already rounded to it; None: theirs.
    """

    def similarity(a, b):  # [V, N, D], [W, M, D] -> [V, N, W, M]
        wide = jnp.promote_types(a.dtype, jnp.float32)
        a, b = (x.astype(dtype or x.dtype) for x in (a, b))
        s = jnp.einsum(
            "vnd,wmd->vnwm", a, b, precision="highest", preferred_element_type=wide
        )
        return s / temperature

    return similarity, shared_maximum(-1 / temperature, 1 / temperature)


def info_nce(
    q: jax.Array,
    k: jax.Array,
    queue: jax.Array,
    temperature: float,
    *,
    block: int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """InfoNCE against a queue, MoCo (arXiv:1911.05722) eq. 1.

    Args:
      q: [N, D] queries of any float dtype; computed in at least float32.
      k: [N, D] keys; k[i] is the positive of q[i].
      queue: [K, D] unit vectors, the negatives of every query.
      temperature: tau > 0.
      block: keys of the queue that are processed together, as in `nt_xent`.

    Returns:
      loss: [] mean over the N queries of the cross-entropy among 1 + K classes.
      metrics: contrast_accuracy [], the share of queries whose positive is the nearest.
    """
    q, k = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (q, k)
    )
    similarity, maximum = cosine_by(temperature)
    block = block_on_mesh(queries_matrix(len(q), len(queue), block))
    positive = jnp.sum(q * k, -1) / temperature
    negative = blockwise.log_sum(q[None], queue[None], similarity, block, maximum)[0]
    loss = jnp.mean(jnp.logaddexp(positive, negative) - positive)
    rival = blockwise.most_similar(q[None], queue[None], similarity, block)[0]
    correct = jnp.mean(positive > rival, dtype=loss.dtype)
    return loss, {"contrast_accuracy": correct}


def enqueue(
    queue: jax.Array, pointer: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Replaces the oldest keys by new ones, for any batch size.

    Args:
      queue: [K, D] unit vectors.
      pointer: int32 [], the row of the oldest key.
      k: [N, D] keys.

    Returns:
      The new queue and pointer.

    Raises:
      ValueError: there are more keys than rows of the queue.
    """
    if k.shape[0] > queue.shape[0]:
        raise ValueError(
            f"A queue of {queue.shape[0]} keys has no room for a batch of "
            f"{k.shape[0]}: make the queue larger or the batch smaller."
        )
    rows = (pointer + jnp.arange(k.shape[0])) % queue.shape[0]
    newest = all_gather(normalize(k.astype(queue.dtype)))
    return queue.at[rows].set(newest), (rows[-1] + 1) % queue.shape[0]


def ctr(q: jax.Array, k: jax.Array, temperature: float, *, block: int = 0) -> jax.Array:
    """MoCo v3's contrastive term, arXiv:2104.02057, Algorithm 1.

    Every query is compared with the keys of the whole global batch. The key of the same
    image is the positive; other queries are not negatives.

    Args:
      q: [N, D] predictions of one view, of any float dtype; computed in at least
        float32.
      k: [N, D] the momentum encoder's projections of the other view.
      temperature: tau > 0.
      block: keys that are processed together, as in `nt_xent`.

    Returns:
      [] 2 tau times the mean cross-entropy; 2 tau log N if all keys are equal.
    """
    q, k = (
        normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32))) for x in (q, k)
    )
    similarity, maximum = cosine_by(temperature)
    block = block_on_mesh(queries_matrix(len(q), len(k), block))
    keys = all_gather(k)[None]
    all_keys = blockwise.log_sum(q[None], keys, similarity, block, maximum)[0]
    positive = jnp.sum(q * k, -1) / temperature
    return 2 * temperature * jnp.mean(all_keys - positive)
