"""Pictures in NumPy arrays, read like any source."""

import numpy as np
import pytest

from simclr_jax.data.arrays import Arrays
from simclr_jax.data.pipeline import eval_batches
from simclr_jax.data.sources import join_splits

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 8, 8, 3), np.uint8)
LABELS = np.array([0, 2, 1, 1, 0, 2, 0])


def test_pictures_and_labels_come_through_the_pipeline_unchanged():
    source = Arrays(IMAGES, LABELS, name="set/train")
    batches = [*eval_batches(source, size=8, batch_size=4)]
    images = np.concatenate([batch.views[0] for batch in batches])
    np.testing.assert_array_equal(images[:7], IMAGES)
    labels = np.concatenate([batch.label for batch in batches])
    np.testing.assert_array_equal(labels[:7], LABELS)
    assert source.classes == 3
    assert source.describe(3) == "set/train picture 3"


def test_splits_of_arrays_are_cut_and_joined():
    sources = {
        "train": Arrays(IMAGES[:4], LABELS[:4], name="set/train"),
        "test": Arrays(IMAGES[4:], LABELS[4:], name="set/test", class_names="abc"),
    }
    joined = join_splits(sources.__getitem__, "test[1:]+train")
    order = np.array([5, 6, 0, 1, 2, 3])
    picked = np.array([4, 0, 3, 1])
    rows = joined.read(picked)
    np.testing.assert_array_equal(rows["image"], IMAGES[order][picked])
    np.testing.assert_array_equal(rows["label"], LABELS[order][picked])
    assert rows["image"].dtype == np.uint8
    assert joined.name == "set/test[1:]+train"


def test_without_labels():
    source = Arrays(IMAGES, name="set/train")
    assert source.classes == 0
    assert source.read(np.array([1])).keys() == {"image"}


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES / 255, None, {}, r"must be uint8 .*float64 \[7, 8, 8, 3\]"),
        (IMAGES[..., :1], None, {}, "must be uint8"),
        (IMAGES, LABELS[:3], {}, r"integers \[7\].*\[3\]"),
        (IMAGES, LABELS / 2, {}, "float64"),
        (IMAGES, LABELS - 1, {}, r"in \[0, 2\).*from -1 to 1"),
        (IMAGES, LABELS, {"class_names": "ab"}, r"in \[0, 2\).*from 0 to 2"),
    ],
)
def test_arrays_that_are_no_pictures_or_labels(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        Arrays(images, labels, name="set/train", **options)
