"""Sums over all columns of a similarity matrix that is never in memory as a whole.

The columns are processed one block at a time; the backward pass computes the
similarities again. The result equals that of the dense matrix up to rounding: nothing
is left out or sampled. Rows stay on their devices; every device holds all columns.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from simclr_jax.sharding import all_gather, split_rows

# log of a similarity: [V, N, D] rows, [W, M, D] columns -> [V, N, W, M]
Similarity = Callable[[jax.Array, jax.Array], jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def mean_log_sum_of_others(
    z: jax.Array,
    similarity: Similarity,
    block: int,
    maximum: float | None,
    gather: str = "",
) -> jax.Array:
    """Mean over all points of the log of their summed similarities to all others.

    The similarity is symmetric. So a device that has the log-sums of all points can
    compute the whole gradient of its own points, as rows and as columns, and no
    gradients are sent between devices.

    Args:
      z: [V, N, D]; the V * N points are both rows and columns.
      similarity: must be symmetric.
      block: columns of each view that are processed together.
      maximum: from `block_size.shared_maximum`; None computes one for each row, at a
        higher cost.
      gather: dtype in which the columns are sent; "": that of z.

    Returns:
      [] the mean.
    """
    return _others_forward(z, similarity, block, maximum, gather)[0]


def _others_forward(z, similarity, block, maximum, gather):
    columns = all_gather(z.astype(gather or z.dtype))
    sums = _log_sum(z, columns, _without_self(similarity), block, maximum)
    return jnp.mean(sums), (z, columns, sums)


def _others_backward(similarity, block, maximum, gather, saved, cotangent):
    z, columns, sums = saved

    def add(total, tiles, offset):
        tile, tile_sums = tiles
        s, pullback = jax.vjp(lambda z: _without_self(similarity)(z, tile, offset), z)
        share = jnp.exp(s - sums[..., None, None])
        share += jnp.exp(s - tile_sums[None, None])
        return total + pullback(share * (cotangent / sums.size))[0]

    return (_fold(add, jnp.zeros_like(z), (columns, all_gather(sums)), block),)


mean_log_sum_of_others.defvjp(_others_forward, _others_backward)


def _without_self(similarity):
    """The similarity of rows to a tile of the same points; -inf of each to itself."""

    def masked(rows, tile, offset):
        s = similarity(rows, tile)
        v, n, w, m = (jax.lax.broadcasted_iota(jnp.int32, s.shape, i) for i in range(4))
        return jnp.where((v == w) & (n == m + offset), -jnp.inf, s)

    return masked


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def log_sum(
    rows: jax.Array,
    columns: jax.Array,
    similarity: Similarity,
    block: int,
    maximum: float | None,
) -> jax.Array:
    """The log of the summed similarities of each row to all columns.

    Args:
      rows: [V, N, D].
      columns: [W, M, D], on all devices.
      similarity, block, maximum: as in `mean_log_sum_of_others`.

    Returns:
      [V, N].
    """
    return _log_sum(rows, columns, _of_tile(similarity), block, maximum)


def _forward(rows, columns, similarity, block, maximum):
    sums = _log_sum(rows, columns, _of_tile(similarity), block, maximum)
    return sums, (rows, columns, sums)


def _backward(similarity, block, maximum, saved, cotangent):
    rows, columns, sums = saved

    def weights(s, offset):
        return jnp.exp(s - sums[..., None, None]) * cotangent[..., None, None]

    return _pull_back(rows, columns, similarity, block, weights)


log_sum.defvjp(_forward, _backward)


def _pull_back(rows, columns, similarity, block, weights):
    """The gradients of rows and columns; weights(s, offset) is the gradient of s."""

    def add(totals, tile, offset):
        s, pullback = jax.vjp(similarity, rows, tile)
        d_rows, d_tile = pullback(weights(s, offset))
        total_rows, total_columns = totals
        d_columns = jax.lax.dynamic_update_slice_in_dim(
            total_columns, d_tile, offset, 1
        )
        return total_rows + d_rows, d_columns

    zeros = jax.tree.map(jnp.zeros_like, (rows, columns))
    return _fold(add, zeros, columns, block)


def _of_tile(similarity):
    return lambda rows, tile, offset: similarity(rows, tile)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def most_similar(
    rows: jax.Array, columns: jax.Array, similarity: Similarity, block: int
) -> jax.Array:
    """The largest similarity of each row to any column.

    The gradient goes to the most similar column; equally similar columns share it
    equally, as in `jnp.max`.

    Args:
      rows, columns, similarity, block: as in `log_sum`.

    Returns:
      [V, N].
    """

    def add(most, tile, offset):
        return jnp.maximum(most, jnp.max(similarity(rows, tile), (2, 3)))

    return _fold(add, jnp.full(rows.shape[:2], -jnp.inf, rows.dtype), columns, block)


def _most_forward(rows, columns, similarity, block):
    most = most_similar(rows, columns, similarity, block)
    return most, (rows, columns, most)


def _most_backward(similarity, block, saved, cotangent):
    rows, columns, most = saved

    def count(total, tile, offset):
        s = similarity(rows, tile)
        return total + jnp.sum(s == most[..., None, None], (2, 3), dtype=s.dtype)

    ties = _fold(count, jnp.zeros_like(most), columns, block)
    share = (cotangent / ties)[..., None, None]

    def weights(s, offset):
        return jnp.where(s == most[..., None, None], share, 0)

    return _pull_back(rows, columns, similarity, block, weights)


most_similar.defvjp(_most_forward, _most_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def retrieve(
    rows: jax.Array, columns: jax.Array, similarity: Similarity, block: int
) -> tuple[jax.Array, jax.Array]:
    """Whether row i is more similar to column i than to all others, and the entropy.

    A metric: it has no gradient.

    Args:
      rows: [1, N, D].
      columns: [W, N, D], on all devices; only the last view is used.
      similarity, block: as in `log_sum`.

    Returns:
      correct: bool [N], True if column i is more similar to row i than every other one.
      entropy: [N], of the softmax over the columns, in nats.

    Raises:
      NotImplementedError: if differentiated.
    """

    def add(carry, tile, offset):
        positive, negative, largest, total, weighted = carry
        s = similarity(rows, tile[-1:])[:, :, 0]
        n, m = (jax.lax.broadcasted_iota(jnp.int32, s.shape, i) for i in (1, 2))
        diagonal = n == m + offset
        positive += jnp.sum(jnp.where(diagonal, s, 0), 2)
        negative = jnp.maximum(negative, jnp.max(jnp.where(diagonal, -jnp.inf, s), 2))
        new_largest = jnp.maximum(largest, jnp.max(s, 2))
        weights, decay = (
            jnp.exp(s - new_largest[..., None]),
            jnp.exp(largest - new_largest),
        )
        total = total * decay + jnp.sum(weights, 2)
        weighted = weighted * decay + jnp.sum(weights * s, 2)
        return positive, negative, new_largest, total, weighted

    zero = jnp.zeros(rows.shape[:2], rows.dtype)
    low = jnp.full_like(zero, -jnp.inf)
    init = (zero, low, low, zero, zero)
    positive, negative, largest, total, weighted = _fold(add, init, columns, block)
    return (positive > negative)[0], (largest + jnp.log(total) - weighted / total)[0]


def _retrieve_forward(rows, columns, similarity, block):
    # Nothing is saved: otherwise differentiating the loss would keep all blocks.
    return retrieve(rows, columns, similarity, block), None


def _retrieve_backward(similarity, block, saved, cotangents):
    raise NotImplementedError("blockwise.retrieve is a metric and has no gradient.")


retrieve.defvjp(_retrieve_forward, _retrieve_backward)


def _log_sum(rows, columns, similarity, block, maximum):
    """log sum exp of similarity(rows, tile, offset) over all tiles: [V, N]."""

    def add(carry, tile, offset):
        most, total = carry
        s = similarity(rows, tile, offset)
        if maximum is None:
            larger = jnp.maximum(most, jnp.max(s, (2, 3)))
            most, total = larger, total * jnp.exp(most - larger)
        return most, total + jnp.sum(jnp.exp(s - most[..., None, None]), (2, 3))

    low = -jnp.inf if maximum is None else maximum
    init = jnp.full(rows.shape[:2], low, rows.dtype)
    most, total = _fold(add, (init, jnp.zeros_like(init)), columns, block)
    return most + jnp.log(total)


def _fold(add, carry, columns, block):
    """Folds add(carry, tile, offset) over tiles [V, block, ...] of columns, in order.

    The last tile is smaller if the block does not divide the number of columns.

    Args:
      columns: tree of [V, M, ...].
    """
    m = jax.tree.leaves(columns)[0].shape[1]
    full, rest = divmod(m, block)

    def tile(offset, size):
        return jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, offset, size, 1), columns
        )

    def body(carry, i):
        # The compiler does not infer that the rows can stay on their devices.
        carry = jax.tree.map(split_rows, carry)
        return add(carry, tile(i * block, block), i * block), None

    if full == 1:
        carry = add(carry, tile(0, block), 0)
    elif full:
        carry, _ = jax.lax.scan(body, carry, jnp.arange(full))
    return add(carry, tile(full * block, rest), full * block) if rest else carry
