"""The crop and resize of evaluation in NumPy, for the users of an exported network.

`data.resizing.centre` does the same with TensorFlow; the results differ by rounding: by
one level of 255, in one value of thousands.
"""

import inspect

import numpy as np

NO_CROP = 32  # largest side, in pixels, of an encoder whose pictures are not cropped
CROP = 0.875
INTERPOLATION = (
    "bicubic (Keys, a = -0.5), half-pixel centres, no antialiasing, rounded to uint8"
)


def preprocess(image: np.ndarray, size: int) -> np.ndarray:
    """A picture, uint8 [H, W, 3], as evaluation sees it: uint8 [size, size, 3]."""
    height, width, _ = image.shape
    if size > 32:  # the central 7/8 of the shorter side
        side = max(round(0.875 * min(height, width)), 1)
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        image = image[top : top + side, left : left + side]
    x = image.astype(np.float32)
    for axis in (0, 1):  # bicubic, without antialiasing
        length = x.shape[axis]
        centre = (np.arange(size) + 0.5)[:, None] * length / size - 0.5
        taps = np.floor(centre).astype(int) + np.arange(-1, 3)
        d = np.abs(np.round(1024 * (centre - taps)) / 1024)
        near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
        weights = np.where(d <= 1, near, far) * ((taps >= 0) & (taps < length))
        matrix = np.zeros((size, length), np.float32)
        rows = np.arange(size)[:, None]
        np.add.at(matrix, (rows, taps.clip(0, length - 1)), weights)
        matrix /= matrix.sum(1, keepdims=True)
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return np.floor(x.clip(0, 255) + 0.5).astype(np.uint8)


def described(size: int) -> dict:
    """The crop and resize for images of this size, as numbers and as code."""
    return {
        "central crop": CROP if size > NO_CROP else None,
        "resize": [size, size],
        "interpolation": INTERPOLATION,
        "code": inspect.getsource(preprocess),
    }
