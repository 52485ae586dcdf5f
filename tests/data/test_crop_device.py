"""Crops on the device against those of the host, TensorFlow and PIL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data import augment, resizing
from simclr_jax.data.crop_device import crop, weights
from simclr_jax.data.crop_windows import draw_windows
from simclr_jax.data.view import View

SIDE = 32
crop_on_device = jax.jit(crop, static_argnums=2)


def pictures(n, side=SIDE):
    """Noise, which has the largest overshoot."""
    return (
        np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)
    )


@pytest.mark.parametrize("method", ["bicubic", "pil_bilinear", "pil_bicubic"])
@pytest.mark.parametrize("size", [32, 24])
def test_crops_equal_those_of_the_host(method, size):
    view = View(size=size, resize=method, crop="inception_log", area=(0.02, 1.0))
    n = 100
    keys, x = augment.crop_keys(1, 0, 0, np.arange(n))[:, 0], pictures(n)
    result = crop_on_device(x, draw_windows(SIDE, keys, view), view)
    crop = tf.function(lambda image, key: augment.crop(image, key, view))
    expected = [crop(*map(tf.constant, row)) for row in zip(x, keys, strict=True)]
    gap = np.abs(255 * np.asarray(result) - np.stack(expected))
    # A position between two entries of TensorFlow's table may go to either.
    assert np.quantile(gap, 0.999) < 1e-3
    assert gap.max() < 0.5


def test_windows_of_every_shape():
    """Single pixels, lines, corners and the whole picture."""
    x = pictures(1)
    for window in ((0, 0, 1, 1), (31, 31, 1, 1), (0, 5, 32, 1), (9, 0, 1, 32)):
        y, left, h, w = window
        for method in ("bicubic", "pil_bilinear", "pil_bicubic"):
            view = View(size=8, resize=method)
            result = crop_on_device(x, np.array([window], np.int32), view)[0]
            part = x[0, y : y + h, left : left + w]
            expected = resizing.resize(tf.constant(part), 8, method) / 255
            np.testing.assert_allclose(result, expected, atol=1e-6)
    view = View(size=SIDE)
    whole = np.array([[0, 0, SIDE, SIDE]], np.int32)
    np.testing.assert_allclose(crop_on_device(x, whole, view), x / 255, atol=1e-6)


def test_weights_of_a_row():
    """The numbers of test_augment.py's fixture, by hand."""
    row = np.array((0, 0, 1, 0, 0, 0, 0, 0), np.float32)
    offset, length = jnp.zeros(1, jnp.int32), jnp.full(1, 8, jnp.int32)
    result = weights(offset, length, 8, View(size=4))[0] @ row
    np.testing.assert_allclose(result, (-0.05882353, 0.5625, 0, 0), atol=1e-6)


def test_a_crop_depends_on_its_window_only():
    x = pictures(4)
    window = np.tile(np.array([[8, 4, 10, 20]], np.int32), (4, 1))
    spoilt = np.full_like(x, 255)
    spoilt[:, 8:18, 4:24] = x[:, 8:18, 4:24]
    for method in ("bicubic", "pil_bilinear", "pil_bicubic"):
        view = View(size=16, resize=method)
        np.testing.assert_array_equal(
            crop_on_device(x, window, view), crop_on_device(spoilt, window, view)
        )
