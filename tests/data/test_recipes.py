"""Recipes are data: the papers' numbers, and refusals that help."""

import dataclasses

import pytest

from simclr_jax.data.recipes import (
    RECIPES,
    byol,
    crop_flip,
    dino,
    expand,
    moco_v1,
    moco_v2,
    moco_v3,
    simclr,
    tsimcne,
)
from simclr_jax.data.view import OPERATIONS, PROBABILITIES, View, restrict


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


def test_settings_do_not_depend_on_the_size():
    small, large = simclr(size=32)[0], simclr(size=224)[0]
    assert dataclasses.replace(small, size=224) == large


def strengths(view):
    return view.jitter, view.brightness, view.contrast, view.saturation, view.hue


def test_byol_has_simclr_s_steps_with_other_numbers():
    first, second = byol(size=224)
    assert (first.crop, first.area) == ("inception_log", (0.08, 1.0))
    assert (first.resize, first.colours) == ("bicubic", "tf")
    assert first.brightness_mode == "additive"
    assert strengths(first) == (0.8, 0.4, 0.4, 0.2, 0.1)
    assert (first.blur, first.solarise) == (1.0, 0.0)
    assert dataclasses.replace(first, blur=0.1, solarise=0.2) == second
    assert second.taps == 23


@pytest.mark.parametrize("recipe", [moco_v1, moco_v2, moco_v3, dino, tsimcne])
def test_recipes_for_torchvision(recipe):
    for view in recipe(size=224):
        assert (view.crop, view.colours) == ("torch", "pil")
        assert view.resize == ("pil_bicubic" if recipe is dino else "pil_bilinear")
        assert (view.grey, view.flip, view.sigma) == (0.2, 0.5, (0.1, 2.0))
        assert (view.grey_first, view.taps) == (recipe is moco_v1, 17)
        assert view.aspect == (3 / 4, 4 / 3)


def test_moco_v1_and_v2():
    one, two = moco_v1(size=224)[0], moco_v2(size=224)[0]
    assert moco_v1(size=224) == (one, one)
    assert moco_v2(size=224) == (two, two)
    assert one.area == two.area == (0.2, 1.0)
    assert strengths(one) == (1.0, 0.4, 0.4, 0.4, 0.4)
    assert strengths(two) == (0.8, 0.4, 0.4, 0.4, 0.1)
    assert (one.blur, two.blur) == (0.0, 0.5)
    assert tsimcne(size=32) == moco_v2(size=32, blur=0.0)


def test_moco_v3_has_byol_s_asymmetry():
    first, second = moco_v3(size=224)
    assert strengths(first) == (0.8, 0.4, 0.4, 0.2, 0.1)
    assert (first.blur, first.solarise, first.area) == (1.0, 0.0, (0.08, 1.0))
    assert dataclasses.replace(first, blur=0.1, solarise=0.2) == second
    assert moco_v3(size=224, smallest=0.2)[1].area == (0.2, 1.0)


def test_dino_has_two_global_views_and_then_local_ones():
    first, second, part = dino(size=224)
    assert strengths(first) == (0.8, 0.4, 0.4, 0.2, 0.1)
    assert (first.blur, first.solarise, first.area) == (1.0, 0.0, (0.4, 1.0))
    assert dataclasses.replace(first, blur=0.1, solarise=0.2) == second
    changes = {"size": 96, "area": (0.05, 0.4), "blur": 0.5, "copies": 8}
    assert dataclasses.replace(first, **changes) == part
    sizes = [view.size for view in expand(dino(size=32, local_size=16, locals=3))]
    assert sizes == [32, 32, 16, 16, 16]
    assert dino(size=224, locals=0) == (first, second)


def test_crop_flip_has_no_colour():
    (view,) = crop_flip(size=96)
    assert (view.jitter, view.grey, view.blur, view.solarise) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", list(RECIPES))
def test_keys_that_recipes_share(name):
    """Probabilities and strengths of every operation reach all views."""
    settings = {"crop_probability": 0.9, "flip": 0.3, "rotation": 0.75}
    if name != "crop_flip":
        settings |= {"jitter": 0.4, "grey": 0.5, "sigma": (0.2, 1.0)}
    strength = {} if name == "crop_flip" else {"strength": 0.5}
    limits = {"jitter_limits": (0.6, 0.4, 0.2, 0.0)} if strength else {}
    before = RECIPES[name](size=64)
    views = RECIPES[name](size=64, **settings, **limits, **strength)
    for old, view in zip(before, views, strict=True):
        changed = dict(settings)
        if strength:
            names = ("brightness", "contrast", "saturation", "hue")
            changed |= dict(zip(names, (0.3, 0.2, 0.1, 0.0), strict=True))
        assert dataclasses.asdict(view) == dataclasses.asdict(old) | changed


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in ("dino", "moco_v3")])
def test_area_is_a_key(name):
    assert {v.area for v in RECIPES[name](size=64, area=(0.5, 0.9))} == {(0.5, 0.9)}


def test_restrict_leaves_out_the_other_operations():
    views = dino(size=32, rotation=0.5)
    assert restrict(views, OPERATIONS) == views
    for view in restrict(views, ("crop", "flip", "rotation")):
        parts = [getattr(view, PROBABILITIES[name]) for name in OPERATIONS]
        assert parts == [1, 0.5, 0.5, 0, 0, 0, 0]
    (view,) = restrict(crop_flip(size=32), ("flip",))
    assert (view.crop_probability, view.flip) == (0, 0.5)


def test_unknown_operation():
    with pytest.raises(ValueError, match=r"unknown 'solarize'.*mean 'solarise'"):
        restrict(simclr(size=32), ("crop", "solarize"))


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


def test_expand_repeats_views_by_their_copies():
    large, small = View(size=224, copies=2), View(size=96, area=(0.05, 0.4), copies=8)
    views = expand((large, small))
    assert [view.size for view in views] == [224] * 2 + [96] * 8
    assert {view.copies for view in views} == {1}


def test_views_are_hashable():
    assert hash(View(size=32)) == hash(View(size=32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "tf_box"}, "Did you mean 'tf_bbox'"),
        ({"brightness": "multiplicativ"}, "Did you mean 'multiplicative'"),
        ({"blur_sigma": "per_step"}, "image, batch"),
        ({"blur": 1.5}, r"\[0, 1\]"),
        ({"strength": 1.3}, r"1\.25"),
        ({"strength": -0.1}, "strength must"),
        ({"jitter_limits": (0.8, 0.8, 0.8, 0.6)}, "strength must.*0.6"),
        ({"jitter_limits": (0.8, -0.1, 0.8, 0.2)}, "contrast must"),
        ({"rotation": 1.5}, r"rotation must lie in \[0, 1\]"),
        ({"crop_probability": 1.5}, r"crop_probability must lie in \[0, 1\]"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_errors_of_simclr_suggest_a_correction(options, message):
    with pytest.raises(ValueError, match=message):
        RECIPES["simclr"](**{"size": 32} | options)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("byol", {"crop": "torc"}, "Did you mean 'torch'"),
        ("byol", {"blur": (1.0, 0.1, 0.5)}, r"blur needs 2 .*1\.0, 0\.1, 0\.5"),
        ("moco_v2", {"blur": -0.1}, r"blur must lie in \[0, 1\]"),
        ("moco_v1", {"strength": 1.26}, r"1\.25"),
        ("moco_v3", {"smallest": 0.0}, "area is"),
        ("moco_v3", {"solarise": (0.2,)}, "solarise needs 2"),
        ("dino", {"blur": (1.0, 0.1)}, "blur needs 3"),
        ("dino", {"local_area": (0.4, 0.05)}, "area is"),
        ("dino", {"locals": -1}, "locals must"),
        ("dino", {"local_size": 0}, "at least 1"),
    ],
)
def test_errors_of_other_recipes(recipe, options, message):
    with pytest.raises(ValueError, match=message):
        RECIPES[recipe](size=32, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "pil_bicubi"}, "Did you mean 'pil_bicubic'"),
        ({"colours": "PIL"}, "tf, pil"),
        ({"colours": "pil"}, "\"multiplicative\", got 'additive'"),
    ],
)
def test_errors_of_views(options, message):
    with pytest.raises(ValueError, match=message):
        View(size=32, **options)


@pytest.mark.parametrize("pair", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_area_is_checked(pair):
    with pytest.raises(ValueError, match="area is"):
        View(size=32, area=pair)
