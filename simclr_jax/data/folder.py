"""A folder of pictures as a source: flat or by class, with or without splits."""

import concurrent.futures
import hashlib
import os
import sys
from collections.abc import Sequence

import numpy as np

from simclr_jax.data.errors import STORAGE, UnreadablePicture
from simclr_jax.storage.errors import BucketDenied, BucketUnavailable
from simclr_jax.storage.files import Storage, storage_of
from simclr_jax.storage.paths import absolute

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SPLITS = ("train", "val", "validation", "test")
SYNONYMS = {"val": "validation", "validation": "val"}
WHOLE = ("train", "all")  # names of the only split of a folder without splits
SEEN, HELD_OUT = "seen", "held_out"  # for training, and for evaluation
SHARE = 10  # one picture in ten is held out, if there is no split for evaluation
THREADS = 16


class Folder:
    """A source (see `simclr_jax.data.sources.Source`) over picture files.

    Sub-folders named train, val, validation or test are splits; without any of them the
    whole folder is the split "train", or "all". In a split, pictures lie at the top and
    have no label, or in sub-folders, at any depth, that are the classes. With only one
    sub-folder there is only one class, so its pictures have no label either. Hidden
    files and folders and files that are not pictures are ignored, links are followed.
    The order is that of the sorted names. The classes are those of all splits together,
    so that a class has the same number in all splits, even if one has none of it.

    "seen" and "held_out" exist for every folder with pictures to train on: they are
    "train" and the first of "val", "validation" and "test" that exists; without any of
    these, `held_out` divides the pictures of "train" between them.

    Attributes:
      files: the paths of all pictures.
      label: int32 [N], the classes of all pictures; 0 without classes.

    Args:
      root: the folder, on a disk or in a bucket.
      split: "train", "validation" or "val", "test"; "train" or "all" without splits;
        "seen" or "held_out".

    Raises:
      ValueError: the folder or the split is missing or empty, or a split has pictures
        both at the top and in class folders.
    """

    block = 1

    def __init__(self, root: str, split: str):
        root = absolute(root)
        self._storage = storage_of(root)
        if not self._storage.is_dir(root):
            raise ValueError(
                f"There is no folder {root}; data.name (or data.data_dir, with "
                "data.name='folder') must name a folder of pictures."
            )
        self.name = f"{os.path.basename(root)}/{split}"
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        splits = _splits(self._storage, root)
        layouts = {path: _layout(self._storage, path) for path in splits.values()}
        path, divided = _choose(root, splits, split)
        pictures, folders = layouts[path]
        if pictures:
            self.class_names = ()
            self.files = [f"{path}/{name}" for name in pictures]
            self.label = np.zeros(len(pictures), np.int32)
            self._check_flat(path, folders)
        else:
            inner = {n for p, names in layouts.values() if not p for n in names}
            self.class_names = tuple(sorted(inner))
            by_class = self._walk_all([f"{path}/{name}" for name in folders])
            self.files = [file for files in by_class for file in files]
            numbers = [self.class_names.index(name) for name in folders]
            self.label = np.repeat(np.array(numbers, np.int32), [*map(len, by_class)])
        if len(self.class_names) == 1:
            self.class_names = ()
        self.classes = len(self.class_names)
        if not self.files:
            raise ValueError(
                f"{path} has no pictures ({', '.join(SUFFIXES)}), neither at the top "
                "nor in sub-folders."
            )
        if divided:
            self._keep(path, split)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded pictures, {"image": object [n] of bytes, "label": int32 [n]}.

        Args:
          indices: int64 [n], in any order.

        Raises:
          UnreadablePicture: a file cannot be read.
        """
        files = [self.files[i] for i in indices]
        image = read_files(self._storage, files, self._pool)
        if not self.classes:
            return {"image": image}
        return {"image": image, "label": self.label[indices]}

    def describe(self, index: int) -> str:
        return self.files[index]

    def file_names(self) -> list[str]:
        """The paths of all pictures, in order."""
        return self.files

    def _walk_all(self, paths):
        return list(self._pool.map(lambda path: walk(self._storage, path), paths))

    def _keep(self, path, split):
        """Keeps the pictures of "seen" or "held_out", two parts of all pictures."""
        names = [file.removeprefix(f"{path}/") for file in self.files]
        rows = np.flatnonzero(held_out(names, self.label) == (split == HELD_OUT))
        if not len(rows):
            raise ValueError(
                f"{path} has too few pictures to hold some out: {len(self.files)}."
            )
        self.files = [self.files[i] for i in rows]
        self.label = self.label[rows]

    def _check_flat(self, path, folders):
        inside = [p for p in folders if walk(self._storage, f"{path}/{p}")]
        if inside:
            raise ValueError(
                f"{path} has pictures at the top (such as "
                f"{os.path.basename(self.files[0])}) and in sub-folders (such as "
                f"{inside[0]}). Sub-folders are classes: move the pictures at the top "
                "into one, or all to the top for a set without labels."
            )


def held_out(names: Sequence[str], label: np.ndarray) -> np.ndarray:
    """Which pictures of a split are held out: a tenth of each class, by their names.

    Of each class those with the lowest SHA-256 of the name: neither the order of the
    names nor the machine matters. At least one, unless the class has only one picture.

    Args:
      names: N paths below the split's folder.
      label: [N] integers.

    Returns:
      bool [N].
    """
    digests = [hashlib.sha256(os.fsencode(name)).digest() for name in names]
    order = np.array(sorted(range(len(names)), key=digests.__getitem__))
    out = np.zeros(len(names), bool)
    for number in np.unique(label):
        rows = order[label[order] == number]
        out[rows[: max(round(len(rows) / SHARE), int(len(rows) > 1))]] = True
    return out


def read_files(
    storage: Storage, files: Sequence[str], pool: concurrent.futures.Executor
) -> np.ndarray:
    """The bytes of n picture files by the threads of a pool: object [n].

    Raises:
      UnreadablePicture: a file cannot be read.
    """
    size = max(1, -(-len(files) // THREADS))
    parts = [files[i : i + size] for i in range(0, len(files), size)]
    read = pool.map(lambda part: [read_file(storage, file) for file in part], parts)
    image = np.empty(len(files), object)
    image[:] = [data for part in read for data in part]
    return image


def read_file(storage: Storage, path: str) -> bytes:
    """The bytes of a picture file.

    Raises:
      UnreadablePicture: this file cannot be read.
      BucketDenied, BucketUnavailable: nor can any other.
    """
    try:
        return storage.read_all(path)
    except (BucketDenied, BucketUnavailable):
        raise  # concerns all pictures, not this one
    except STORAGE as error:
        raise UnreadablePicture(f"{path} cannot be read: {error}") from error


def _splits(storage, root):
    names, files = _visible(storage, root)
    folders = [name for name in names if name in SPLITS]
    if not folders:
        return dict.fromkeys(WHOLE, root)
    ignored = [name for name in names if name not in SPLITS]
    ignored += filter(_is_picture, files)
    if ignored:
        shown = ", ".join(ignored[:3]) + (", ..." if len(ignored) > 3 else "")
        print(f"{root}: ignoring {shown} beside the splits", file=sys.stderr)
    return {name: f"{root}/{name}" for name in folders}


def _choose(root, splits, split):
    """The folder of a split, and whether the split is only a part of its pictures."""
    others = [name for name in SPLITS if name in splits and name != "train"]
    divided = split in (SEEN, HELD_OUT) and not others
    name = split
    if split == SEEN or divided:
        name = "train"
    elif split == HELD_OUT:
        name = others[0]
    for existing in (name, SYNONYMS.get(name)):
        if existing in splits:
            return splits[existing], divided
    raise ValueError(
        f"{root} has no split '{name}'; it has {', '.join(splits)}. Splits are the "
        f"sub-folders named {', '.join(SPLITS)}; without any of them the whole folder "
        f"is '{WHOLE[0]}', of which '{HELD_OUT}' is a tenth and '{SEEN}' the rest."
    )


def _layout(storage, path):
    """The names of a split's pictures at the top and of its sub-folders."""
    folders, files = _visible(storage, path)
    return [name for name in files if _is_picture(name)], folders


def walk(storage: Storage, path: str, above: tuple[str, ...] = ()) -> list[str]:
    """All pictures under a folder, by name; its own before those of its sub-folders.

    Args:
      above: the folders that contain it, without links.
    """
    real = path if storage.remote else os.path.realpath(path)
    if real in above:
        return []  # a link to a folder that contains it
    folders, files = _visible(storage, path)
    pictures = [f"{path}/{name}" for name in files if _is_picture(name)]
    for name in folders:
        pictures += walk(storage, f"{path}/{name}", (*above, real))
    return pictures


def _visible(storage, path):
    return [[n for n in names if n[0] != "."] for names in storage.entries(path)]


def _is_picture(name):
    return name.lower().endswith(SUFFIXES)
