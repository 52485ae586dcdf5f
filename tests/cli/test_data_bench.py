"""What is counted: pictures, bytes and stages; times are not tested."""

import numpy as np
import pytest

from simclr_jax.cli import common, data_bench
from simclr_jax.data.recipes import RECIPES
from simclr_jax.data.sources import open_source

DRAWS = 5 + 4 * 4 + 4 * 4 + 4  # bytes: five events, order, factors, sigma
WINDOW = 4 * 4


@pytest.fixture(scope="module")
def source():
    return open_source("cifar10_mini", split="test")


def measured(source, views, colour):
    return data_bench.measure(source, views, batch_size=64, colour=colour, seconds=0.05)


def test_bytes_on_the_wire_and_read(source):
    views = RECIPES["simclr"](size=24)
    encoded = np.mean([len(data) for data in source.read(np.arange(1000))["image"]])
    host = measured(source, views, "host")
    assert host.bytes_per_image_on_the_wire == 2 * 24 * 24 * 3 + 4 + 4
    assert host.bytes_read_per_image == pytest.approx(encoded, rel=0.3)
    device = measured(source, views, "device")
    assert device.bytes_per_image_on_the_wire == 2 * (24 * 24 * 3 + DRAWS) + 4 + 4
    assert min(host.images_per_core_second, device.images_per_core_second) > 0


def test_a_set_in_memory_is_not_read(source):
    found = measured(source, RECIPES["simclr"](size=32), "device")
    assert found.bytes_read_per_image == 0
    assert found.bytes_per_image_on_the_wire == 32 * 32 * 3 + 2 * (DRAWS + WINDOW) + 8


def test_a_measured_batch_is_a_part_of_the_run_s():
    views = RECIPES["simclr"](size=224)
    assert data_bench.part(views, 4096, 10**6) == 83
    assert data_bench.part(views, 64, 10**6) == 64
    assert data_bench.part(views, 64, 10) == 10
    assert data_bench.part(RECIPES["simclr"](size=4000), 64, 10**6) == 1


def test_the_door(capsys):
    small = ["--config=configs/quickstart.py", "--seconds=0.05", "--step_ms=50"]
    data_bench.main([*small, "--config.data.split=train[:300]"])
    said = capsys.readouterr().out
    assert "cifar10_mini/train[:300]: 300 pictures" in said
    for stage in ("read", "decode", "cut, colour", "all"):
        assert f"\n{stage} " in said
    assert "for a batch of 256 every 50 ms" in said
    data_bench.main([*small, "--config.data.colour=device"])
    said = capsys.readouterr().out
    assert "\ngather, draw " in said
    assert "decode" not in said
    with pytest.raises(common.UsageError, match="Did you mean 'train'"):
        data_bench.main([*small, "--config.data.split=trian"])


def test_stages_add_up(source):
    views, done = RECIPES["simclr"](size=24), data_bench.Delivered(100.0, 1.0, 1.0)
    words = {"batch_size": 64, "colour": "device", "seconds": 0.05}
    spent = data_bench.stages(source, views, done, **words)
    assert list(spent) == ["read", "decode", "cut"]
    assert sum(spent.values()) == pytest.approx(10.0)
