"""The tables of the papers' schedules, to the digit."""

import numpy as np
import pytest

from simclr_jax.train.schedules import (
    SCALINGS,
    SHAPES,
    total_steps,
    warmup_cosine,
    warmup_steps,
)

IMAGENET, CIFAR = 1_281_167, 50_000


@pytest.mark.parametrize(
    ("rule", "images", "epochs", "batch", "steps"),
    [
        ("simclr", IMAGENET, 100, 4096, 31279),
        ("simclr", IMAGENET, 200, 4096, 62557),
        ("simclr", IMAGENET, 800, 4096, 250228),
        ("simclr", IMAGENET, 1000, 4096, 312785),
        ("simclr", IMAGENET, 90, 4096, 28151),
        ("simclr", IMAGENET, 90, 512, 225206),
        ("simclr", IMAGENET, 1000, 256, 5004559),
        ("simclr", IMAGENET, 100, 8192, 15640),
        ("simclr", IMAGENET, 30, 1024, 37535),
        ("simclr", 12811, 60, 1024, 751),
        ("simclr", 128116, 30, 1024, 3754),
        ("simclr", CIFAR, 1000, 512, 97657),
        ("byol", IMAGENET, 40, 4096, 12511),
        ("byol", IMAGENET, 100, 4096, 31278),
        ("byol", IMAGENET, 1000, 4096, 312784),
        ("whole", CIFAR, 10, 512, 970),
        ("whole", 5000, 30, 256, 570),
        ("moco", IMAGENET, 100, 1024, 125_100),
    ],
)
def test_lengths(rule, images, epochs, batch, steps):
    assert total_steps(rule, images, epochs, batch) == steps


@pytest.mark.parametrize(
    ("rule", "images", "epochs", "batch", "steps"),
    [
        ("simclr", IMAGENET, 10, 4096, 3127),
        ("byol", IMAGENET, 10, 256, 50045),
        ("simclr", IMAGENET, 10, 8192, 1563),
        ("byol", IMAGENET, 40, 4096, 12511),
        ("whole", CIFAR, 10, 512, 976),
        ("moco", IMAGENET, 10, 4096, 3120),
        ("moco", IMAGENET, 10, 1024, 12510),
        ("moco", CIFAR, 2.5, 512, 242),
    ],
)
def test_warmups(rule, images, epochs, batch, steps):
    assert warmup_steps(rule, images, epochs, batch) == steps


@pytest.mark.parametrize(
    ("scaling", "base", "batch", "peak"),
    [
        ("linear", 0.3, 4096, 4.8),
        ("linear", 0.3, 256, 0.3),
        ("sqrt", 0.075, 4096, 4.8),
        ("sqrt", 0.075, 512, 1.69706),
        ("sqrt", 0.1, 4096, 6.4),
        ("sqrt", 0.1, 8192, 9.0510),
        ("none", 0.3, 4096, 0.3),
    ],
)
def test_peaks(scaling, base, batch, peak):
    np.testing.assert_allclose(SCALINGS[scaling](base, batch), peak, rtol=1e-5)


def test_warmup_cosine_of_simclr():
    """100 epochs at batch 4096."""
    schedule = warmup_cosine(4.8, 3127, 31279)
    expected = {
        0: 0,
        1: 0.00153501759,
        1563: 2.39923249,
        3126: 4.79846498,
        3127: 4.8,
        17203: 2.4,
        31279: 0,
        40000: 0,
    }
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-6)
    np.testing.assert_allclose(schedule(31278), 1.4944e-8, rtol=1e-5)


def test_no_warmup_starts_at_the_peak():
    assert warmup_cosine(1.6, 0, 10)(0) == np.float32(1.6)


def shape(name, *, peak, epochs, epoch, warmup=0, end=0.0, milestones=()):
    """The schedule of a run of `epochs` epochs, of them `warmup` to warm up."""
    return SHAPES[name](
        peak=peak,
        end=end,
        warmup=warmup * epoch,
        total=epochs * epoch,
        epoch=epoch,
        milestones=milestones,
    )


def test_dino_has_two_steps_at_the_peak():
    schedule = shape("dino", peak=0.1, end=0.01, epochs=5, epoch=4, warmup=2)
    seen = np.array([schedule(step) for step in range(20)])
    rise = np.linspace(0, 0.1, 8)
    fall = 0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    np.testing.assert_allclose(seen, np.concatenate([rise, fall]), rtol=1e-6)
    published = [0, 0.01428571, 0.1, 0.1, 0.09846666, 0.09397114, 0.01153334]
    np.testing.assert_allclose(seen[[0, 1, 7, 8, 9, 10, 19]], published, atol=5e-9)


def test_dino_on_imagenet():
    """100 epochs at batch 1024."""
    schedule = shape("dino", peak=0.002, end=1e-6, epochs=100, epoch=1251, warmup=10)
    expected = {
        0: 0,
        12509: 0.002,
        12510: 0.002,
        12511: 0.001999999999610907,
        62550: 0.00117406136,
        125099: 1.00000039e-6,
        125100: 1e-6,
    }
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=3e-7)


@pytest.mark.parametrize(
    ("peak", "warmup", "epoch", "expected"),
    [
        (2.4e-3, 40, 312, {0: 0, 20: 0.0012, 40: 0.0024, 170: 0.0012}),
        (9.6, 10, 312, {5: 4.8, 10: 9.6, 55: 4.8}),
    ],
)
def test_moco_v3_changes_the_rate_at_every_step(peak, warmup, epoch, expected):
    epochs = 300 if warmup == 40 else 100
    schedule = shape("cosine", peak=peak, epochs=epochs, epoch=epoch, warmup=warmup)
    for e, rate in expected.items():
        np.testing.assert_allclose(schedule(e * epoch), rate, rtol=1e-6)
    assert schedule(60 * epoch + 1) < schedule(60 * epoch)


@pytest.mark.parametrize(
    ("peak", "epochs", "epoch", "e", "rate"),
    [
        (0.1, 100, 2502, 1, 0.0999753280),  # SimSiam
        (0.03, 200, 5004, 199, 1.85051e-6),  # MoCo v2
    ],
)
def test_the_rate_is_constant_within_an_epoch(peak, epochs, epoch, e, rate):
    schedule = shape("epochs", peak=peak, epochs=epochs, epoch=epoch)
    for step in (e * epoch, e * epoch + 1, (e + 1) * epoch - 1):
        np.testing.assert_allclose(schedule(step), rate, rtol=2e-6)
    assert schedule((e - 1) * epoch) > schedule(e * epoch - 1) * 0.999
    assert schedule(e * epoch - 1) > schedule(e * epoch)


@pytest.mark.parametrize("warmup", [0, 2])
def test_moco_v1_divides_the_rate_by_ten(warmup):
    schedule = shape(
        "steps",
        peak=0.03,
        epochs=200,
        epoch=50,
        warmup=warmup,
        milestones=(120.0, 160.0),
    )
    expected = {
        100: 0.03,
        120 * 50 - 1: 0.03,
        120 * 50: 0.003,
        160 * 50 - 1: 0.003,
        160 * 50: 0.0003,
        200 * 50: 0.0003,
    }
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-6)
    np.testing.assert_allclose(schedule(25), 0.03 / 4 if warmup else 0.03, rtol=1e-6)


@pytest.mark.parametrize(
    ("peak", "epochs", "warmup", "expected"),
    [
        (0.12, 1000, 10, {0: 0, 1: 0.01333333, 9: 0.12, 10: 0.12, 505: 0.0600951}),
        (0.12, 50, 0, {0: 0.12, 1: 0.1198862, 49: 0.00045477}),
        (1.2e-4, 450, 10, {0: 0, 1: 1.3333e-5, 9: 1.2e-4}),
    ],
)
def test_the_three_stages_of_tsimcne(peak, epochs, warmup, expected):
    schedule = shape("tsimcne", peak=peak, epochs=epochs, epoch=58, warmup=warmup)
    for e, rate in expected.items():
        for step in (58 * e, 58 * e + 57):
            np.testing.assert_allclose(schedule(step), rate, rtol=3e-5)
