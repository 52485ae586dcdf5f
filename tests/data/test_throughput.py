"""Measured pipelines: pictures, bytes and stages; times are not tested."""

import numpy as np
import pytest

from simclr_jax.data import throughput
from simclr_jax.data.recipes import RECIPES
from simclr_jax.data.sources import open_source

DRAWS = 5 + 4 * 4 + 4 * 4 + 4  # bytes: five events, order, factors, sigma
WINDOW = 4 * 4


@pytest.fixture(scope="module")
def source():
    return open_source("cifar10_mini", split="test")


def measure(source, views, colour):
    return throughput.measure(source, views, batch_size=64, colour=colour, seconds=0.05)


def test_bytes_sent_and_read(source):
    views = RECIPES["simclr"](size=24)
    encoded = np.mean([len(data) for data in source.read(np.arange(1000))["image"]])
    host = measure(source, views, "host")
    assert host.bytes_per_image_sent == 2 * 24 * 24 * 3 + 4 + 4
    assert host.bytes_per_image_read == pytest.approx(encoded, rel=0.3)
    device = measure(source, views, "device")
    assert device.bytes_per_image_sent == 2 * (24 * 24 * 3 + DRAWS) + 4 + 4
    assert min(host.images_per_core_second, device.images_per_core_second) > 0


def test_pictures_in_memory_are_not_read(source):
    result = measure(source, RECIPES["simclr"](size=32), "device")
    assert result.bytes_per_image_read == 0
    assert result.bytes_per_image_sent == 32 * 32 * 3 + 2 * (DRAWS + WINDOW) + 8


def test_a_measured_batch_is_at_most_the_runs():
    views = RECIPES["simclr"](size=224)
    assert throughput.measured_batch(views, 4096, 10**6) == 83
    assert throughput.measured_batch(views, 64, 10**6) == 64
    assert throughput.measured_batch(views, 64, 10) == 10
    assert throughput.measured_batch(RECIPES["simclr"](size=4000), 64, 10**6) == 1


def test_stages_add_up(source):
    views, whole = RECIPES["simclr"](size=24), throughput.Throughput(100.0, 1.0, 1.0)
    stages = throughput.stages(
        source, views, whole, batch_size=64, colour="device", seconds=0.05
    )
    assert list(stages) == ["read", "decode", "crop"]
    assert sum(stages.values()) == pytest.approx(10.0)
