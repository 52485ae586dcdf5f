"""Crop windows of many square pictures at once: those that `augment.window` draws.

TensorFlow draws for one picture a call. Here are its generator, a counter through
Philox 4x32-10 (Salmon et al., 2011), and its sampler of crops on numpy's rows, so that
a picture has the same window whichever way it is read.
"""

import numpy as np

from simclr_jax.data import augment

ATTEMPTS = augment.ATTEMPTS
U32 = np.uint64(0xFFFFFFFF)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
KEY = np.uint64(0x3EC8F720), np.uint64(0x02461E29)  # scrambles what a caller gives


def windows(side: int, keys, view):
    """Draws one crop of each picture.

    Args:
      side: of the pictures, in pixels.
      keys: int64 [N, 2], of this view, from `augment.crop_keys`.
      view: a `view.View`.

    Returns:
      int32 [N, 4]: y, x, height, width.
    """
    random = _Philox(keys)
    if view.crop == "tf_bbox":
        return _tf_bbox(random, len(keys), np.float32(side), view)
    u = random.uniform(np.arange(augment.UNIFORMS[view.crop]))
    sides = np.full((len(keys), 2), side)
    return np.concatenate(augment.place(sides, u, view), 1)


def _tf_bbox(random, n, side, view):
    """TensorFlow's sampler, in its own arithmetic: float32, half to even."""
    low, high = map(np.float32, view.aspect)
    least, most = (np.float32(share) * side * side for share in view.area)
    crops = np.tile(np.array([0, 0, side, side], np.int32), (n, 1))
    left = np.arange(n)
    for _ in range(ATTEMPTS):
        aspect = random.take_uniform(left) * (high - low) + low
        height, top = (np.rint(np.sqrt(a / aspect)) for a in (least, most))
        fitting = np.floor(
            (float(side) + 0.5 - np.float32(1e-7)) / aspect.astype(float)
        )
        fitting -= np.rint(fitting.astype(np.float32) * aspect) > side
        top = np.where(np.rint(top * aspect) > side, fitting, top)
        top = np.minimum(top, side).astype(np.float32)
        height = np.minimum(height, top)
        room = np.where(height < top, top - height + 1, 0)
        height += random.take_below(left, room).astype(np.float32)
        # Out of bounds by the rounding: one pixel more, or one less.
        height += height * np.rint(height * aspect) < least
        height -= height * np.rint(height * aspect) > most
        width = np.rint(height * aspect)
        area = height * width
        fits = (area >= least) & (area <= most) & (height > 0) & (width > 0)
        fits &= (height <= side) & (width <= side)
        rows, height, width = left[fits], height[fits], width[fits]
        y = random.take_below(rows, side - height)
        x = random.take_below(rows, side - width)
        good = height * width / (side * side) >= augment.COVERED
        crops[rows[good]] = np.stack([y, x, height, width], 1)[good]
        left = np.setdiff1d(left, rows[good], assume_unique=True)
        if not len(left):
            break
    return crops


class _Philox:
    """TensorFlow's stateless numbers: a row for each key, and a place in each row.

    Args:
      keys: int64 [N, 2].
    """

    def __init__(self, keys):
        words = np.ascontiguousarray(keys, "<i8").view("<u4").astype(np.uint64)
        scrambled = _philox(tuple(words.T), KEY)
        self._key, self._counter = scrambled[:2], scrambled[2:]
        self._taken = np.zeros(len(keys), np.uint64)

    def uniform(self, places):
        """float32 [N, P] in [0, 1): the numbers at the places [P] of every row."""
        key, counter = ([a[:, None] for a in two] for two in (self._key, self._counter))
        return _unit(_bits(key, counter, places[None].astype(np.uint64)))

    def take_uniform(self, rows):
        """float32: the next number of some rows, in [0, 1)."""
        return _unit(self._take(rows))

    def take_below(self, rows, n):
        """int64 in [0, n), for some rows; 0, and nothing taken, where n is 0."""
        n, drawn = n.astype(np.uint64), np.zeros(len(rows), np.int64)
        todo = np.flatnonzero(n)
        while len(todo):
            bits, m = self._take(rows[todo]), n[todo]
            power = m & (m - np.uint64(1)) == 0
            good = power | (bits > U32 % m)  # the lowest would come too often
            drawn[todo] = bits % m
            todo = todo[~good]
        return drawn

    def _take(self, rows):
        key, counter = ([a[rows] for a in two] for two in (self._key, self._counter))
        bits = _bits(key, counter, self._taken[rows])
        self._taken[rows] += np.uint64(1)
        return bits


def _bits(key, counter, place):
    """uint64 below 2^32, four from each state of the counter."""
    block = _philox((place >> np.uint64(2), np.zeros_like(place), *counter), key)
    return np.choose((place & np.uint64(3)).astype(np.intp), block)


def _philox(c, key):
    """Ten rounds over four words of 32 bits."""
    k0, k1 = key
    for _ in range(10):
        a, b = MULTIPLIERS[0] * c[0], MULTIPLIERS[1] * c[2]
        c = (
            (b >> np.uint64(32)) ^ c[1] ^ k0,
            b & U32,
            (a >> np.uint64(32)) ^ c[3] ^ k1,
            a & U32,
        )
        k0, k1 = (k0 + STEPS[0]) & U32, (k1 + STEPS[1]) & U32
    return c


def _unit(bits):
    """The lower 23 of 32 bits as float32 in [0, 1)."""
    return (bits & np.uint64(2**23 - 1)).astype(np.float32) * np.float32(2**-23)
