"""Crop windows of many square pictures at once, equal to those of `augment.window`.

TensorFlow draws one window per call. Here its generator, the counter-based Philox
4x32-10 (Salmon et al., 2011), and its sampler of crops work on numpy arrays of many
pictures, and give the same window for a crop on the device as for one on the host.
"""

import numpy as np

from simclr_jax.data import augment
from simclr_jax.data.view import View

ATTEMPTS = augment.ATTEMPTS
U32 = np.uint64(0xFFFFFFFF)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
KEY = np.uint64(0x3EC8F720), np.uint64(0x02461E29)  # scrambles the caller's keys


def draw_windows(side: int, keys: np.ndarray, view: View) -> np.ndarray:
    """Draws one crop of each picture.

    Args:
      side: of the pictures, in pixels.
      keys: int64 [N, 2], of this view, from `augment.crop_keys`.
      view: only `crop`, `crop_probability`, `area` and `aspect` are used.

    Returns:
      int32 [N, 4]: y, x, height, width.
    """
    windows = _sample(side, keys, view)
    if view.crop_probability < 1:
        u = _Philox(keys + augment.OTHER_KEY).uniform(np.arange(1))[:, 0]
        windows[u >= np.float32(view.crop_probability)] = 0, 0, side, side
    return windows


def _sample(side, keys, view):
    random = _Philox(keys)
    if view.crop == "tf_bbox":
        return _tf_bbox(random, len(keys), np.float32(side), view)
    u = random.uniform(np.arange(augment.UNIFORMS[view.crop]))
    sides = np.full((len(keys), 2), side)
    return np.concatenate(augment.windows_from_uniform(sides, u, view), 1)


def _tf_bbox(random, n, side, view):
    """TensorFlow's sampler, in the same arithmetic: float32, rounds half to even."""
    low, high = map(np.float32, view.aspect)
    smallest, largest = (np.float32(share) * side * side for share in view.area)
    crops = np.tile(np.array([0, 0, side, side], np.int32), (n, 1))
    pending = np.arange(n)
    for _ in range(ATTEMPTS):
        aspect = random.take_uniform(pending) * (high - low) + low
        height, top = (np.rint(np.sqrt(a / aspect)) for a in (smallest, largest))
        fitting = np.floor(
            (float(side) + 0.5 - np.float32(1e-7)) / aspect.astype(float)
        )
        fitting -= np.rint(fitting.astype(np.float32) * aspect) > side
        top = np.where(np.rint(top * aspect) > side, fitting, top)
        top = np.minimum(top, side).astype(np.float32)
        height = np.minimum(height, top)
        count = np.where(height < top, top - height + 1, 0)
        height += random.take_below(pending, count).astype(np.float32)
        # If rounding put the area out of bounds: one pixel more, or one less.
        height += height * np.rint(height * aspect) < smallest
        height -= height * np.rint(height * aspect) > largest
        width = np.rint(height * aspect)
        area = height * width
        fits = (area >= smallest) & (area <= largest) & (height > 0) & (width > 0)
        fits &= (height <= side) & (width <= side)
        rows, height, width = pending[fits], height[fits], width[fits]
        y = random.take_below(rows, side - height)
        x = random.take_below(rows, side - width)
        good = height * width / (side * side) >= augment.MIN_COVERED
        crops[rows[good]] = np.stack([y, x, height, width], 1)[good]
        pending = np.setdiff1d(pending, rows[good], assume_unique=True)
        if not len(pending):
            break
    return crops


class _Philox:
    """TensorFlow's stateless random numbers: a sequence (row) for each of N keys.

    Args:
      keys: int64 [N, 2].
    """

    def __init__(self, keys):
        halves = np.ascontiguousarray(keys, "<i8").view("<u4").astype(np.uint64)
        scrambled = _philox(tuple(halves.T), KEY)
        self._key, self._counter = scrambled[:2], scrambled[2:]
        self._position = np.zeros(len(keys), np.uint64)

    def uniform(self, positions):
        """float32 [N, P] in [0, 1): the numbers at the positions [P] of every row."""
        key, counter = ([a[:, None] for a in two] for two in (self._key, self._counter))
        return _unit(_bits(key, counter, positions[None].astype(np.uint64)))

    def take_uniform(self, rows):
        """float32 [R] in [0, 1): the next number of R rows."""
        return _unit(self._take(rows))

    def take_below(self, rows, n):
        """int64 [R] in [0, n), for R rows; 0, and no number is drawn, if n is 0."""
        n, drawn = n.astype(np.uint64), np.zeros(len(rows), np.int64)
        pending = np.flatnonzero(n)
        while len(pending):
            bits, m = self._take(rows[pending]), n[pending]
            power = m & (m - np.uint64(1)) == 0
            good = power | (bits > U32 % m)  # else small results were too frequent
            drawn[pending] = bits % m
            pending = pending[~good]
        return drawn

    def _take(self, rows):
        key, counter = ([a[rows] for a in two] for two in (self._key, self._counter))
        bits = _bits(key, counter, self._position[rows])
        self._position[rows] += np.uint64(1)
        return bits


def _bits(key, counter, position):
    """Random uint64 below 2^32; each value of the counter gives four of them."""
    block = _philox((position >> np.uint64(2), np.zeros_like(position), *counter), key)
    return np.choose((position & np.uint64(3)).astype(np.intp), block)


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
