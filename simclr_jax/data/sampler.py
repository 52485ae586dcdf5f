"""Which examples a step sees: a keyed permutation, so the step is the whole state.

Nothing is shuffled and nothing is stored. The order of an epoch is a bijection that is
evaluated at the positions one asks for, so any process starts anywhere at once.
"""

import dataclasses

import numpy as np

from simclr_jax.data.hash import GOLDEN, mix

ROUNDS = 6
LANES = 64
STRIDE = 39  # odd and near 64 / golden ratio: neighbouring lanes start far apart


def permute(i, n, *keys):
    """A random-looking bijection of [0, n), chosen by the keys, at the positions i.

    A Feistel network on the smallest power of four that holds n; positions that land
    outside [0, n) walk on along their cycle until they are inside.

    Args:
      i: integers in [0, n).
      n: the size, at least 1.
      keys: 64-bit integers, of any sign; each tuple of them is another bijection.

    All arguments broadcast: each element may have its own n and its own keys.

    Returns:
      int64, of the common shape.
    """
    i, n, *keys = np.broadcast_arrays(i, n, *keys)
    shape = i.shape
    i, n, *keys = (a.ravel().astype(np.uint64) for a in (i, n, *keys))
    key = _digest(keys)
    half = _half_width(n)
    out = _feistel(i, half, key)
    outside = out >= n
    while outside.any():
        out[outside] = _feistel(out[outside], half[outside], key[outside])
        outside = out >= n
    return out.astype(np.int64).reshape(shape)


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
class Order:
    """The examples of every step, for any number of processes.

    With block = 1 an epoch is one permutation of all n examples, cut into batches.

    With block > 1, for storage where one request costs more than many records, the
    batch is made of lanes: equal runs of neighbouring rows, so that a process owns
    whole lanes and reads for itself alone. The epoch permutes the blocks of consecutive
    records, each lane walks through its share of them and permutes the records within
    a window of blocks. The lanes' windows begin at different steps, so that requests
    come evenly.

    The last n % batch_size examples of an epoch's order are dropped; they are others in
    each epoch (with block > 1 as well, because the short last block moves too).

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

    def indices(self, step: int, process_index: int = 0, process_count: int = 1):
        """This process's rows of the global batch of a step.

        Args:
          step: updates done before this one, from 0.
          process_index: p in [0, P).
          process_count: P, a divisor of the batch; rows [p*B/P, (p+1)*B/P) are p's.

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
        mine = self.batch_size // process_count
        rows = np.arange(process_index * mine, (process_index + 1) * mine)
        if self.block == 1:
            position = step * self.batch_size + rows
            return permute(position, self.n, self.seed, epoch), epoch
        return self._record(self._position(step, epoch, rows), epoch), epoch

    def _position(self, step, epoch, rows):
        """Where in the epoch's sequence of blocks each row of a batch reads."""
        width = self.batch_size // self.lanes
        length = self.steps_per_epoch * width  # of a lane, in records
        span = self.window * self.block
        lane, row = np.divmod(rows, width)
        shift = lane * STRIDE % self.lanes * span // self.lanes  # where windows begin
        t = step * width + row
        w = (t + shift) // span
        start = np.maximum(w * span - shift, 0)
        size = np.minimum((w + 1) * span - shift, length) - start
        within = permute(t - start, size, self.seed, epoch, lane, w)
        return lane * length + start + within

    def _record(self, position, epoch):
        """The record at each position when blocks, and the short last one, move."""
        full, tail = divmod(self.n, self.block)
        at = permute(0, full + 1, self.seed, epoch, full) * self.block
        after = position >= at + tail
        slot, offset = np.divmod(position - tail * after, self.block)
        blocks = max(full, 1)
        moved = permute(slot % blocks, blocks, self.seed, epoch) * self.block + offset
        in_tail = (position >= at) & ~after
        return np.where(in_tail, full * self.block + position - at, moved)
