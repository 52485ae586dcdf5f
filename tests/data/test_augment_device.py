"""Colours, both rooms, against the spec's numbers, TensorFlow's operations and PIL."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter1d

from simclr_jax.batch import Batch
from simclr_jax.data import augment, augment_host
from simclr_jax.data.augment_device import apply_colour, prepare
from simclr_jax.data.recipes import RECIPES, expand, simclr
from simclr_jax.data.sources import open_source
from simclr_jax.data.view import View

A, B = (0.2, 0.4, 0.6), (0.9, 0.1, 0.3)
OPERATIONS = ("brightness", "contrast", "saturation", "hue")
NEUTRAL = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def draws(n=1, *, order=(0, 1, 2, 3), sigma=1.0, on=(), **factors):
    """Draws that do nothing but what is asked for."""
    events = ("flip", "jitter", "grey", "blur", "solarise")
    factors = NEUTRAL | factors
    return {name: np.full(n, name in on) for name in events} | {
        "order": np.tile(np.array(order, np.int32), (n, 1)),
        "factors": np.array([[factors[o] for o in OPERATIONS]] * n, np.float32),
        "sigma": np.full(n, sigma, np.float32),
    }


def plain_view(size=2, **options):
    """A view with every operation compiled in."""
    every = View(size=size, jitter=1, grey=1, blur=1, solarise=1)
    return dataclasses.replace(every, **options)


def plain_pil_view(size=2, **options):
    """The same in PIL's arithmetic."""
    return plain_view(size, colours="pil", brightness_mode="multiplicative", **options)


def picture(*pixels):
    """A square picture, 2 x 2, of two pixels side by side: equal rows."""
    return np.array([[pixels, pixels]], np.float32)


def on_host(x, drawn, view):
    return augment_host.apply_colour(tf.constant(x), drawn, view).numpy()


on_device = jax.jit(apply_colour, static_argnums=2)
IMPLEMENTATIONS = {"device": on_device, "host": on_host}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def run(request):
    """Both implementations must pass every fixture."""
    return IMPLEMENTATIONS[request.param]


@pytest.mark.parametrize(
    ("on", "factors", "expected"),
    [
        ("grey", {}, ((0.36298,) * 3, (0.36191,) * 3)),
        ("jitter", {"saturation": 0.5}, ((0.4, 0.5, 0.6), (0.9, 0.5, 0.6))),
        ("jitter", {"saturation": 1.8}, ((0, 0.3, 0.6), (0.9, 0, 0.225))),
        ("jitter", {"hue": 0.2}, ((0.48, 0.2, 0.6), (0.9, 0.86, 0.1))),
        ("jitter", {"hue": -0.2}, ((0.2, 0.6, 0.32), (0.54, 0.1, 0.9))),
        ("jitter", {"contrast": 1.8}, ((0, 0.52, 0.72), (1, 0, 0.18))),
        ("jitter", {"contrast": 0.2}, ((0.48, 0.28, 0.48), (0.62, 0.22, 0.42))),
        ("jitter", {"brightness": 0.3}, ((0.5, 0.7, 0.9), (1, 0.4, 0.6))),
        ("flip", {}, (B, A)),
        ("nothing", {}, (A, B)),
    ],
)
def test_fixtures(run, on, factors, expected):
    result = run(picture(A, B), draws(on=(on,), **factors), plain_view())
    np.testing.assert_allclose(result, picture(*expected), atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_rotations_are_those_of_numpy(run, flip):
    """After the flip, exactly; one picture alone and several."""
    view = plain_view(5, rotation=0.5)
    x = np.random.default_rng(5).random((4, 5, 5, 3), np.float32)
    drawn = draws(4, on=("flip",) * flip) | {"quarters": np.arange(4, dtype=np.int32)}
    flipped = x[:, :, ::-1] if flip else x
    expected = [np.rot90(row, k) for k, row in enumerate(flipped)]
    np.testing.assert_array_equal(run(x, drawn, view), expected)
    last = {name: rows[3:] for name, rows in drawn.items()}
    np.testing.assert_array_equal(run(x[3:], last, view), expected[3:])


def test_multiplicative_brightness(run):
    view = plain_view(brightness_mode="multiplicative")
    result = run(picture(A, B), draws(on=("jitter",), brightness=1.5), view)
    np.testing.assert_allclose(
        result, picture((0.3, 0.6, 0.9), (1, 0.15, 0.45)), atol=1e-6
    )


def test_solarise_inverts_from_one_half_on(run):
    result = run(picture((0.2, 0.5, 0.8), A), draws(on=("solarise",)), plain_view())
    np.testing.assert_allclose(result[0, 0, 0], (0.2, 0.5, 0.2), atol=1e-6)


def test_every_operation_clips(run):
    """Up by 0.8 and to grey saturation in between: only a clip loses the overshoot."""
    x = picture((0.9, 0.5, 0.1), (0.9, 0.5, 0.1))
    first = run(x, draws(on=("jitter",), brightness=0.8, saturation=0.5), plain_view())
    np.testing.assert_allclose(first[0, 0, 0], (1, 1, 0.95), atol=1e-6)
    last = draws(on=("jitter",), order=(2, 1, 0, 3), brightness=0.8, saturation=0.5)
    np.testing.assert_allclose(
        run(x, last, plain_view())[0, 0, 0], (1, 1, 1), atol=1e-6
    )


def test_overshoot_of_the_resize_remains_until_the_first_clip(run):
    x = picture((1.2, 0.5, -0.1), (1.2, 0.5, -0.1))
    kept = run(x, draws(on=("jitter",), brightness=-0.4), plain_view())
    np.testing.assert_allclose(kept[0, 0, 0], (0.8, 0.1, 0), atol=1e-6)
    np.testing.assert_allclose(run(x, draws(), plain_view())[0, 0, 0], (1, 0.5, 0))
    grey = run(
        x, draws(on=("grey",)), plain_view()
    )  # 0.2989 * 1.2 + 0.587 * 0.5 - 0.0114
    np.testing.assert_allclose(grey[0, 0, 0], (0.64078,) * 3, atol=1e-6)


def gaussian(sigma, radius):
    t = np.arange(-radius, radius + 1)
    w = np.exp(-(t**2) / (2.0 * sigma**2))
    return w / w.sum()


@pytest.mark.parametrize(
    ("sigma", "taps"),
    [
        (1.0, (0.39894228, 0.24197072, 0.05399097)),
        (2.0, (0.19947114, 0.17603266, 0.12098536)),
        (0.1, (1.0, 0.0, 0.0)),
    ],
)
def test_blur_taps(run, sigma, taps):
    x = np.zeros((1, 224, 224, 3), np.float32)
    x[0, 112, 112] = 1
    result = run(x, draws(on=("blur",), sigma=sigma), plain_view(224))[0, :, :, 0]
    expected = np.outer(gaussian(sigma, 11), gaussian(sigma, 11))
    np.testing.assert_allclose(result[101:124, 101:124], expected, atol=1e-6)
    line = result[112, 112:115] / result[112, 112] * taps[0]
    np.testing.assert_allclose(line, taps, atol=1e-6)
    assert result[112, 100] == 0  # the twelfth tap is none


def test_blur_fades_at_the_border(run):
    x = np.ones((1, 224, 224, 3), np.float32)
    result = run(x, draws(on=("blur",), sigma=2.0), plain_view(224))[0, :, :, 0]
    corners = (result[0, 0], result[0, 112], result[112, 112])
    np.testing.assert_allclose(corners, (0.359683, 0.599736, 1), atol=2e-6)


def test_hue_and_saturation_against_tensorflow(run):
    """Its kernels go through HSV; ours are closed forms. Overshoot included."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.07, 1.07, (1, 64, 64, 3)).astype(np.float32)
    x[0, :8] = x[0, :8, :, :1]  # greys, where hue is undefined
    x[0, 8, :, 1] = x[0, 8, :, 0]  # ties of two channels
    for turns in (-0.2, -0.03, 0.11, 0.2):
        result = run(
            x, draws(on=("jitter",), order=(3, 0, 1, 2), hue=turns), plain_view(64)
        )
        expected = np.clip(tf.image.adjust_hue(x, turns), 0, 1)
        np.testing.assert_allclose(result, expected, atol=2e-6)
    for factor in (0.2, 0.9, 1.8):
        drawn = draws(on=("jitter",), order=(2, 0, 1, 3), saturation=factor)
        expected = np.clip(tf.image.adjust_saturation(x, factor), 0, 1)
        np.testing.assert_allclose(run(x, drawn, plain_view(64)), expected, atol=2e-6)


def test_all_orders_against_tensorflow(run):
    """The 24 orders of the jitter, one a row, op by op with the clips between."""
    rng = np.random.default_rng(1)
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    x = rng.uniform(-0.05, 1.05, (24, 8, 8, 3)).astype(np.float32)
    drawn = draws(24, on=("jitter",)) | {"order": orders}
    drawn["factors"] = np.stack(
        [
            rng.uniform(-0.8, 0.8, 24),
            rng.uniform(0.2, 1.8, 24),
            rng.uniform(0.2, 1.8, 24),
            rng.uniform(-0.2, 0.2, 24),
        ],
        1,
    ).astype(np.float32)
    adjust = (
        tf.image.adjust_brightness,
        tf.image.adjust_contrast,
        tf.image.adjust_saturation,
        tf.image.adjust_hue,
    )
    expected = []
    for row, order, factors in zip(x, orders, drawn["factors"], strict=True):
        for op in order:
            row = tf.clip_by_value(adjust[op](row, factors[op]), 0, 1)
        expected.append(row)
    np.testing.assert_allclose(run(x, drawn, plain_view(8)), expected, atol=5e-6)


@pytest.mark.parametrize(
    ("recipe", "number", "options"),
    [
        ("simclr", 0, {}),
        ("simclr", 0, {"brightness": "multiplicative"}),
        ("byol", 1, {}),
        ("moco_v1", 0, {}),
        ("dino", 1, {}),
    ],
)
def test_host_and_device_agree(recipe, number, options):
    """All steps on the same floats, to 1e-6."""
    view = expand(RECIPES[recipe](size=48, **options))[number]
    x = np.random.default_rng(2).uniform(-0.05, 1.05, (256, 48, 48, 3))
    x = x.astype(np.float32)
    (drawn,) = augment.draw((view,), 0, 0, 0, np.arange(256))
    result = on_host(x, drawn, view)
    np.testing.assert_allclose(result, on_device(x, drawn, view), rtol=0, atol=1e-6)


# Spec 1.1 of the torchvision recipes.
@pytest.mark.parametrize(
    ("pixel", "grey"),
    [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((10, 200, 30), 124)],
)
def test_luma_of_pil(run, pixel, grey):
    x = picture(pixel, pixel) / 255
    result = run(x, draws(on=("grey",)), plain_pil_view())
    assert np.all(np.round(255 * result) == grey)


def test_solarise_of_levels(run):
    levels = np.array([0, 1, 127, 128, 129, 200, 255], np.float32)
    x = np.broadcast_to((levels / 255)[None, None, :, None], (1, 7, 7, 3))
    result = run(x, draws(on=("solarise",)), plain_pil_view(7))
    expected = (0, 1, 127, 127, 126, 55, 0)
    np.testing.assert_allclose(255 * result[0, 0, :, 0], expected, atol=1e-4)


def test_all_orders_of_pil_in_float64(run):
    """The 24 orders against the blends' definitions; hue against TensorFlow's."""
    rng = np.random.default_rng(1)
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    x = rng.random((24, 8, 8, 3), np.float32)
    drawn = draws(24, on=("jitter",)) | {"order": orders}
    factors = rng.uniform(0.2, 1.8, (24, 4))
    factors[:, 3] = rng.uniform(-0.5, 0.5, 24)
    drawn["factors"] = factors.astype(np.float32)
    expected = []
    for row, order, f in zip(x.astype(float), orders, factors, strict=True):
        for op in order:
            grey = row @ (0.299, 0.587, 0.114)
            others = (0.0, grey.mean(), grey[..., None])
            if op == 3:
                row = tf.image.adjust_hue(tf.constant(row), f[3]).numpy()
            else:
                row = f[op] * row + (1 - f[op]) * others[op]
            row = np.clip(row, 0, 1)
        expected.append(row)
    np.testing.assert_allclose(run(x, drawn, plain_pil_view(8)), expected, atol=5e-6)


def test_grey_first_comes_before_the_jitter(run):
    """The orders differ by the clip of a bright picture."""
    drawn = draws(on=("grey", "jitter"), brightness=1.8, contrast=1.0, saturation=1.0)
    first = run(picture(B, B), drawn, plain_pil_view(grey_first=True))
    np.testing.assert_allclose(
        first, picture((0.65160,) * 3, (0.65160,) * 3), atol=1e-6
    )
    last = run(picture(B, B), drawn, plain_pil_view())
    np.testing.assert_allclose(last, picture((0.46622,) * 3, (0.46622,) * 3), atol=1e-6)


@pytest.mark.parametrize("size", [5, 40])  # 5: the kernel is longer than the side
def test_blur_of_pil_repeats_the_border(run, size):
    x = np.random.default_rng(0).random((1, size, size, 3), np.float32)
    result = run(x, draws(on=("blur",), sigma=2.0), plain_pil_view(size))
    expected = x.astype(float)
    for axis in (1, 2):
        expected = gaussian_filter1d(expected, 2.0, axis, mode="nearest", truncate=4)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_blurred_edge_equals_the_gaussian_integral(run):
    """Spec 1.1: a step at sigma 2, and PIL's three boxes within two levels or three."""
    x = np.zeros((1, 32, 32, 3), np.float32)
    x[:, :, 16:] = 1
    result = (
        255 * run(x, draws(on=("blur",), sigma=2.0), plain_pil_view(32))[0, 9, 11:21, 0]
    )
    exact = (2.9, 9.8, 26.3, 57.2, 102.1, 152.9, 197.8, 228.7, 245.2, 252.1)
    np.testing.assert_allclose(result, exact, atol=0.06)
    image = Image.fromarray(np.uint8(255 * x[0]))
    boxes = np.asarray(image.filter(ImageFilter.GaussianBlur(2)), int)[9, 11:21, 0]
    assert np.abs(result - boxes).max() < 2.5


def torchvision_on_pil(x, drawn, view):
    """One uint8 picture and its draws through PIL, rounded after every operation."""
    image = Image.fromarray(x)
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def grey(image):
        return image.convert("L").convert("RGB") if drawn["grey"] else image

    if drawn["flip"]:
        image = ImageOps.mirror(image)
    if view.grey_first:
        image = grey(image)
    for op in drawn["order"] if drawn["jitter"] else ():
        factor = float(drawn["factors"][op])
        if op < 3:
            image = enhance[op](image).enhance(factor)
            continue
        h, s, v = image.convert("HSV").split()
        h = Image.fromarray(np.asarray(h) + np.uint8(int(factor * 255) % 256))
        image = Image.merge("HSV", (h, s, v)).convert("RGB")
    if not view.grey_first:
        image = grey(image)
    if drawn["blur"]:
        image = image.filter(ImageFilter.GaussianBlur(float(drawn["sigma"])))
    return np.asarray(ImageOps.solarize(image, 128) if drawn["solarise"] else image)


@pytest.mark.parametrize("recipe", ["moco_v1", "moco_v2", "moco_v3"])
def test_all_steps_against_torchvision_on_pil(recipe):
    """Up to rounding, see augment_host.py; PIL rounds down, hence the sign."""
    view = RECIPES[recipe](size=32)[1]
    n = 300
    x = open_source("cifar10_mini", split="train").read(np.arange(n))["image"]
    x = np.stack([augment.decode(tf.constant(a)).numpy() for a in x])
    (drawn,) = augment.draw((view,), 0, 0, 0, np.arange(n))
    result = 255 * on_host(x / np.float32(255), drawn, view)
    rows = ({name: a[i] for name, a in drawn.items()} for i in range(n))
    expected = [torchvision_on_pil(a, d, view) for a, d in zip(x, rows, strict=True)]
    gap = result - expected
    assert np.abs(gap).mean() < 1.6
    assert 0.5 < gap.mean() < 1.6
    assert np.quantile(np.abs(gap), 0.999) < 12


def test_rows_are_independent(run):
    view = simclr(size=16)[0]
    x = np.random.default_rng(3).random((8, 16, 16, 3), np.float32)
    (drawn,) = augment.draw((view,), 0, 0, 0, np.arange(8))
    alone = [
        run(x[i : i + 1], {k: a[i : i + 1] for k, a in drawn.items()}, view)[0]
        for i in range(8)
    ]
    np.testing.assert_allclose(run(x, drawn, view), alone, atol=1e-6)


def test_a_sharded_batch_needs_no_communication():
    """The program compiled for eight devices has no collective."""
    view = simclr(size=16)[0]
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    by_batch = NamedSharding(mesh, P("data"))
    index = np.arange(16)
    batch = Batch(
        draws=augment.draw((view,), 0, 0, 0, index),
        index=index.astype(np.int32),
        views=(np.zeros((16, 16, 16, 3), np.uint8),),
    )
    batch = jax.device_put(batch, by_batch)
    compiled = jax.jit(prepare((view,)), out_shardings=by_batch).lower(batch).compile()
    text = str(compiled.as_text())
    assert "HloModule" in text
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text


def test_prepare_makes_views_and_removes_the_draws():
    views = simclr(size=8)
    index = np.arange(4)
    x = np.random.default_rng(4).integers(0, 256, (2, 4, 8, 8, 3)).astype(np.uint8)
    draws = augment.draw(views, 0, 0, 0, index)
    batch = Batch(draws=draws, index=index, views=tuple(x))
    made = prepare(views)(batch)
    assert made.draws is None
    assert made.index is index
    for before, after, drawn in zip(x, made.views, batch.draws, strict=True):
        assert after.dtype == jnp.float32
        expected = apply_colour(before.astype(np.float32) / 255, drawn, views[0])
        np.testing.assert_allclose(after, expected, atol=1e-6)


def test_steps_of_probability_0_are_not_compiled():
    view = simclr(size=16, blur=0.0)[0]
    (drawn,) = augment.draw((view,), 0, 0, 0, np.arange(2))
    x = np.zeros((2, 16, 16, 3), np.float32)
    program = jax.make_jaxpr(lambda x, d: apply_colour(x, d, view))(x, drawn)
    assert "dot_general" not in str(program)
    blurred = simclr(size=16)[0]
    program = jax.make_jaxpr(lambda x, d: apply_colour(x, d, blurred))(x, drawn)
    assert re.search(r"\bHIGH\b", str(program))
