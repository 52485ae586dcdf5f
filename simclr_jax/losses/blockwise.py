"""Sums over all columns of a similarity matrix that is never there as a whole.

The columns come a block at a time, forward and once more backward, where similarities
are computed anew. The result is the dense one's up to rounding: nothing is left out or
sampled. Rows stay on their devices; the columns are on all of them.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from simclr_jax.sharding import all_gather, split_rows

DENSE = 2**26  # bytes of similarities on a device up to which all are made at once
TILE = 2**23  # and of a block of them where they are not
REACH = 60.0  # exp(-REACH) is far from float32's smallest number

_notes: contextvars.ContextVar = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def noting():
    """A list that gets a line on every choice made inside."""
    notes = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def choose(block: int, rows: int, columns: int, views: int = 1) -> int:
    """How many columns of each view are looked at together.

    Args:
      block: the caller's choice, or 0 to have one made: all, where they are not too
        many for one matrix.
      rows: of all views, over the whole mesh.
      columns: M, of each view.
      views: W.

    Raises:
      ValueError: if the block is negative.
    """
    if block < 0:
        raise ValueError(f"block must be 0 (to have one chosen) or above, got {block}.")
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    each = 4 * rows * views // devices  # bytes of one more column on a device
    if block == 0:
        block = columns if each * columns <= DENSE else TILE // each
    block = max(min(block, columns), 1)
    if (notes := _notes.get()) is not None:
        how = "at once" if block == columns else f"{block * views} at a time"
        notes.append(f"similarities of {rows} to {columns * views}: {how}")
    return block


def within_reach(low: float, high: float) -> float | None:
    """The maximum to count from where it is known and will do for all, else None."""
    return high if high - low <= REACH else None


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def mean_log_sum_of_others(
    z, similarity: Callable, block: int, top: float | None, gather: str = ""
):
    """Mean over all points of the log of their summed similarities to all others.

    As the similarity is symmetric, what a point gets as a column is what it gives as
    one: with the log-sums of all at hand, each device makes the whole gradient of its
    own rows, and none has to travel.

    Args:
      z: [V, N, D]; the V * N points are rows and columns.
      similarity: log of a symmetric similarity: [V, N, D], [V, M, D] -> [V, N, V, M].
      block: M, columns of each view that are looked at together.
      top: what to count from, see `within_reach`; None finds the largest on the way,
        at a higher price.
      gather: dtype in which the columns travel; "": that of z.

    Returns:
      [].
    """
    return _others_forward(z, similarity, block, top, gather)[0]


def _others_forward(z, similarity, block, top, gather):
    columns = all_gather(z.astype(gather or z.dtype))
    sums = _log_sum(z, columns, _others(similarity), block, top)
    return jnp.mean(sums), (z, columns, sums)


def _others_backward(similarity, block, top, gather, kept, slope):
    z, columns, sums = kept

    def add(total, tiles, start):
        tile, theirs = tiles
        near, pull = jax.vjp(lambda z: _others(similarity)(z, tile, start), z)
        share = jnp.exp(near - sums[..., None, None])
        share += jnp.exp(near - theirs[None, None])
        return total + pull(share * (slope / sums.size))[0]

    return (_fold(add, jnp.zeros_like(z), (columns, all_gather(sums)), block),)


mean_log_sum_of_others.defvjp(_others_forward, _others_backward)


def _others(similarity):
    """The similarity of rows to a tile of the same points, of none to itself."""

    def near(rows, tile, start):
        s = similarity(rows, tile)
        v, n, w, m = (jax.lax.broadcasted_iota(jnp.int32, s.shape, i) for i in range(4))
        return jnp.where((v == w) & (n == m + start), -jnp.inf, s)

    return near


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def log_sum(rows, columns, similarity: Callable, block: int, top: float | None):
    """The log of the summed similarities of each row to all columns.

    Args:
      rows: [V, N, D].
      columns: [W, M, D], on all devices.
      similarity: its log: [V, N, D], [W, M, D] -> [V, N, W, M].
      block, top: as above.

    Returns:
      [V, N].
    """
    return _log_sum(rows, columns, _all(similarity), block, top)


def _forward(rows, columns, similarity, block, top):
    sums = _log_sum(rows, columns, _all(similarity), block, top)
    return sums, (rows, columns, sums)


def _backward(similarity, block, top, kept, slope):
    rows, columns, sums = kept

    def add(totals, tile, start):
        near, pull = jax.vjp(similarity, rows, tile)
        own, theirs = pull(
            jnp.exp(near - sums[..., None, None]) * slope[..., None, None]
        )
        of_rows, of_columns = totals
        theirs = jax.lax.dynamic_update_slice_in_dim(of_columns, theirs, start, 1)
        return of_rows + own, theirs

    zeros = jax.tree.map(jnp.zeros_like, (rows, columns))
    return _fold(add, zeros, columns, block)


log_sum.defvjp(_forward, _backward)


def _all(similarity):
    return lambda rows, tile, start: similarity(rows, tile)


def _metric(measure):
    """measure(rows, columns, similarity, block), of which nobody wants the slope.

    Without saying so, a gradient of the loss beside it would keep all blocks.
    """
    alone = jax.custom_vjp(measure, nondiff_argnums=(2, 3))
    alone.defvjp(lambda *said: (measure(*said), None), lambda *_: (None, None))
    return functools.wraps(measure)(alone)


@_metric
def most_similar(rows, columns, similarity: Callable, block: int):
    """The largest similarity of each row to any column: [V, N]."""

    def add(most, tile, start):
        return jnp.maximum(most, jnp.max(similarity(rows, tile), (2, 3)))

    return _fold(add, jnp.full(rows.shape[:2], -jnp.inf, rows.dtype), columns, block)


@_metric
def retrieve(rows, columns, similarity: Callable, block: int):
    """How each row finds its own column, row i's being column i.

    Args:
      rows: [1, N, D].
      columns: [W, N, D], on all devices; only the last view is looked at.

    Returns:
      right: bool [N], the own column is nearer than every other one.
      entropy: [N] of the softmax over the columns, in nats.
    """

    def add(carry, tile, start):
        own, rival, most, total, moment = carry
        s = similarity(rows, tile[-1:])[:, :, 0]
        n, m = (jax.lax.broadcasted_iota(jnp.int32, s.shape, i) for i in (1, 2))
        mine = n == m + start
        own += jnp.sum(jnp.where(mine, s, 0), 2)
        rival = jnp.maximum(rival, jnp.max(jnp.where(mine, -jnp.inf, s), 2))
        found = jnp.maximum(most, jnp.max(s, 2))
        weights, keep = jnp.exp(s - found[..., None]), jnp.exp(most - found)
        total = total * keep + jnp.sum(weights, 2)
        moment = moment * keep + jnp.sum(weights * s, 2)
        return own, rival, found, total, moment

    zero = jnp.zeros(rows.shape[:2], rows.dtype)
    low = jnp.full_like(zero, -jnp.inf)
    first = (zero, low, low, zero, zero)
    own, rival, most, total, moment = _fold(add, first, columns, block)
    return (own > rival)[0], (most + jnp.log(total) - moment / total)[0]


def _log_sum(rows, columns, near, block, top):
    """log sum exp of near(rows, tile, start) over all tiles: [V, N]."""

    def add(carry, tile, start):
        most, total = carry
        s = near(rows, tile, start)
        if top is None:
            found = jnp.maximum(most, jnp.max(s, (2, 3)))
            most, total = found, total * jnp.exp(most - found)
        return most, total + jnp.sum(jnp.exp(s - most[..., None, None]), (2, 3))

    first = jnp.full(rows.shape[:2], -jnp.inf if top is None else top, rows.dtype)
    most, total = _fold(add, (first, jnp.zeros_like(first)), columns, block)
    return most + jnp.log(total)


def _fold(add, carry, columns, block):
    """add(carry, tile, start) over tiles [V, block, ...] of columns; a rest comes last.

    Args:
      columns: tree of [V, M, ...].
    """
    m = jax.tree.leaves(columns)[0].shape[1]
    full, rest = divmod(m, block)

    def tile(start, size):
        return jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, 1), columns
        )

    def one(carry, i):
        # The compiler does not see by itself that the rows can stay where they are.
        carry = jax.tree.map(split_rows, carry)
        return add(carry, tile(i * block, block), i * block), None

    if full == 1:
        carry = add(carry, tile(0, block), 0)
    elif full:
        carry, _ = jax.lax.scan(one, carry, jnp.arange(full))
    return add(carry, tile(full * block, rest), full * block) if rest else carry
