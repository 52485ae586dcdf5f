"""Labelled parts: the counts of the official lists, balanced draws, wrong lists."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data import subsets, tfds
from simclr_jax.data.arrays import Arrays
from simclr_jax.data.sources import file_names, open_source
from simclr_jax.data.subsets import (
    Official,
    Subset,
    balanced,
    labelled_part,
    read_labels,
    stratified,
)
from tests.data.test_tfds import EMBEDDED, prepare

TINY_PNG = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy()


def arrays(label):
    images = np.zeros((len(label), 4, 4, 3), np.uint8)
    return Arrays(images, np.asarray(label), name="set/train")


def sizes(label, rows):
    return np.bincount(label[rows]).tolist()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (12_811, {13: 811, 12: 189}),  # SimCLR's 1percent.txt
        (128_116, {129: 116, 128: 884}),  # 10percent.txt
    ],
)
def test_a_draw_has_the_counts_of_the_official_lists(count, expected):
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 130))
    rows = balanced(label, count, seed=0)
    assert len(np.unique(rows)) == len(rows) == count
    values, classes = np.unique(sizes(label, rows), return_counts=True)
    assert dict(zip(values.tolist(), classes.tolist(), strict=True)) == expected


def test_a_small_draw_is_part_of_a_larger_one():
    label = np.random.default_rng(0).integers(0, 7, 500)
    draws = [set(balanced(label, n, seed=3).tolist()) for n in range(7, 501, 13)]
    assert all(a < b for a, b in itertools.pairwise(draws))
    other = balanced(label, 50, seed=4)
    assert set(other.tolist()) not in draws
    assert other.tolist() == balanced(label, 50, seed=4).tolist()


def test_a_small_class_gives_all_its_pictures():
    label = np.repeat([0, 1, 2], [3, 40, 57])
    assert sizes(label, balanced(label, 23, seed=0)) == [3, 10, 10]
    assert sorted(sizes(label, balanced(label, 24, seed=0))) == [3, 10, 11]
    assert sizes(label, balanced(label, 100, seed=0)) == [3, 40, 57]


def test_a_validation_part_has_a_share_of_every_class():
    label = np.random.default_rng(0).permutation(
        np.repeat([0, 1, 2, 3], [50, 12, 2, 1])
    )
    drawn = stratified(label, 0.2, seed=0)
    assert np.bincount(label[drawn], minlength=4).tolist() == [10, 2, 1, 0]
    assert (drawn != stratified(label, 0.2, seed=1)).any()
    assert np.bincount(label[stratified(label, 0.99, 0)]).tolist() == [49, 11, 1]


def test_percentages_of_the_embedded_pictures():
    source = open_source("cifar10_mini", split="train")
    assert labelled_part(source, "100%", 0) is source
    part = labelled_part(source, "1 %", 0)
    assert (len(part), part.classes, part.block) == (50, 10, 1)
    label = read_labels(source)
    assert np.bincount(read_labels(part)).tolist() == [5] * 10
    rows = balanced(label, 50, seed=0)
    read, truth = part.read(np.array([7, 3])), source.read(rows[[7, 3]])
    for key in ("image", "label"):
        np.testing.assert_array_equal(read[key], truth[key])
    assert part.describe(7) == source.describe(int(rows[7]))


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        (arrays([0, 1, 2] * 10), "5%", "are 1, fewer than its 3 classes.*Take 10%"),
        (arrays([1] * 10), "50%", "of one class"),
        (arrays([0, 1] * 5), "0%", "above 0"),
        (arrays([0, 1] * 5), "101%", "at most 100%"),
        (arrays([0, 1] * 5), "0.1", "neither a percentage, such as 1%, nor a list"),
    ],
)
def test_parts_that_do_not_exist(source, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        labelled_part(source, labels, 0)
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture
def folder(tmp_path):
    """Two classes of four pictures, named as ImageNet's; one name is in both."""
    for name in ("n01", "n02"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "set" / name / f"{name}_{i}.JPEG").write_bytes(TINY_PNG)
        (tmp_path / "set" / name / "extra.JPEG").write_bytes(TINY_PNG)
    return open_source(str(tmp_path / "set"), split="train")


def listed(folder, tmp_path, *names, file="list.txt"):
    (tmp_path / file).write_text("".join(f"{name}\n" for name in names))
    return labelled_part(folder, str(tmp_path / file), 0)


def test_a_source_without_file_names(tmp_path):
    with pytest.raises(ValueError, match="set/train does not store the names"):
        listed(arrays([0, 1]), tmp_path, "a.png")


def test_a_list_of_file_names(folder, tmp_path):
    part = listed(folder, tmp_path, "n02_1.JPEG", "n01_0.JPEG", "n02/extra.JPEG")
    assert [part.describe(i).rpartition("/")[2] for i in range(3)] == [
        *("n01_0.JPEG", "extra.JPEG", "n02_1.JPEG"),
    ]
    assert part.read(np.arange(3))["label"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is empty"),
        (["n01_0.JPEG", "n01_0.JPEG"], "repeats names"),
        (["n01_0.JPEG", "n09_7.JPEG"], "names 1 pictures.*lacks: n09_7.JPEG"),
        (["n01_0.JPEG", "extra.JPEG"], "has several times: extra.JPEG"),
        (["n01_0.JPEG", "n01_1.JPEG"], "no picture of 1 of the 2 classes.*n02"),
    ],
)
def test_wrong_lists(folder, tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        listed(folder, tmp_path, *names)


def test_an_official_list_must_be_complete(folder, tmp_path):
    with pytest.raises(ValueError, match=r"1percent.txt has 2 .*12811: .*not complete"):
        listed(folder, tmp_path, "n01_0.JPEG", "n02_0.JPEG", file="1percent.txt")
    (tmp_path / "list").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="nor a list of file names that can be read"):
        labelled_part(folder, str(tmp_path / "list"), 0)


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """A prepared set called imagenet2012."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(tmp_path, "imagenet2012", shards=1, split="train")
    return open_source("imagenet2012", data_dir=str(tmp_path), split="train")


def test_percentages_of_imagenet_are_the_official_sets(imagenet, tmp_path, monkeypatch):
    official = Official("1percent.txt", "imagenet2012_subset/1pct", 2000)
    monkeypatch.setattr(subsets, "OFFICIAL", {1.0: official})
    prepare(tmp_path, "imagenet2012_subset", config="1pct", split="train")
    part = labelled_part(imagenet, "1%", 0, str(tmp_path))
    assert (len(part), part.name) == (2000, "imagenet2012_subset/train")
    monkeypatch.setattr(subsets, "OFFICIAL", {1.0: official._replace(pictures=2001)})
    with pytest.raises(ValueError, match=r"2000 pictures.*2001: it is not complete"):
        labelled_part(imagenet, "1%", 0, str(tmp_path))
    assert isinstance(labelled_part(imagenet, "5%", 0, str(tmp_path)), Subset)


def test_without_the_official_set_the_error_names_the_list(
    imagenet, tmp_path, monkeypatch
):
    def fail(name, data_dir):
        raise ValueError(f"{name} cannot be prepared here.")

    monkeypatch.setattr(tfds, "prepare", fail)
    message = "12811 pictures: .*1percent.txt.*imagenet2012_subset/1pct cannot"
    with pytest.raises(ValueError, match=message):
        labelled_part(imagenet, "1%", 0, str(tmp_path))


def test_the_names_in_tfrecords(imagenet):
    (path,) = EMBEDDED.glob("*-test.tfrecord*")
    feature = {"id": tf.io.FixedLenFeature([], tf.string)}
    expected = [
        tf.io.parse_single_example(record, feature)["id"].numpy().decode()
        for record in tf.data.TFRecordDataset(str(path))
    ]
    assert file_names(imagenet) == expected
    joined = open_source("cifar10_mini", split="test[10:20]+test[:5]")
    assert file_names(joined) == [*expected[10:20], *expected[:5]]
