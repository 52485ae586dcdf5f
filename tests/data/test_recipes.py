"""Recipes are data: the papers' numbers, and refusals that help."""

import dataclasses

import pytest

from simclr_jax.data.recipes import RECIPES, crop_flip, expand, simclr
from simclr_jax.data.view import View


def test_simclr_is_two_equal_views_with_the_released_numbers():
    first, second = simclr(size=224)
    assert first == second
    assert (first.jitter, first.grey, first.blur, first.flip) == (0.8, 0.2, 0.5, 0.5)
    strengths = (first.brightness, first.contrast, first.saturation, first.hue)
    assert strengths == (0.8, 0.8, 0.8, 0.2)
    assert first.area == (0.08, 1.0)
    assert first.sigma == (0.1, 2.0)
    assert first.solarise == 0


def test_strength_scales_the_jitter_alone():
    half, whole = simclr(size=32, strength=0.5)[0], simclr(size=32)[0]
    assert (half.brightness, half.hue) == (0.4, 0.1)
    same = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    assert dataclasses.replace(half, **same) == dataclasses.replace(whole, **same)


def test_no_setting_hides_behind_the_size():
    small, large = simclr(size=32)[0], simclr(size=224)[0]
    assert dataclasses.replace(small, size=224) == large


def test_crop_flip_has_no_colour():
    (view,) = crop_flip(size=96)
    assert (view.jitter, view.grey, view.blur, view.solarise) == (0, 0, 0, 0)


# Spec 1.4: a tenth of the side, halved and floored, on both sides of the centre.
@pytest.mark.parametrize(
    ("size", "taps"),
    [
        (32, 3),
        (64, 7),
        (96, 9),
        (128, 13),
        (160, 17),
        (192, 19),
        (200, 21),
        (224, 23),
        (256, 25),
    ],
)
def test_taps(size, taps):
    assert View(size=size).taps == taps


def test_expand_writes_out_unequal_views_and_copies():
    large, small = View(size=224, copies=2), View(size=96, area=(0.05, 0.4), copies=8)
    views = expand((large, small))
    assert [view.size for view in views] == [224] * 2 + [96] * 8
    assert {view.copies for view in views} == {1}


def test_views_are_hashable():
    assert hash(View(size=32)) == hash(View(size=32))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"crop": "tf_box"}, "Did you mean 'tf_bbox'"),
        ({"brightness": "multiplicativ"}, "Did you mean 'multiplicative'"),
        ({"blur_sigma": "per_step"}, "image, batch"),
        ({"blur": 1.5}, r"\[0, 1\]"),
        ({"strength": 1.3}, r"1\.25"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_refusals_help(words, message):
    with pytest.raises(ValueError, match=message):
        RECIPES["simclr"](**{"size": 32} | words)


@pytest.mark.parametrize("pair", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_area_is_checked(pair):
    with pytest.raises(ValueError, match="area is"):
        View(size=32, area=pair)
