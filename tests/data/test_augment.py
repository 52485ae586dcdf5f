"""Windows, resizing, decoding and draws against the spec and against other code."""

import dataclasses
import io
import itertools

import jax
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax.data import augment, resizing
from simclr_jax.data.recipes import crop_flip, simclr
from simclr_jax.data.view import CROPS, View

DRAWS = 20_000


def windows(height, width, view, n=DRAWS):
    """(y, x, h, w) of n windows, [n, 4]."""
    keys = augment.crop_keys(1, 0, 0, np.arange(n))[:, 0]
    return one_by_one(height, width, keys, view)


def one_by_one(height, width, keys, view):
    """(y, x, h, w) of a window for each key, [n, 4]."""
    shape = tf.constant([height, width, 3])

    @tf.function
    def draw(keys):
        def one(key):
            begin, size = augment.window(shape, key, view)
            return tf.concat([begin[:2], size[:2]], 0)

        return tf.map_fn(one, keys, fn_output_signature=tf.int32, parallel_iterations=1)

    return draw(tf.constant(keys)).numpy()


# Spec 1.2 and 9.6.
@pytest.mark.parametrize(
    ("crop", "height", "width", "mean", "median"),
    [
        ("tf_bbox", 256, 256, 0.422, 0.387),
        ("tf_bbox", 375, 500, 0.387, None),
        ("tf_bbox", 32, 32, 0.433, 0.391),
        ("inception_log", 256, 256, 0.534, 0.539),
        ("inception_log", 375, 500, 0.519, None),
        ("torch", 256, 256, 0.479, 0.475),
        ("torch", 375, 500, 0.433, None),
    ],
)
def test_crop_statistics(crop, height, width, mean, median):
    y, x, h, w = windows(height, width, View(size=32, crop=crop)).T
    area = h * w / (height * width)
    assert area.mean() == pytest.approx(mean, abs=0.005)
    if median is not None:
        assert np.median(area) == pytest.approx(median, abs=0.006)
    assert min(y.min(), x.min()) >= 0
    assert (y + h).max() <= height
    assert (x + w).max() <= width
    assert area.max() <= 1
    if crop == "tf_bbox":
        assert area.min() >= 0.1  # a tenth of the picture must be covered
        assert not np.any((y + h == height) & (h < height))  # exclusive upper end
    else:
        assert 0.07 < area.min() < 0.09
        assert np.any((y + h == height) & (h < height))
    if height == 256 and crop == "tf_bbox":
        assert (w / h).mean() == pytest.approx(1.042, abs=0.005)
    if height == 256 and crop == "torch":
        shares = np.quantile(area, (0.1, 0.25, 0.75, 0.9))
        np.testing.assert_allclose(shares, (0.161, 0.278, 0.672, 0.797), atol=0.008)
    if height == 256 and crop != "tf_bbox":
        free = (h < 128) & (w < 128)  # small windows are hardly ever clamped
        aspect = np.log(w / h)[free]
        assert aspect.mean() == pytest.approx(0, abs=0.01)
        assert aspect.std() == pytest.approx(np.log(16 / 9) / 12**0.5, abs=0.01)


def test_torch_tries_ten_times():
    """Its algorithm as a plain loop over the same numbers; most tries do not fit."""
    view = View(size=8, crop="torch", area=(0.9, 1.0))
    expected, fallen = [], 0
    for key in augment.crop_keys(1, 0, 0, np.arange(300))[:, 0]:
        u = tf.random.stateless_uniform([11, 2], key).numpy().astype(float)
        for a, b in u[:10]:
            area = 60 * 50 * (0.9 + 0.1 * a)
            aspect = np.exp(np.log(3 / 4) + b * np.log(16 / 9))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if w <= 50 and h <= 60:
                expected.append(
                    (int(u[10, 0] * (61 - h)), int(u[10, 1] * (51 - w)), h, w)
                )
                break
        else:
            expected.append((0, 0, 60, 50))
            fallen += 1
    np.testing.assert_array_equal(windows(60, 50, view, 300), expected)
    assert 10 < fallen < 290


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 1000, (0, 493, 10, 13)),
        (1000, 10, (493, 0, 13, 10)),
        (48, 48, (0, 0, 48, 48)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_torch_ends_with_the_largest_central_crop(height, width, expected):
    view = View(size=8, crop="torch", area=(1.0, 1.0))
    assert {tuple(w) for w in windows(height, width, view, 20)} == {expected}


def test_events_have_the_recipe_s_probabilities():
    view = dataclasses.replace(simclr(size=32)[0], solarise=0.3)
    drawn = augment.draw((view, view), 7, 3, 0, np.arange(DRAWS))
    for view_draws in drawn:
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            p = getattr(view, name)
            assert view_draws[name].mean() == pytest.approx(
                p, abs=4 * (p * (1 - p) / DRAWS) ** 0.5
            )


def test_orders_are_uniform_over_all_24():
    (drawn,) = augment.draw((simclr(size=32)[0],), 0, 0, 0, np.arange(DRAWS))
    orders, counts = np.unique(drawn["order"], axis=0, return_counts=True)
    assert orders.tolist() == [list(p) for p in itertools.permutations(range(4))]
    expected = DRAWS / 24
    assert np.sum((counts - expected) ** 2 / expected) < 49.7  # chi2, 23 dof, p = 0.001


@pytest.mark.parametrize(
    ("brightness", "low", "high"),
    [("additive", -0.4, 0.4), ("multiplicative", 0.6, 1.4)],
)
def test_factors_are_uniform_over_their_ranges(brightness, low, high):
    view = simclr(size=32, strength=0.5, brightness=brightness)[0]
    (drawn,) = augment.draw((view,), 0, 0, 0, np.arange(DRAWS))
    ranges = ((low, high), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1))
    columns = [*zip(drawn["factors"].T, ranges, strict=True)]
    columns.append((drawn["sigma"], (0.1, 2.0)))
    for values, (a, b) in columns:
        assert values.dtype == np.float32
        u = (values - a) / (b - a)
        assert u.min() >= -1e-6
        assert u.max() <= 1 + 1e-6
        bins = np.histogram(u, 10, (0, 1))[0]
        assert np.abs(bins - DRAWS / 10).max() < 5 * (DRAWS * 0.09) ** 0.5


def test_draws_are_independent_of_each_other():
    """No two columns, views, epochs or seeds, nor neighbours, are correlated."""
    view = simclr(size=32)[0]

    def table(seed, epoch, start=0):
        index = np.arange(start, start + DRAWS)
        drawn = augment.draw((view, view), seed, epoch, 0, index)
        return [
            column
            for d in drawn
            for column in (d["flip"], d["jitter"], d["sigma"], *d["factors"].T)
        ]

    columns = table(0, 0) + table(1, 0) + table(0, 1) + table(0, 0, 1)
    correlation = np.corrcoef(np.array(columns, np.float64)) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / DRAWS**0.5


def test_draws_depend_on_the_picture_only():
    view = simclr(size=32)[0]
    index = np.array([5, 0, 1_281_166, 77])
    whole = augment.draw((view, view), -3, 2, 9, index)
    for row, i in enumerate(index):
        alone = augment.draw((view, view), -3, 2, 1, np.array([i]))
        for a, b in zip(whole, alone, strict=True):
            assert all(np.array_equal(a[k][row], b[k][0]) for k in a)


def test_blur_sigma_batch_gives_one_sigma_a_batch():
    view = simclr(size=32, blur_sigma="batch")[0]

    def sigma(step):
        drawn = augment.draw((view, view), 0, 0, step, np.arange(50))
        assert all(len(np.unique(d["sigma"])) == 1 for d in drawn)
        return [d["sigma"][0] for d in drawn]

    steps = [sigma(step) for step in range(200)]
    assert len(np.unique(steps)) == 400  # another in every view and step
    assert np.mean(steps) == pytest.approx(1.05, abs=0.1)


def test_crop_keys_are_distinct():
    keys = [
        augment.crop_keys(2, seed, epoch, np.arange(100))
        for seed, epoch in itertools.product((0, 1), (0, 1))
    ]
    assert len(np.unique(keys)) == np.size(keys)


@pytest.mark.parametrize(
    ("row", "size", "expected"),
    [
        (
            range(4),
            8,
            (
                -0.08823530,
                0.16788322,
                0.70992370,
                1.25,
                1.75,
                2.29007630,
                2.83211680,
                3.08823560,
            ),
        ),
        ((0, 0, 1, 0, 0, 0, 0, 0), 4, (-0.05882353, 0.5625, 0, 0)),
    ],
)
def test_bicubic_fixtures(row, size, expected):
    n = len(row)
    image = np.broadcast_to(np.array(row, np.uint8)[None, :, None], (n, n, 3))
    result = resizing.resize(image, size)
    np.testing.assert_allclose(result[0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(
        result[:, 0, 0], np.full(size, result[0, 0, 0]), atol=1e-6
    )


@pytest.mark.parametrize(("height", "width", "size"), [(37, 53, 32), (20, 11, 48)])
def test_bicubic_equals_jax_without_antialias(height, width, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    expected = jax.image.resize(
        image.astype(np.float32), (size, size, 3), "cubic", antialias=False
    )
    # TensorFlow reads its weights from a table of 1,024 entries.
    np.testing.assert_allclose(resizing.resize(image, size), expected, atol=0.3)
    exact = rng.integers(0, 256, (64, 128, 3)).astype(np.uint8)
    expected = jax.image.resize(
        exact.astype(np.float32), (32, 32, 3), "cubic", antialias=False
    )
    np.testing.assert_allclose(resizing.resize(exact, 32), expected, atol=3e-4)


def photograph(height, width):
    """Smooth, with edges and noise: what a resize meets."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    x = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), int)
    x = x + rng.integers(-8, 9, x.shape)
    x[height // 3 :, width // 2] += 60
    return np.clip(x, 0, 255).astype(np.uint8)


PIL_KINDS = {
    "pil_bilinear": Image.Resampling.BILINEAR,
    "pil_bicubic": Image.Resampling.BICUBIC,
}


@pytest.mark.parametrize("method", sorted(PIL_KINDS))
@pytest.mark.parametrize(
    ("height", "width", "size"), [(150, 90, 32), (61, 130, 96), (20, 31, 48), (9, 9, 9)]
)
def test_resize_equals_pil(method, height, width, size):
    """To the rounding after either pass."""
    image = photograph(height, width)
    expected = Image.fromarray(image).resize((size, size), PIL_KINDS[method])
    gap = np.abs(resizing.resize(image, size, method) - np.asarray(expected))
    assert gap.max() < 1.3
    assert gap.mean() < 0.35


def test_pil_s_bicubic_clips_its_overshoot():
    """Spec 9.6, with antialias: .12133891, .42857143, -.03474903, 0."""
    row = np.array((0, 0, 1, 0, 0, 0, 0, 0), np.uint8)[None, :, None]
    result = resizing.resize(np.broadcast_to(row, (8, 8, 3)), 4, "pil_bicubic")
    np.testing.assert_allclose(
        result[0, :, 0], (0.12133891, 0.42857143, 0, 0), atol=1e-6
    )


# Spec 9.6: side and offset of the central crop.
@pytest.mark.parametrize(
    ("height", "width", "side", "y", "x"),
    [
        (375, 500, 328, 24, 86),
        (500, 375, 328, 86, 24),
        (331, 500, 290, 21, 105),
        (332, 500, 290, 21, 105),
        (256, 256, 224, 16, 16),
        (224, 224, 196, 14, 14),
        (600, 224, 196, 202, 14),
    ],
)
def test_centre(height, width, side, y, x):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    result = resizing.centre(tf.constant(image), side)
    assert result.dtype == tf.uint8
    np.testing.assert_array_equal(result, image[y : y + side, x : x + side])
    # and at another size, by way of a float crop, a resize, a clip and one rounding
    expected = resizing.resize(image[y : y + side, x : x + side], 96)
    result = resizing.centre(tf.constant(image), 96)
    np.testing.assert_allclose(result, np.clip(expected, 0, 255), atol=0.501)


def test_small_pictures_are_neither_cropped_nor_resized():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resizing.centre(tf.constant(image), 32), image)
    other = rng.integers(0, 256, (40, 28, 3)).astype(np.uint8)
    expected = np.clip(resizing.resize(other, 32), 0, 255)
    np.testing.assert_allclose(resizing.centre(other, 32), expected, atol=0.501)


def test_rotations_are_as_frequent_as_they_should_be():
    """And they change no other random number; without them nothing is drawn."""
    plain = simclr(size=8)[0]
    index = np.arange(DRAWS)
    (before,) = augment.draw((plain,), 0, 0, 0, index)
    assert "quarters" not in before
    for p in (0.3, 1.0):
        view = dataclasses.replace(plain, rotation=p)
        (drawn,) = augment.draw((view,), 0, 0, 0, index)
        quarters = drawn.pop("quarters")
        assert quarters.dtype == np.int32
        shares = np.bincount(quarters, minlength=4) / DRAWS
        np.testing.assert_allclose(shares, [1 - p, p / 3, p / 3, p / 3], atol=0.01)
        jax.tree.map(np.testing.assert_array_equal, drawn, before)


@pytest.mark.parametrize("crop", CROPS)
def test_crops_are_as_frequent_as_they_should_be(crop):
    """The others are the largest square in the middle; the crops stay the same."""
    view = View(size=8, crop=crop, area=(0.1, 0.2))
    always = windows(41, 60, view)
    some = windows(41, 60, dataclasses.replace(view, crop_probability=0.3))
    square = 0, 9, 41, 41
    cropped = np.any(some != square, 1)
    assert abs(cropped.mean() - 0.3) < 0.01
    np.testing.assert_array_equal(some[cropped], always[cropped])


def test_crop_is_the_resized_window():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    view = crop_flip(size=24)[0]
    key = augment.crop_keys(1, 0, 0, np.array([3]))[0, 0]
    (y, x, _), (h, w, _) = augment.window(tf.constant([60, 80, 3]), key, view)
    expected = resizing.resize(image[y : y + h, x : x + w], 24)
    np.testing.assert_array_equal(augment.crop(image, key, view), expected)


def encoded(mode, method, size=(20, 14), **options):
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 166, (4, 4, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        grey = np.asarray(image.convert("L"), np.uint16) * 257
        image = Image.fromarray(grey)
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, method, **options)
    return file.getvalue(), np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "method", "options", "error"),
    [
        ("RGB", "JPEG", {"quality": 95}, 3),
        ("RGB", "JPEG", {"progressive": True, "quality": 95}, 3),
        ("L", "JPEG", {"quality": 95}, 3),
        ("CMYK", "JPEG", {"quality": 95}, 8),
        ("RGB", "PNG", {}, 0),
        ("RGBA", "PNG", {}, 0),
        ("L", "PNG", {}, 0),
        ("P", "PNG", {}, 0),
        ("I;16", "PNG", {}, None),
        ("RGB", "BMP", {}, 0),
        ("P", "GIF", {}, 0),
        ("RGB", "WEBP", {"lossless": True}, 0),
    ],
)
def test_decode_gives_three_channels(mode, method, options, error):
    data, expected = encoded(mode, method, **options)
    result = tf.function(augment.decode)(tf.constant(data)).numpy()
    assert (result.shape, result.dtype) == ((14, 20, 3), np.uint8)
    if error is not None:
        assert np.abs(result.astype(int) - expected).mean() <= error


def test_sixteen_bit_png_keeps_its_brightness():
    data, _ = encoded("I;16", "PNG")
    expected = np.asarray(Image.open(io.BytesIO(encoded("L", "PNG")[0])))
    result = augment.decode(tf.constant(data)).numpy()
    assert np.abs(result[..., 0].astype(int) - expected).max() <= 1


def test_animations_give_their_first_frame():
    rng = np.random.default_rng(0)
    frames = [
        Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).convert("P")
        for _ in range(3)
    ]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    result = augment.decode(tf.constant(file.getvalue()))
    np.testing.assert_array_equal(result, np.asarray(frames[0].convert("RGB")))


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data, _ = encoded("RGB", "JPEG", exif=exif)
    assert augment.decode(tf.constant(data)).shape == (14, 20, 3)


def test_decoding_is_tensorflow_s_default():
    """One operation for all formats; on JPEG the same bits as the JPEG one."""
    for options in ({"quality": 90}, {"quality": 60, "subsampling": 2}):
        data, _ = encoded("RGB", "JPEG", size=(61, 47), **options)
        expected = tf.io.decode_jpeg(data, channels=3)
        np.testing.assert_array_equal(augment.decode(tf.constant(data)), expected)


def test_to_uint8_rounds_half_up_and_clips():
    halves = np.arange(-4, 516, dtype=np.float32) / 2
    draw = np.random.default_rng(0).uniform(-40, 300, 10_000).astype(np.float32)
    x = np.concatenate([halves, draw])
    expected = np.floor(np.clip(x, 0, 255) + 0.5)
    np.testing.assert_array_equal(resizing.to_uint8(x), expected)
    assert resizing.to_uint8(x).dtype == tf.uint8
