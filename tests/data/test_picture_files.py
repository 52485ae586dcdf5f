"""All pictures of a folder, whatever its form."""

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data.picture_files import all_pictures, class_folders, open_pictures
from simclr_jax.data.tfdata import read_pictures


def save(folder, *names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (i, 0, 0)).save(path)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("a.png", "b.png"), []),
        (("x/a.png", "y/deep/b.png"), ["x", "y"]),
        (("a.png", "x/b.png"), []),
        (("x/a.png", "x/b.png"), []),  # one class is none
        (("train/x/a.png", "val/y/b.png"), ["x", "y"]),
        (("train/a.png", "val/b.png"), []),
        (("bus/a.png", "train/b.png"), ["bus", "train"]),  # a class called train
    ],
)
def test_labels_are_the_sub_folders(tmp_path, names, classes):
    assert class_folders(names) == classes
    save(tmp_path, *names, ".hidden/c.png")
    (tmp_path / "notes.txt").write_text("")
    source = all_pictures(str(tmp_path))
    assert [source.describe(i) for i in range(2)] == [f"{tmp_path}/{x}" for x in names]
    assert (source.class_names, source.classes) == (tuple(classes), len(classes))
    assert [p[0, 0, 0] for p in read_pictures(source, [1, 0])] == [1, 0]
    rows = source.read(np.array([1, 0]))
    assert ("label" in rows) == bool(classes)
    if classes:
        assert rows["label"].tolist() == [1, 0]


def test_a_folder_or_a_set(tmp_path, monkeypatch):
    save(tmp_path, "train/a.png", "val/b.png")
    monkeypatch.chdir(tmp_path.parent)
    assert len(open_pictures(f"./{tmp_path.name}")) == 2
    assert len(open_pictures(tmp_path.name)) == 2
    assert len(open_pictures(str(tmp_path), split="val")) == 1
    assert len(open_pictures("cifar10_mini")) == 5000
    assert len(open_pictures("cifar10_mini", split="test[:7]")) == 7


def test_there_must_be_pictures(tmp_path):
    with pytest.raises(ValueError, match="There is no folder"):
        open_pictures(str(tmp_path / "typo"))
    with pytest.raises(ValueError, match=r"has no pictures \(\.jpg"):
        open_pictures(str(tmp_path))
