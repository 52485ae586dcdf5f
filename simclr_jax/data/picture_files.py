"""Picture files as a source: a list of them, or all of a folder."""

import concurrent.futures
import os
from collections.abc import Sequence

import numpy as np

from simclr_jax.data.folder import SPLITS, SUFFIXES, THREADS, read_files, walk
from simclr_jax.data.sources import Source, is_folder, open_source
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.paths import absolute


class Files:
    """A source (see `simclr_jax.data.sources.Source`) over picture files.

    Args:
      name: of the source.
      files: absolute paths, all on disks or all in buckets.
      class_folders: the class of each, or () without labels.
    """

    block = 1

    def __init__(
        self, name: str, files: Sequence[str], class_folders: Sequence[str] = ()
    ):
        self.name, self.files = name, list(files)
        self.class_names = tuple(sorted(set(class_folders)))
        self.classes = len(self.class_names)
        number = {name: i for i, name in enumerate(self.class_names)}
        self._label = np.array([number[x] for x in class_folders], np.int32)
        self._storage = storage_of(self.files[0])
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """As `Folder.read`."""
        files = [self.files[i] for i in indices]
        image = read_files(self._storage, files, self._pool)
        if not self.classes:
            return {"image": image}
        return {"image": image, "label": self._label[indices]}

    def describe(self, index: int) -> str:
        return self.files[index]


def all_pictures(root: str) -> Files:
    """All pictures of a folder, at any depth, in the order of their names.

    They have labels if each lies in a sub-folder: the first one of its path, or the
    second where all the first ones are splits. Other than in `folder.Folder`, pictures
    may lie both at the top and in sub-folders.

    Args:
      root: the folder, on a disk or in a bucket.

    Raises:
      ValueError: there is no such folder, or it has no pictures.
    """
    root = absolute(root)
    storage = storage_of(root)
    if not storage.is_dir(root):
        raise ValueError(f"There is no folder {root}.")
    files = walk(storage, root)
    if not files:
        raise ValueError(f"{root} has no pictures ({', '.join(SUFFIXES)}).")
    folders = class_folders([file.removeprefix(f"{root}/") for file in files])
    return Files(os.path.basename(root), files, folders)


def class_folders(names: Sequence[str]) -> list[str]:
    """The class folder of every picture, or [] if they have none or all the same.

    Args:
      names: paths below the common folder.
    """
    folders = [name.split("/")[:-1] for name in names]
    if all(path and path[0] in SPLITS for path in folders):
        folders = [path[1:] for path in folders]
    if not all(folders) or len({path[0] for path in folders}) == 1:
        return []
    return [path[0] for path in folders]


def open_pictures(name: str, *, data_dir: str = "", split: str = "") -> Source:
    """The pictures that a user names.

    Args:
      name: a folder, or a set as in `open_source`.
      data_dir: where TFDS keeps its prepared sets; "" for its default folder.
      split: of a set, or of a folder; "": all of a folder, or a set's "train".

    Raises:
      ValueError: as in `all_pictures` and `open_source`.
    """
    if not split and is_folder(name, data_dir):
        return all_pictures(name)
    return open_source(name, data_dir=data_dir, split=split or "train")
