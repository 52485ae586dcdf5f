"""Batches depend on the step number alone, on host and device, in any process."""

import io
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax.data import augment, decoded_cache, host_views, resizing
from simclr_jax.data.augment_device import prepare
from simclr_jax.data.pipeline import eval_batches, preview, train_batches
from simclr_jax.data.recipes import RECIPES, crop_flip, dino, simclr
from simclr_jax.data.sampler import Sampler
from simclr_jax.data.sources import open_source
from simclr_jax.data.view import View, restrict

SIZE = 16
VIEWS = simclr(size=SIZE)


class Pictures:
    """A source in memory: files in a list, or one array of decoded pictures."""

    name, class_names, block = "memory", (), 1

    def __init__(self, images, labels=None):
        self.images, self.labels = images, labels
        self.classes = 0 if labels is None else int(labels.max()) + 1
        self.asked = []

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        self.asked.append(indices)
        batch = {"image": self.images[indices]}
        if self.labels is not None:
            batch["label"] = self.labels[indices]
        return batch

    def describe(self, index):
        return f"memory/{index}.png"


def pixels(n=24):
    """Smooth pictures of many sizes."""
    rng = np.random.default_rng(0)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8))
        yield np.asarray(small.resize((20 + i, 40 - i), Image.Resampling.BICUBIC))


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def objects(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


@pytest.fixture
def source():
    files = objects([png(a) for a in pixels()])
    return Pictures(files, (np.arange(24) % 3).astype(np.int32))


def train(source, views=VIEWS, *, start=0, steps=5, batch=8, seed=1, **options):
    return list(
        train_batches(
            source,
            views,
            batch_size=batch,
            seed=seed,
            first_step=start,
            steps=steps,
            **options,
        )
    )


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("colour", ["host", "device"])
def test_fields_and_dtypes_of_batches(source, colour):
    order = Sampler(24, 8, 1)
    batches = train(source, colour=colour)
    assert len(batches) == 5
    for step, batch in enumerate(batches):
        index, _ = order.indices(step, 0, 1)
        np.testing.assert_array_equal(batch.index, index)
        np.testing.assert_array_equal(batch.label, index % 3)
        assert batch.index.dtype == batch.label.dtype == np.int32
        assert [(v.shape, v.dtype) for v in batch.views] == [
            ((8, SIZE, SIZE, 3), np.uint8)
        ] * 2
        assert (batch.draws is not None) == (colour == "device")
        assert batch.picture is batch.valid is None


@pytest.mark.parametrize("colour", ["host", "device"])
def test_a_run_can_start_at_any_step(source, colour):
    """Step 4 lies in the second epoch; the first three are not made."""
    views = simclr(size=SIZE, blur_sigma="batch")
    batches = train(source, views, colour=colour)
    assert_equal(batches[4:], train(source, views, start=4, steps=1, colour=colour))


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("colour", ["host", "device"])
def test_processes_share_the_global_batch(source, colour, processes):
    batches = train(source, colour=colour, steps=2)
    parts = [
        train(
            source,
            colour=colour,
            steps=2,
            process_index=p,
            process_count=processes,
        )
        for p in range(processes)
    ]
    for step, batch in enumerate(batches):
        rows = [part[step] for part in parts]
        assert_equal(batch, jax.tree.map(lambda *a: np.concatenate(a), *rows))


@pytest.mark.parametrize("colour", ["host", "device"])
def test_the_chunk_size_does_not_change_the_views(source, colour, monkeypatch):
    """Pictures are coloured in chunks, which may reach from one step into the next."""
    views = simclr(size=SIZE, blur_sigma="batch")
    batches = train(source, views, colour=colour)
    monkeypatch.setattr(host_views, "CHUNK", 3 * SIZE**2)
    assert_equal(batches, train(source, views, colour=colour))


def test_epochs_and_seeds_and_views_differ(source):
    views = simclr(size=SIZE, blur=0.0)
    seen = {}
    for seed in (1, 2):
        for step, batch in enumerate(train(source, views, steps=6, seed=seed)):
            for row, index in enumerate(batch.index):
                for v in (0, 1):
                    key = (seed, step // 3, int(index), v)
                    seen[key] = batch.views[v][row].tobytes()
    assert len(seen) == 2 * 2 * 24 * 2
    assert len(set(seen.values())) > 0.99 * len(seen)


@pytest.mark.parametrize("brightness", ["additive", "multiplicative"])
def test_host_and_device_differ_by_rounding(source, brightness):
    """The same window, flip, factors: only where uint8 rounds differs."""
    views = simclr(size=SIZE, brightness=brightness, strength=0.5, blur=0.0)
    hosts = train(source, views, colour="host")
    devices = train(source, views, colour="device")
    coloured = jax.jit(prepare(views))
    for host, device in zip(hosts, devices, strict=True):
        for one, other in zip(host.views, coloured(device).views, strict=True):
            gap = np.abs(one / 255 - np.asarray(other))
            assert gap.mean() < 1.5e-3  # a third of a level
            assert np.quantile(gap, 0.999) < 0.02


def test_several_views_of_different_sizes(source):
    views = (
        View(size=20, jitter=1.0, hue=0.1, crop="inception_log"),
        View(size=12, area=(0.05, 0.4), solarise=1.0, copies=3),
    )
    (batch,) = train(source, views, steps=1)
    assert [v.shape[1] for v in batch.views] == [20, 12, 12, 12]
    assert len({v.tobytes() for v in batch.views}) == 4
    # a view does not change if others follow it
    (alone,) = train(source, views[:1], steps=1)
    np.testing.assert_array_equal(alone.views[0], batch.views[0])


@pytest.mark.long
def test_multi_crop(source):
    """Two global and two local views, on host and device; preview equals them."""
    plain: Any = {"blur": (0.0,) * 3, "solarise": (0.0,) * 2}  # builds in half the time
    views = dino(size=SIZE, local_size=8, locals=2, **plain)
    shown = {}
    for colour in ("host", "device"):
        (batch,) = train(source, views, steps=1, batch=24, colour=colour)
        sizes = (SIZE, SIZE, 8, 8)
        assert [x.shape for x in batch.views] == [(24, s, s, 3) for s in sizes]
        assert {x.dtype.name for x in batch.views} == {"uint8"}
        assert len({x.tobytes() for x in batch.views}) == 4
        made = [x / np.float32(255) for x in batch.views]
        if colour == "device":
            assert len(batch.draws) == 4
            made = jax.jit(prepare(views))(batch).views
        shown[colour] = preview(views, list(pixels()), seed=1, colour=colour)
        for seen, all_shown in zip(made, shown[colour], strict=True):
            np.testing.assert_allclose(all_shown[batch.index], seen, atol=2e-6)
    for host, device in zip(shown["host"], shown["device"], strict=True):
        gap = np.abs(host - device)
        assert gap.mean() < 3e-3
        assert np.quantile(gap, 0.99) < 0.02


def test_decoded_and_encoded_sources_give_the_same_pixels():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (16, 24, 24, 3)).astype(np.uint8)
    assert_equal(train(Pictures(array)), train(Pictures(objects([*map(png, array)]))))


def plain_crops(source, views, index):
    """The crops of view v of pictures, [v][i], float32 in [0, 255], in NumPy."""
    keys = augment.crop_keys(len(views), 1, 0, index)
    images = [augment.decode(tf.constant(source.images[i])) for i in index]
    return [
        [
            np.clip(augment.crop(image, key[v], view), 0, 255)
            for image, key in zip(images, keys, strict=True)
        ]
        for v, view in enumerate(views)
    ]


@pytest.mark.parametrize("colour", ["host", "device"])
@pytest.mark.parametrize("rotation", [0.0, 0.9])
def test_crop_flip_only_crops_flips_and_rotates(source, rotation, colour):
    views = crop_flip(size=SIZE, rotation=rotation)
    (batch,) = train(source, views, steps=1, colour=colour)
    made = batch.views[0]
    if colour == "device":
        made = 255 * np.asarray(prepare(views)(batch).views[0])
    (expected,) = plain_crops(source, views, batch.index)
    (drawn,) = augment.draw(views, 1, 0, 0, batch.index)
    quarters = drawn.get("quarters", np.zeros(8, int))
    assert {*quarters} >= ({1, 2, 3} if rotation else {0})
    for row, x in enumerate(expected):
        flipped = x[:, ::-1] if drawn["flip"][row] else x
        rotated = np.rot90(flipped, quarters[row])
        np.testing.assert_allclose(made[row], rotated, atol=0.501)


@pytest.mark.parametrize("name", list(RECIPES))
def test_only_the_crop_of_any_recipe(source, name):
    sizes: dict[str, Any] = {"local_size": 8, "locals": 1} if name == "dino" else {}
    views = restrict(RECIPES[name](size=SIZE, **sizes), ("crop",))
    (batch,) = train(source, views, steps=1)
    for made, crops in zip(
        batch.views, plain_crops(source, views, batch.index), strict=True
    ):
        np.testing.assert_allclose(made, crops, atol=0.501)


def test_batches_without_labels(source):
    source.labels = None
    assert train(source, steps=1)[0].label is None
    assert next(iter(eval_batches(source, size=8, batch_size=4))).label is None


def test_files_that_end_in_zeros_are_read_completely():
    """numpy's own string type would strip them."""
    data = png(next(pixels(1))) + b"\0\0"
    made = train(Pictures(objects([data] * 8)), steps=1)
    assert made[0].views[0].std() > 0


def test_a_bounded_number_of_batches_is_read_ahead(source):
    batches = train_batches(
        source, VIEWS, batch_size=8, seed=0, first_step=0, steps=1000
    )
    next(batches)
    assert len(source.asked) < 16
    assert max(map(len, source.asked)) == 8


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b"not a picture", "Unknown image file format"),
        (b"", "Input is empty"),
        ("cut", "Invalid JPEG"),
    ],
)
def test_an_unreadable_picture_is_named(source, bad, what):
    if bad == "cut":
        file = io.BytesIO()
        Image.fromarray(next(pixels(1))).save(file, "JPEG")
        bad = file.getvalue()[: len(file.getvalue()) // 2]
    broken = int(Sampler(24, 8, 1).indices(1, 0, 1)[0][5])
    source.images[broken] = bad
    batches = train_batches(source, VIEWS, batch_size=8, seed=1, first_step=0, steps=3)
    next(batches)  # the step before has no unreadable picture
    with pytest.raises(ValueError, match=rf"^memory/{broken}\.png .*{what}") as caught:
        list(batches)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "node" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"^memory/{broken}\.png "):
        list(eval_batches(source, size=SIZE, batch_size=8))


def test_an_error_of_the_source_is_raised_unchanged(source):
    read_all = source.read

    def read(indices):
        if len(source.asked) > 2:
            raise OSError("memory/disk is gone")
        return read_all(indices)

    source.read = read
    with pytest.raises(OSError, match=r"^memory/disk is gone$"):
        train(source)


def test_invalid_arguments_are_errors_at_once(source):
    options = {"seed": 0, "first_step": 0, "steps": 1}
    with pytest.raises(ValueError, match='"host" or "device"'):
        train_batches(source, VIEWS, batch_size=8, colour="tpu", **options)
    with pytest.raises(ValueError, match="batch_size"):
        train_batches(source, VIEWS, batch_size=25, **options)
    with pytest.raises(ValueError, match="multiple of 3"):
        train_batches(source, VIEWS, batch_size=8, process_count=3, **options)
    with pytest.raises(ValueError, match="multiple of 3"):
        eval_batches(source, size=8, batch_size=8, process_count=3)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_has_every_picture_once_in_order(source, processes):
    parts = [
        list(
            eval_batches(
                source,
                size=48,
                batch_size=20,
                process_index=p,
                process_count=processes,
            )
        )
        for p in range(processes)
    ]
    assert {len(part) for part in parts} == {2}
    shapes = {batch.views[0].shape for part in parts for batch in part}
    assert shapes == {(20 // processes, 48, 48, 3)}
    rows = [batch for batches in zip(*parts, strict=True) for batch in batches]
    joined = jax.tree.map(lambda *a: np.concatenate(a), *rows)
    valid = joined.valid
    assert valid.sum() == 24
    np.testing.assert_array_equal(joined.index[valid], np.arange(24))
    np.testing.assert_array_equal(joined.label[valid], np.arange(24) % 3)
    for image, data in zip(joined.views[0][valid], source.images, strict=True):
        expected = resizing.centre(augment.decode(tf.constant(data)), 48)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("colour", ["host", "device"])
def test_preview_equals_the_views_of_training(source, colour):
    """Epoch 0 of a run with this seed, in the pictures' own order."""
    images = list(pixels())
    recipe = simclr(size=SIZE, strength=0.5)
    shown = preview(recipe, images, seed=1, colour=colour)
    batches = train(source, recipe, colour=colour, steps=3)
    for batch in batches:
        if colour == "device":
            views = prepare(recipe)(batch).views
        else:
            views = [x.astype(np.float32) / 255 for x in batch.views]
        for seen, all_shown in zip(views, shown, strict=True):
            np.testing.assert_allclose(all_shown[batch.index], seen, atol=1e-6)
    assert {(x.shape, x.dtype.name) for x in shown} == {
        ((24, SIZE, SIZE, 3), "float32")
    }
    assert len(shown) == 2


@pytest.mark.parametrize(
    ("image", "description"),
    [
        (np.zeros((8, 8, 3), "f"), r"float32 \[8, 8, 3\]"),
        (np.zeros((8, 8), np.uint8), r"uint8 \[8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \[0, 8, 3\]"),
        ([[0, 1]], r"int64 \[1, 2\]"),
    ],
)
def test_preview_of_arrays_that_are_not_pictures_is_an_error(image, description):
    with pytest.raises(ValueError, match=f"number 1 is {description}"):
        preview(VIEWS, [np.zeros((8, 8, 3), np.uint8), image], 0)


@pytest.mark.parametrize(
    ("brightness", "numbers"),
    [
        ("additive", (0.075, 0.0061, 0.0010)),
        ("multiplicative", (0.086, 0.0065, 0.0011)),
    ],
)
def test_host_and_device_differ_as_documented(brightness, numbers, monkeypatch):
    """The embedded pictures, cut on the host: augment.py's table."""
    monkeypatch.setattr(decoded_cache, "MAX_SIDE", 0)
    source = open_source("cifar10_mini", split="train")
    views = simclr(size=32, brightness=brightness, strength=0.5, blur=0.0)
    (host,) = train(source, views, batch=500, steps=1)
    (device,) = train(source, views, batch=500, steps=1, colour="device")
    coloured = jax.jit(prepare(views))(device).views
    pairs = zip(host.views, coloured, strict=True)
    gap = [np.abs(a / np.float32(255) - np.asarray(b)) for a, b in pairs]
    result = np.max(gap), np.quantile(gap, 0.999), np.mean(gap)
    np.testing.assert_allclose(result[1:], numbers[1:], rtol=0.1)
    assert result[0] < 1.5 * numbers[0]  # one pixel of millions: it may be larger
