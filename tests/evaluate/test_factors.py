"""Probes with answers in closed form; what was drawn, read back from the pixels."""

import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from simclr_jax.data import augment
from simclr_jax.data.arrays import Arrays
from simclr_jax.data.drawn import drawn
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.view import View
from simclr_jax.evaluate.factor_probe import probe
from simclr_jax.evaluate.factors import factors, labels_of
from simclr_jax.evaluate.features import FrozenEncoder
from simclr_jax.experiment import config, protocols
from simclr_jax.experiment.factor_table import table
from simclr_jax.sharding import make_mesh

ROWS = 4000  # two views each of 2000 pictures
PICTURE = np.arange(ROWS) // 2
TEST = PICTURE % 5 == 0


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0])
def test_r2_of_a_noisy_copy(deviation):
    """y = s + noise, of which the feature has s alone: R2 = 1 / (1 + deviation^2)."""
    x = noise(ROWS, 5)
    y = 3 + x @ [1, 0.5, 0, 0, 0] / 1.25**0.5 + deviation * noise(ROWS, seed=1)
    result = probe(x, y, TEST, PICTURE, category=False)
    assert result["metric"] == "r2"
    assert result["score"] == pytest.approx(1 / (1 + deviation**2), abs=0.03)
    low, high = result["interval"]
    assert low <= result["score"] <= high
    assert high - low < 0.12


def test_what_a_feature_does_not_know_scores_like_chance():
    """And not far below it, though the feature is wide: the penalty adapts."""
    x = noise(ROWS, 200).astype(np.float32)
    seen = np.random.default_rng(1).uniform(size=ROWS) < 0.1
    number = probe(x, noise(ROWS, seed=2), TEST, PICTURE, category=False)
    assert -0.02 < number["score"] < 0.01
    category = probe(x, seen.astype(float), TEST, PICTURE, category=True)
    assert category["chance"] == 0.5
    assert category["score"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_balanced_accuracy_of_two_normals(share):
    """Phi(d / 2) for centres d apart, however rare one of them is."""
    rare = np.random.default_rng(3).uniform(size=ROWS) < share
    x = noise(ROWS, 3) + np.outer(rare, [2, 0, 0])
    result = probe(x, rare.astype(float), TEST, PICTURE, category=True)
    assert result["metric"] == "balanced_accuracy"
    assert result["score"] == pytest.approx(norm.cdf(1), abs=0.04)
    low, high = result["interval"]
    assert low < result["score"] < high


def test_the_interval_counts_pictures_not_views():
    """A second, equal view of each picture adds nothing."""
    rng = np.random.default_rng(4)
    y, x = rng.integers(0, 2, 1000).astype(float), rng.normal(size=(1000, 2))
    x[:, 0] += y
    once = probe(x, y, np.arange(1000) % 5 == 0, np.arange(1000), category=True)
    pictures = np.arange(2000) // 2
    x, y = np.repeat(x, 2, 0), np.repeat(y, 2)
    again = probe(x, y, pictures % 5 == 0, pictures, category=True)
    assert again["score"] == pytest.approx(once["score"])
    np.testing.assert_allclose(again["interval"], once["interval"], atol=1e-9)
    p, n = once["score"], 100  # of each of two classes: a binomial each
    low, high = once["interval"]
    assert high - low == pytest.approx(2 * 1.96 * (p * (1 - p) / n / 2) ** 0.5, rel=0.2)


def test_rows_without_a_value_count_nowhere():
    x, y = noise(ROWS, 2), noise(ROWS)
    holes = np.where(np.arange(ROWS) % 3, np.nan, y)
    valid = ~np.isnan(holes)
    result = probe(x, holes, TEST, PICTURE, category=False)
    rest = probe(x[valid], y[valid], TEST[valid], PICTURE[valid], category=False)
    assert result == rest


def test_bad_input():
    y = TEST.astype(float)
    with pytest.raises(ValueError, match="too few pictures"):
        probe(noise(ROWS, 2), y, TEST, PICTURE, category=True)
    with pytest.raises(FloatingPointError, match="diverged"):
        probe(np.full((ROWS, 2), np.nan), y, TEST, PICTURE, category=False)


COLOURED = View(
    size=16,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grey=0.2,
    blur=0.5,
    rotation=0.5,
)


def some_draws(view, count=200):
    (draws,) = augment.draw([view], 0, 0, 0, np.arange(count))
    window = np.tile(np.array([0, 0, 16, 16]), (count, 1))
    return draws | {"window": window, "sides": np.full((count, 2), 16)}


def test_a_colour_that_was_not_changed_has_the_value_of_no_change():
    draws = some_draws(COLOURED)
    labels, kept = labels_of(COLOURED, draws), ~draws["jitter"]
    assert kept.any()
    neutral = {"brightness": 0, "contrast": 1, "saturation": 1, "hue": 0}
    for column, (name, value) in enumerate(neutral.items()):
        y, defined = labels[name], ~np.isnan(labels[name])
        assert (y[kept & defined] == value).all()
        changed = draws["jitter"] & defined
        np.testing.assert_array_equal(y[changed], draws["factors"][changed, column])
    for name in ("hue", "saturation"):
        np.testing.assert_array_equal(np.isnan(labels[name]), draws["grey"])
    assert (labels["blur"] == np.where(draws["blur"], draws["sigma"], 0)).all()
    assert (labels["rotation"] == draws["quarters"]).all()


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_the_centre_of_a_crop_is_where_the_view_shows_it(flip, quarters):
    """A mark in the middle of the window, in the flipped and turned picture."""
    y, x, height, width = 3, 10, 5, 7
    picture = np.zeros((21, 21))
    picture[y + height // 2, x + width // 2] = 1
    seen = np.rot90(picture[:, ::-1] if flip else picture, quarters)
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    draws = some_draws(COLOURED, 1) | {
        "window": np.array([[y, x, height, width]]),
        "sides": np.array([[21, 21]]),
        "flip": np.array([flip]),
        "quarters": np.array([quarters]),
    }
    labels = labels_of(COLOURED, draws)
    np.testing.assert_allclose(labels["crop y"], (row + 0.5) / 21)
    np.testing.assert_allclose(labels["crop x"], (column + 0.5) / 21)
    np.testing.assert_allclose(labels["crop scale"], 35 / 441)


def ramps(count=60, height=40, width=30):
    """Pictures whose red is the column and whose green is the row; blue is 128."""
    image = np.empty((count, height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) * 255 // width
    image[..., 1] = (np.arange(height) * 255 // height)[:, None]
    image[..., 2] = 128
    return Arrays(image, np.zeros(count, int), name="ramps")


VIEW = View(size=16, crop="torch", area=(0.2, 0.6), flip=0.5, resize="pil_bilinear")


def test_what_is_drawn_is_what_the_views_show():
    """The mean of red is the middle column of a crop, whether flipped or not."""
    source, views = ramps(), (VIEW, VIEW)
    index, draws = drawn(source, views, batch_size=20, seed=3, steps=2)
    batches = train_batches(source, views, batch_size=20, seed=3, first_step=0, steps=2)
    seen = list(batches)
    np.testing.assert_array_equal(index, np.concatenate([x.index for x in seen]))
    for v in range(2):
        labels = labels_of(VIEW, draws[v])
        mean = np.concatenate([x.views[v] for x in seen]).mean((1, 2)) / 255
        column = np.where(draws[v]["flip"], 1 - labels["crop x"], labels["crop x"])
        np.testing.assert_allclose(column, mean[:, 0], atol=0.04)
        np.testing.assert_allclose(labels["crop y"], mean[:, 1], atol=0.04)


def encode(params, stats, images):
    """h: middle of the crop, and how much it covers; z: nothing of either."""
    x = images.astype(jnp.float32) / 255
    slope = x[:, :, -1, 0].mean(1) - x[:, :, 0, 0].mean(1)  # its sign is the flip's
    middle, deviation = x.mean((1, 2)), x.std((1, 2))
    middle = middle.at[:, 0].set(0.5 + (middle[:, 0] - 0.5) * jnp.sign(slope))
    area = deviation[:, :1] * deviation[:, 1:2]
    h = jnp.concatenate([middle[:, :2], area, jnp.sign(slope)[:, None]], 1)
    blue = x[:, :4, :4, 2].reshape(len(x), -1)
    return {"h": h[None], "z": blue[None]}


ENCODER = FrozenEncoder(encode, lambda outputs: outputs, {}, {})


@pytest.mark.parametrize("devices", [1, 4])
def test_h_knows_what_z_has_lost(devices):
    mesh = make_mesh(jax.devices()[:devices])
    views = (VIEW, View(size=8), VIEW)  # the second is of another size: left out
    with jax.set_mesh(mesh):
        scores = {
            name: factors(ENCODER, ramps(200), views, name, 16, 40, mesh)
            for name in ("h", "z")
        }
    h, z = (scores[name]["factors"] for name in ("h", "z"))
    assert set(h) == {"crop x", "crop y", "crop scale", "flip"}
    assert min(x["score"] for x in h.values()) > 0.9
    assert max(abs(x["score"] - x["chance"]) for x in z.values()) < 0.1
    assert scores["h"]["pictures"] == [160, 40]
    constant = ["rotation", "brightness", "contrast", "saturation", "hue"]
    assert scores["h"]["left_out"] == [*constant, "grey", "blur", "solarise"]
    text = table(scores)
    assert "class" not in text  # there are no accuracies without labels
    assert re.search(r"flip, balanced accuracy \(chance 50\) +100\.0 +50\.0\n", text)
    assert "does not vary them: rotation, brightness" in text


def test_no_labels_are_needed():
    c, mesh = config.load("quickstart"), make_mesh(jax.devices()[:1])
    c.data.image_size = 16
    c.evaluate.factors.pictures = 100
    evaluation: Any = types.SimpleNamespace(
        config=c, mesh=mesh, labelled=False, train=ramps(150)
    )
    evaluation.encoder = lambda feature, trained: ENCODER
    settings = c.evaluate.factors.to_dict()
    with jax.set_mesh(mesh):
        result = protocols.run(evaluation, "factors", "h", True, settings, print)
    assert result.keys() == {"factors", "left_out", "pictures"}
    assert result["left_out"] == ["rotation", "blur", "solarise"]
    assert result["pictures"] == [80, 20]


def test_too_few_pictures():
    mesh = make_mesh(jax.devices()[:1])
    with pytest.raises(ValueError, match="needs 10 pictures or more, got 5"):
        factors(ENCODER, ramps(60), (VIEW,), "h", 16, 40, mesh, pictures=5)
