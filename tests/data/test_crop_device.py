"""Crops on the device against the host's, which are TensorFlow's and PIL's."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data import augment
from simclr_jax.data.crop_device import cut, weights
from simclr_jax.data.crop_windows import windows
from simclr_jax.data.view import View

SIDE = 32
cut_on_device = jax.jit(cut, static_argnums=2)


def pictures(n, side=SIDE):
    """Noise: nothing overshoots more."""
    return (
        np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)
    )


@pytest.mark.parametrize("kind", ["bicubic", "pil_bilinear", "pil_bicubic"])
@pytest.mark.parametrize("size", [32, 24])
def test_crops_are_the_host_s(kind, size):
    view = View(size=size, resize=kind, crop="inception_log", area=(0.02, 1.0))
    n = 100
    keys, x = augment.crop_keys(1, 0, 0, np.arange(n))[:, 0], pictures(n)
    found = cut_on_device(x, windows(SIDE, keys, view), view)
    crop = tf.function(lambda image, key: augment.crop(image, key, view))
    want = [crop(*map(tf.constant, row)) for row in zip(x, keys, strict=True)]
    gap = np.abs(255 * np.asarray(found) - np.stack(want))
    # A place between two entries of TensorFlow's table may go to either.
    assert np.quantile(gap, 0.999) < 1e-3
    assert gap.max() < 0.5


def test_windows_of_every_shape():
    """Single pixels and lines, corners, the whole."""
    x = pictures(1)
    for window in ((0, 0, 1, 1), (31, 31, 1, 1), (0, 5, 32, 1), (9, 0, 1, 32)):
        y, left, h, w = window
        for kind in ("bicubic", "pil_bilinear", "pil_bicubic"):
            view = View(size=8, resize=kind)
            found = cut_on_device(x, np.array([window], np.int32), view)[0]
            part = x[0, y : y + h, left : left + w]
            want = augment.resize(tf.constant(part), 8, kind) / 255
            np.testing.assert_allclose(found, want, atol=1e-6)
    view = View(size=SIDE)
    whole = np.array([[0, 0, SIDE, SIDE]], np.int32)
    np.testing.assert_allclose(cut_on_device(x, whole, view), x / 255, atol=1e-6)


def test_weights_of_a_row():
    """The numbers of test_augment.py's fixture, by hand."""
    row = np.array((0, 0, 1, 0, 0, 0, 0, 0), np.float32)
    start, length = np.zeros(1, np.int32), np.full(1, 8, np.int32)
    found = weights(start, length, 8, View(size=4))[0] @ row
    np.testing.assert_allclose(found, (-0.05882353, 0.5625, 0, 0), atol=1e-6)


def test_a_crop_sees_nothing_beyond_its_window():
    x = pictures(4)
    window = np.tile(np.array([[8, 4, 10, 20]], np.int32), (4, 1))
    spoilt = np.full_like(x, 255)
    spoilt[:, 8:18, 4:24] = x[:, 8:18, 4:24]
    for kind in ("bicubic", "pil_bilinear", "pil_bicubic"):
        view = View(size=16, resize=kind)
        np.testing.assert_array_equal(
            cut_on_device(x, window, view), cut_on_device(spoilt, window, view)
        )
