"""Opening by name: the embedded pictures, folders, joined and sliced splits."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data.sources import open_source


def test_the_embedded_pictures():
    train = open_source("cifar10_mini", split="train")
    test = open_source("cifar10_mini", split="test")
    assert (len(train), len(test)) == (5000, 1000)
    assert train.class_names[:2] == ("airplane", "automobile")
    assert (train.classes, train.block, train.name) == (10, 1, "cifar10_mini/train")
    seen = set()
    for source, count in ((train, 500), (test, 100)):
        batch = source.read(np.arange(len(source)))
        np.testing.assert_array_equal(np.bincount(batch["label"]), [count] * 10)
        seen |= {hashlib.sha256(data).digest() for data in batch["image"]}
    assert len(seen) == 6000
    picture = tf.io.decode_jpeg(batch["image"][0])
    assert (picture.shape, picture.dtype) == ((32, 32, 3), tf.uint8)


def test_reading_in_any_order():
    source = open_source("cifar10_mini", split="test")
    all_of_it = source.read(np.arange(1000))
    some = np.array([999, 0, 5, 5])
    for key, values in source.read(some).items():
        np.testing.assert_array_equal(values, all_of_it[key][some])


def test_joined_and_sliced_splits():
    whole = {s: open_source("cifar10_mini", split=s) for s in ("train", "test")}
    source = open_source("cifar10_mini", split="train[-3:] + test[:10%]+train[:2]")
    assert len(source) == 3 + 100 + 2
    assert source.name == "cifar10_mini/train[-3:] + test[:10%]+train[:2]"
    truth = [*whole["train"].read(np.array([4997, 4998, 4999]))["image"]]
    truth += [*whole["test"].read(np.arange(100))["image"]]
    truth += [*whole["train"].read(np.arange(2))["image"]]
    order = np.random.default_rng(0).permutation(105)
    batch = source.read(order)
    assert batch["image"].tolist() == [truth[i] for i in order]
    assert batch["label"].shape == (105,)
    assert source.describe(3) == whole["test"].describe(0)
    assert source.describe(104) == whole["train"].describe(1)


def test_joined_sources_have_labels_if_all_parts_have(tmp_path):
    for name in ("train/a.png", "val/cat/b.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    source = open_source(str(tmp_path), split="train+val")
    assert source.classes == 0
    batch = source.read(np.array([1, 0]))
    assert batch.keys() == {"image"}
    assert batch["image"].tolist() == [b"val/cat/b.png", b"train/a.png"]


def test_a_folder_by_its_path_or_as_data_dir(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"a")
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "pictures")
    for name, data_dir in [
        (path, ""),
        ("./pictures", ""),
        ("pictures", ""),
        ("folder", path),
    ]:
        source = open_source(name, data_dir=data_dir, split="train")
        assert len(source) == 1
        assert source.describe(0) == f"{path}/a.png"


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"a")
    monkeypatch.setenv("HOME", str(tmp_path))
    source = open_source("folder", data_dir="~/pictures", split="train")
    assert source.describe(0) == f"{tmp_path}/pictures/a.png"


def test_an_unknown_scheme():
    with pytest.raises(ValueError, match="no-such://place"):
        open_source("cifar10", data_dir="no-such://place", split="train")


@pytest.mark.parametrize("split", ["", "train[", "train+", "train[a:b]", "train[::2]"])
def test_a_split_that_cannot_be_read(split):
    with pytest.raises(ValueError, match="cannot be read at"):
        open_source("cifar10_mini", split=split)


def test_errors_list_the_alternatives():
    with pytest.raises(ValueError, match=r"has train, test. Did you mean 'test'"):
        open_source("cifar10_mini", split="tets")
    with pytest.raises(ValueError, match=r"'train\[5000:\]' is empty: train has 5000"):
        open_source("cifar10_mini", split="train[5000:]")
    with pytest.raises(ValueError, match=r"set data.name to its path"):
        open_source("folder", split="train")
    with pytest.raises(ValueError, match="no folder /nowhere/at/all"):
        open_source("/nowhere/at/all", split="train")
    with pytest.raises(ValueError, match="Did you mean 'cifar10_mini'"):
        open_source("cifar10_minni", split="train")
