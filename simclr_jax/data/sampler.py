"""The examples of a step, by a keyed permutation; the step is the whole state.

There is no shuffle buffer and nothing is stored: the order of an epoch is a bijection,
evaluated only at the positions of a process, so it can start at any step.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from simclr_jax.data.hash import GOLDEN, mix

ROUNDS = 6
LANES = 64
STRIDE = 39  # odd and near 64 / golden ratio: neighbouring lanes begin far apart


def permute(i: ArrayLike, n: ArrayLike, *keys: ArrayLike) -> np.ndarray:
    """A pseudorandom bijection of [0, n), selected by the keys, at the positions i.

    A Feistel network on the smallest power of four that is at least n; it is applied
    again to results outside [0, n) until they are inside.

    Args:
      i: integers in [0, n).
      n: the size, at least 1.
      keys: 64-bit integers, of any sign; each tuple of them is another bijection.

    All arguments broadcast: elements may differ in n and keys.

    Returns:
      int64, of the common shape.
    """
    arrays = np.broadcast_arrays(i, n, *keys)
    position, size, *parts = (a.ravel().astype(np.uint64) for a in arrays)
    key = _digest(parts)
    half = _half_width(size)
    out = _feistel(position, half, key)
    outside = out >= size
    while outside.any():
        out[outside] = _feistel(out[outside], half[outside], key[outside])
        outside = out >= size
    return out.astype(np.int64).reshape(arrays[0].shape)


def _half_width(n):
    """uint64 h >= 1 with 4**h >= n."""
    bits = np.frexp((np.maximum(n, 2) - np.uint64(1)).astype(np.float64))[1]
    return ((bits + 1) // 2).astype(np.uint64)


def _feistel(x, half, key):
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for r in range(1, ROUNDS + 1):
        left, right = right, left ^ (_mix(right ^ _mix(key ^ np.uint64(r))) & mask)
    return (left << half) | right


def _digest(keys):
    digest = np.zeros_like(keys[0])
    for key in keys:
        digest = _mix(digest ^ _mix(key))
    return digest


def _mix(x):
    return mix(x + GOLDEN)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The examples of every step, for any number of processes.

    With block = 1 an epoch is one permutation of all n examples, cut into batches.

    With block > 1, for storage where one request costs more than many records, the rows
    of a batch are divided into lanes of equally many consecutive rows. A process has
    whole lanes and shares no block with other processes. In each epoch the blocks of
    consecutive records are permuted, and each lane reads its part of them and permutes
    the records within a window of blocks. The windows of different lanes begin at
    different steps, which spreads the requests evenly.

    The last n % batch_size examples of an epoch's order are dropped; they differ from
    epoch to epoch (with block > 1 as well, because the short last block moves too).

    Attributes:
      n: examples in the set.
      batch_size: rows of the global batch.
      seed: any integer.
      block: consecutive records that are read together.
      window: blocks of a lane among which records are mixed, for block > 1.

    Raises:
      ValueError: the batch is larger than the set, or not positive.
    """

    n: int
    batch_size: int
    seed: int
    block: int = 1
    window: int = 2

    def __post_init__(self):
        for name in ("batch_size", "block", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.batch_size > self.n:
            raise ValueError(
                f"data.batch_size={self.batch_size} is larger than the data set "
                f"({self.n} examples); choose at most {self.n}, or more data."
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.n // self.batch_size

    @property
    def lanes(self) -> int:
        """The largest power of two that divides the batch, at most 64."""
        return 1 if self.block == 1 else min(LANES, self.batch_size & -self.batch_size)

    def indices(
        self, step: int, process_index: int = 0, process_count: int = 1
    ) -> tuple[np.ndarray, int]:
        """This process's rows of the global batch of a step.

        Args:
          step: updates done before this one, from 0.
          process_index: p in [0, P).
          process_count: P, a divisor of the batch; p has the rows [p*B/P, (p+1)*B/P).

        Returns:
          int64 [B/P] examples, and the epoch, an int from 0.

        Raises:
          ValueError: the processes do not divide the batch.
        """
        if self.batch_size % process_count:
            raise ValueError(
                f"data.batch_size={self.batch_size} does not divide among "
                f"{process_count} processes; choose a multiple of {process_count}."
            )
        epoch, step = divmod(int(step), self.steps_per_epoch)
        count = self.batch_size // process_count
        rows = np.arange(process_index * count, (process_index + 1) * count)
        if self.block == 1:
            position = step * self.batch_size + rows
            return permute(position, self.n, self.seed, epoch), epoch
        return self._record(self._position(step, epoch, rows), epoch), epoch

    def _position(self, step, epoch, rows):
        """The position of each row of a batch in the epoch's sequence of blocks."""
        width = self.batch_size // self.lanes
        length = self.steps_per_epoch * width  # of a lane, in records
        span = self.window * self.block
        lane, row = np.divmod(rows, width)
        shift = lane * STRIDE % self.lanes * span // self.lanes  # where windows begin
        t = step * width + row
        w = (t + shift) // span
        begin = np.maximum(w * span - shift, 0)
        size = np.minimum((w + 1) * span - shift, length) - begin
        offset = permute(t - begin, size, self.seed, epoch, lane, w)
        return lane * length + begin + offset

    def _record(self, position, epoch):
        """The record at each position; the short last block is permuted, too."""
        full, tail = divmod(self.n, self.block)
        begin = permute(0, full + 1, self.seed, epoch, full) * self.block  # of the tail
        after = position >= begin + tail
        slot, offset = np.divmod(position - tail * after, self.block)
        blocks = max(full, 1)
        moved = permute(slot % blocks, blocks, self.seed, epoch) * self.block + offset
        in_tail = (position >= begin) & ~after
        return np.where(in_tail, full * self.block + position - begin, moved)
