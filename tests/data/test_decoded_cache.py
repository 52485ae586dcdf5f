"""Small decoded sets: the same views as on the host, without rounding."""

import io
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import sharding
from simclr_jax.data import augment, augment_device, decoded_cache
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.recipes import RECIPES, expand
from simclr_jax.data.sources import open_source
from simclr_jax.data.view import restrict
from simclr_jax.experiment import build, config

N = 16


@pytest.fixture(scope="module")
def source():
    return open_source("cifar10_mini", split="test[:200]")


def train(source, views, *, start=0, steps=1, batch=N, colour="device", **options):
    defaults: dict[str, Any] = {"batch_size": batch, "seed": 1, "colour": colour}
    options = defaults | options
    return list(train_batches(source, views, first_step=start, steps=steps, **options))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclr", {"strength": 0.5, "blur": 0.0}),
        ("crop_flip", {"rotation": 0.75}),
        ("dino", {"local_size": 16, "locals": 1}),
        pytest.param("byol", {"blur": (0.5, 0.5)}, marks=pytest.mark.long),
        pytest.param("moco_v2", {"blur": 0.5}, marks=pytest.mark.long),
    ],
)
def test_views_equal_the_host_s_up_to_rounding(source, name, options):
    """The host rounds the results to whole levels, the device does not."""
    views = RECIPES[name](size=32, **options)
    (host,) = train(source, views, batch=64, colour="host")
    (device,) = train(source, views, batch=64)
    np.testing.assert_array_equal(host.index, device.index)
    np.testing.assert_array_equal(host.label, device.label)
    done = jax.jit(augment_device.prepare(views))(device)
    assert done.draws is done.picture is None
    np.testing.assert_array_equal(done.label, device.label)
    for a, b in zip(host.views, done.views, strict=True):
        gap = np.abs(a - 255 * np.asarray(b))
        # Solarising jumps at one half, and hue where colours are all but grey.
        assert np.quantile(gap, 0.999) < 0.501
        assert gap.mean() < 0.26


@pytest.mark.parametrize("name", ["simclr", "byol", "moco_v2", "dino"])
def test_views_on_the_host_equal_those_of_single_pictures(source, name, monkeypatch):
    """Decoded before and cropped in groups, or decoded and cropped one by one.

    These recipes have all samplers of crops and methods of resizing.
    """
    sizes: dict[str, Any] = {"local_size": 16, "locals": 1} if name == "dino" else {}
    views = restrict(RECIPES[name](size=32, **sizes), ("crop", "flip"))
    options: dict[str, Any] = {"colour": "host", "batch": 20, "steps": 2, "start": 9}
    grouped = train(source, views, **options)
    monkeypatch.setattr(decoded_cache, "MAX_SIDE", 0)
    assert decoded_cache.load(source, views) is None
    equal(grouped, train(source, views, **options))


def test_fields_and_dtypes_of_batches(source):
    views = RECIPES["dino"](size=32, local_size=16, locals=2)
    (batch,) = train(source, views)
    assert batch.picture.shape == (N, 32, 32, 3)
    assert batch.picture.dtype == np.uint8
    assert [d["window"].shape for d in batch.draws] == [(N, 4)] * 4
    assert all(len(d) == 9 for d in batch.draws)
    files = source.read(batch.index.astype(np.int64))["image"]
    for picture, data in zip(batch.picture, files, strict=True):
        expected = np.asarray(Image.open(io.BytesIO(data)))
        assert np.abs(picture.astype(int) - expected).mean() < 3  # another DCT


def test_batch_shapes_equal_those_of_batches(source):
    c, mesh = config.load("configs/dino_cifar10.py"), sharding.make_mesh()
    config.override(c, [("data.batch_size", str(N)), ("data.colour", "device")])
    (batch,) = train(source, build.recipe(c))
    planned = build.batch_shapes(c, mesh, labels=True)
    assert jax.tree.structure(planned) == jax.tree.structure(batch)
    for a, b in zip(jax.tree.leaves(planned), jax.tree.leaves(batch), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_a_run_can_start_at_any_step_and_epochs_differ(source):
    """Step 13 lies in the second epoch of 12 steps."""
    views = RECIPES["simclr"](size=32, blur_sigma="batch")
    batches = train(source, views, steps=14)
    equal(batches[13], *train(source, views, start=13))
    drawn = {d["window"].tobytes() for b in batches for d in b.draws}
    assert len(drawn) == 28


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(source, processes):
    views = RECIPES["moco_v2"](size=32)
    parts = [
        train(source, views, process_index=p, process_count=processes)[0]
        for p in range(processes)
    ]
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    equal(train(source, views)[0], joined)


class Files:
    """A source of files in memory, without labels."""

    name, classes, block = "files", 0, 1
    class_names: tuple[str, ...] = ()

    def __init__(self, arrays):
        self.files = np.empty(len(arrays), object)
        self.files[:] = [self.png(a) for a in arrays]

    @staticmethod
    def png(array):
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        return file.getvalue()

    def __len__(self):
        return len(self.files)

    def read(self, indices):
        return {"image": self.files[indices]}

    def describe(self, index):
        return f"{index}.png"


@pytest.fixture
def files():
    draw = np.random.default_rng(0)
    return Files(draw.integers(0, 256, (24, 12, 12, 3)).astype(np.uint8))


def test_batches_without_labels(files):
    (batch,) = train(files, RECIPES["simclr"](size=12))
    assert batch.picture is not None
    assert batch.label is None


def test_sets_that_the_device_cannot_crop(files, monkeypatch):
    """Another size of views, one picture of another size, or too many of them."""
    views = RECIPES["simclr"](size=12)
    assert decoded_cache.load(files, views) is not None
    assert decoded_cache.load(files, RECIPES["simclr"](size=16)) is None
    large = Files([np.zeros((80, 80, 3), np.uint8)])
    assert decoded_cache.load(large, RECIPES["simclr"](size=80)) is None
    monkeypatch.setattr(decoded_cache, "MEMORY_BYTES", 24 * 12 * 12 * 3 - 1)
    assert decoded_cache.load(files, views) is None
    monkeypatch.undo()
    files.files[20] = Files.png(np.zeros((12, 13, 3), np.uint8))
    (batch,) = train(files, views)
    assert batch.picture is None
    assert [x.shape for x in batch.views] == [(N, 12, 12, 3)] * 2


def test_an_unreadable_picture_is_named_at_once(files):
    files.files[20] = b"no picture"
    options = {"batch_size": N, "seed": 0, "first_step": 0, "steps": 1}
    with pytest.raises(UnreadablePicture, match=r"^20\.png is not a readable picture"):
        train_batches(files, RECIPES["simclr"](size=12), colour="device", **options)


def test_draws_equal_those_of_host_colour(source):
    views = expand(RECIPES["simclr"](size=32))
    index = np.arange(5)
    plain, drawn = (
        augment.draw(views, 3, 2, 1, index),
        decoded_cache.draw(views, 3, 2, 1, index),
    )
    for a, b in zip(plain, drawn, strict=True):
        window = b.pop("window")
        assert window.dtype == np.int32
        equal(a, b)
