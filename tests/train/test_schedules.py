"""The tables of the papers' schedules, to the digit."""

import numpy as np
import pytest

from simclr_jax.train.schedules import (
    SCALINGS,
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
    ],
)
def test_lengths(rule, images, epochs, batch, steps):
    assert total_steps(rule, images, epochs, batch) == steps


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"),
    [
        (10, IMAGENET, 4096, 3127),
        (10, IMAGENET, 256, 50045),
        (10, IMAGENET, 8192, 1563),
        (40, IMAGENET, 4096, 12511),
        (10, CIFAR, 512, 976),
    ],
)
def test_warmups(epochs, images, batch, steps):
    assert warmup_steps(epochs, images, batch) == steps


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
