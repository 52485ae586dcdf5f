"""Galleries and colours of features, by their content."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from simclr_jax.evaluate import galleries
from simclr_jax.evaluate.galleries import Cell, heat, png, shortened
from simclr_jax.evaluate.patch_colours import patch_colours


def flat(*colour, shape=(32, 32)):
    return np.full((*shape, 3), colour, np.uint8)


def test_every_picture_is_in_its_cell():
    red, green, blue = flat(255, 0, 0), flat(0, 255, 0), flat(0, 0, 255)
    content = png([[Cell(red, "a $x_1"), Cell(green, "b")], [Cell(blue)]])
    image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    dots, margin = galleries.DOTS, galleries.MARGIN
    step = galleries.SIDE + galleries.GAP

    def at(row, column, captions):
        x = margin + (column + 0.5) * galleries.SIDE + column * galleries.GAP
        y = margin + galleries.SIDE / 2 + row * step + captions * galleries.CAPTION
        return image[round(y * dots), round(x * dots)].tolist()

    assert at(0, 0, 0) == [255, 0, 0]
    assert at(0, 1, 0) == [0, 255, 0]
    assert at(1, 0, 1) == [0, 0, 255]
    assert at(1, 1, 1) == [255, 255, 255]
    assert (image < 90).all(-1).sum() > 50  # the captions


def test_long_captions_keep_both_ends():
    assert shortened("picture 12.png") == "picture 12.png"
    text = shortened("holiday in the mountains 0012.jpg")
    assert len(text) == galleries.LETTERS
    assert text.startswith("holiday")
    assert text.endswith("0012.jpg")


def test_heat_goes_from_dark_to_bright():
    brightness = heat(np.array([[0.0, 1.0], [2.0, 4.0]])).sum(-1).ravel()
    assert np.all(np.diff(brightness) > 0)
    assert np.ptp(heat(np.ones((2, 2)))) < 0.1


def test_colours_are_the_components_of_all_pictures():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4, 6, 5, 8)) * np.array([9, 6, 4, 1, 1, 1, 1, 1])
    x = x.astype(np.float32)
    colours = patch_colours(x)
    assert (colours.shape, colours.dtype) == ((4, 6, 5, 3), np.float32)
    assert colours.min() == 0
    assert colours.max() == 1
    expected = PCA(3, svd_solver="full").fit_transform(x.reshape(-1, 8))
    for actual, component in zip(colours.reshape(-1, 3).T, expected.T, strict=True):
        inside = (actual > 0) & (actual < 1)
        assert inside.mean() == pytest.approx(0.98, abs=0.02)
        assert abs(np.corrcoef(actual[inside], component[inside])[0, 1]) > 0.9999
    np.testing.assert_allclose(patch_colours(-x), patch_colours(x), atol=1e-5)


def test_features_without_variance_are_grey():
    assert (patch_colours(np.ones((1, 2, 2, 4), np.float32)) == 0.5).all()
    one = np.zeros((1, 5, 5, 4), np.float32)
    one[0, 2] = 1  # a single direction
    assert (patch_colours(one)[..., 1:] == 0.5).all()
