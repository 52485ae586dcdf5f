"""A folder of pictures: layouts, order, labels and clear errors."""

import numpy as np
import pytest

from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.folder import Folder, held_out
from simclr_jax.storage import bucket
from simclr_jax.storage.errors import BucketDenied, BucketUnavailable
from tests.buckets.emulator import Fault


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return str(root)


def names(source):
    return [data.decode() for data in source.read(np.arange(len(source)))["image"]]


def test_flat_and_unlabelled(tmp_path):
    root = put(tmp_path, "b.JPG", "a.png", "c.webp", "d.gif", "e.bmp", "f.jpeg")
    put(tmp_path, "notes.txt", ".hidden.png", ".cache/x.png", "Thumbs.db")
    (tmp_path / "empty").mkdir()
    for split in ("train", "all"):
        source = Folder(root, split)
        expected = ["a.png", "b.JPG", "c.webp", "d.gif", "e.bmp", "f.jpeg"]
        assert names(source) == expected
        assert (source.classes, source.class_names, source.block) == (0, (), 1)
        assert source.read(np.arange(2)).keys() == {"image"}
        assert source.describe(1) == f"{root}/b.JPG"


def test_each_sub_folder_is_a_class_with_files_at_any_depth(tmp_path):
    root = put(tmp_path, "dog/2.png", "dog/old/1.png", "cat/3.png", "dog/0.png")
    source = Folder(root + "/", "train")
    assert names(source) == ["cat/3.png", "dog/0.png", "dog/2.png", "dog/old/1.png"]
    assert source.class_names == ("cat", "dog")
    batch = source.read(np.array([3, 0, 1]))
    assert batch["label"].tolist() == [1, 0, 1]
    assert batch["label"].dtype == np.int32
    assert batch["image"].tolist() == [b"dog/old/1.png", b"cat/3.png", b"dog/0.png"]


@pytest.mark.parametrize("folder", ["val", "validation"])
def test_splits_with_classes_one_level_below(tmp_path, folder):
    put(tmp_path, "train/dog/1.png", "train/ant/2.png", f"{folder}/dog/3.png")
    root = put(tmp_path, "test/4.png", "other/5.png")
    train, test = Folder(root, "train"), Folder(root, "test")
    assert names(train) == ["train/ant/2.png", "train/dog/1.png"]
    assert (names(test), test.classes) == (["test/4.png"], 0)
    for split in ("val", "validation"):
        source = Folder(root, split)
        assert names(source) == [f"{folder}/dog/3.png"]
        assert source.class_names == ("ant", "dog")
        # the number of "dog" in train, though val has no ant
        assert source.read(np.array([0]))["label"].tolist() == [1]


def test_a_single_sub_folder_gives_no_labels(tmp_path):
    source = Folder(put(tmp_path, "images/1.png", "images/more/2.png"), "train")
    assert names(source) == ["images/1.png", "images/more/2.png"]
    assert (source.classes, source.class_names) == (0, ())
    assert source.read(np.arange(2)).keys() == {"image"}


def test_ignored_files_beside_the_splits_are_printed(tmp_path, capsys):
    root = put(tmp_path, "train/cat/1.png", "train/dog/1.png", "cow/1.png", "2.png")
    assert len(Folder(root, "train")) == 2
    assert "ignoring cow, 2.png beside the splits" in capsys.readouterr().err


def test_links_are_followed_and_cycles_end(tmp_path):
    put(tmp_path / "far", "1.png", "2.png")
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "x").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "cat" / "back").symlink_to(tmp_path / "set" / "cat")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "far")
    source = Folder(str(tmp_path / "set"), "train")
    assert names(source) == ["1.png", "2.png"] * 2
    assert source.read(np.arange(4))["label"].tolist() == [0, 0, 1, 1]


def test_in_a_bucket(cloud):
    for name in ("train/cat/a.png", "train/dog/b.JPG", "train/dog/in/c.png"):
        cloud.put("bucket", f"folder/{name}", name.encode())
    source = Folder("gs://bucket/folder/", "train")
    assert names(source) == ["train/cat/a.png", "train/dog/b.JPG", "train/dog/in/c.png"]
    assert source.class_names == ("cat", "dog")
    assert source.describe(0) == "gs://bucket/folder/train/cat/a.png"
    with pytest.raises(ValueError, match="no folder gs://bucket/nowhere"):
        Folder("gs://bucket/nowhere", "train")


def test_an_unreadable_bucket_is_not_reported_as_a_missing_folder(cloud):
    cloud.put("bucket", "pictures/1.png", b"1")
    cloud.permissions.remove("storage.objects.list")
    with pytest.raises(BucketDenied, match="gs://bucket/pictures could not be listed"):
        Folder("gs://bucket/pictures", "train")


def test_a_missing_picture_and_an_unavailable_bucket_are_different_errors(
    cloud, monkeypatch
):
    cloud.put("bucket", "pictures/1.png", b"1")
    source = Folder("gs://bucket/pictures", "train")
    bucket.remove("gs://bucket/pictures/1.png")
    with pytest.raises(UnreadablePicture, match=r"pictures/1.png cannot be read"):
        source.read(np.array([0]))
    cloud.faults = [Fault(status=503)]
    monkeypatch.setenv("SIMCLR_JAX_STORAGE_PATIENCE", "0.2")
    with pytest.raises(BucketUnavailable):
        source.read(np.array([0]))


def test_a_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=rf"no folder {tmp_path}/nowhere"):
        Folder(str(tmp_path / "nowhere"), "train")


@pytest.mark.parametrize("made", [(), ("notes.txt",), ("cat/notes.txt",)])
def test_a_folder_without_pictures(tmp_path, made):
    with pytest.raises(ValueError, match=r"has no pictures \(.jpg"):
        Folder(put(tmp_path, *made), "train")


def test_the_error_of_a_missing_split_lists_all_splits(tmp_path):
    root = put(tmp_path, "train/1.png", "test/1.png")
    with pytest.raises(ValueError, match="no split 'val'; it has test, train"):
        Folder(root, "val")
    with pytest.raises(ValueError, match="no split 'test'; it has train, all"):
        Folder(put(tmp_path / "flat", "1.png"), "test")


def test_pictures_beside_class_folders_are_an_error(tmp_path):
    root = put(tmp_path, "1.png", "cat/2.png")
    with pytest.raises(ValueError, match=r"at the top .*1\.png.*sub-folders .*cat"):
        Folder(root, "train")


def test_a_deleted_picture_is_named(tmp_path):
    source = Folder(put(tmp_path, "1.png", "2.png"), "train")
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path}/2.png cannot be read"):
        source.read(np.arange(2))


@pytest.mark.parametrize("count", [60, 60_000])
def test_a_tenth_of_each_class_is_held_out(count):
    paths = [f"{'abc'[i % 3]}/{i:05}.png" for i in range(count)]
    label = np.arange(count) % 3
    out = held_out(paths, label)
    assert np.bincount(label[out]).tolist() == [count // 30] * 3
    # Not the first or the last of the names, nor every tenth.
    assert abs(np.flatnonzero(out).mean() / count - 0.5) < 0.15
    order = np.random.default_rng(0).permutation(count)
    shuffled = held_out([paths[i] for i in order], label[order])
    np.testing.assert_array_equal(shuffled, out[order])


@pytest.mark.parametrize("path", ["{}.png", "cat/{}.png", "train/{}.png"])
def test_seen_and_held_out_divide_a_folder_without_a_split_for_evaluation(
    tmp_path, path
):
    root = put(tmp_path, *(path.format(i) for i in range(20)))
    if "cat" in path:
        put(tmp_path, *(f"dog/{i}.png" for i in range(7)))
    seen, out, both = (Folder(root, s) for s in ("seen", "held_out", "train"))
    assert len(out) == (3 if "cat" in path else 2)
    assert sorted(names(seen) + names(out)) == sorted(names(both))
    assert seen.classes == out.classes == both.classes
    if out.classes:
        assert out.read(np.arange(3))["label"].tolist() == [0, 0, 1]


def test_an_existing_split_is_held_out(tmp_path):
    root = put(tmp_path, "train/1.png", "test/2.png", "val/3.png")
    assert names(Folder(root, "seen")) == ["train/1.png"]
    assert names(Folder(root, "held_out")) == ["val/3.png"]
    root = put(tmp_path / "other", "test/2.png")
    assert names(Folder(root, "held_out")) == ["test/2.png"]
    with pytest.raises(ValueError, match="no split 'train'; it has test"):
        Folder(root, "seen")


def test_too_few_pictures_to_hold_some_out(tmp_path):
    root = put(tmp_path, "1.png")
    assert len(Folder(root, "seen")) == 1
    with pytest.raises(ValueError, match="too few pictures to hold some out: 1"):
        Folder(root, "held_out")
