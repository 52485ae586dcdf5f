"""All pictures of a folder, or of a split of a set, for looking at them."""

import concurrent.futures
import os
from collections.abc import Sequence

import numpy as np

from simclr_jax.data.folder import SPLITS, SUFFIXES, THREADS, read_files, walk
from simclr_jax.data.sources import Source, is_folder, open_source
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.paths import absolute


class AllPictures:
    """A source (see `simclr_jax.data.sources.Source`) over a folder, whatever its form.

    Other than in `simclr_jax.data.folder.Folder` all pictures count, at any depth, in
    the order of their names. They have labels if each lies in a sub-folder: the first
    one of its path, or the second where all the first ones are splits.

    Args:
      root: the folder, on a disk or in a bucket.

    Raises:
      ValueError: there is no such folder, or it has no pictures.
    """

    block = 1

    def __init__(self, root: str):
        root = absolute(root)
        self._storage = storage_of(root)
        if not self._storage.is_dir(root):
            raise ValueError(f"There is no folder {root}.")
        self.files = walk(self._storage, root)
        if not self.files:
            raise ValueError(f"{root} has no pictures ({', '.join(SUFFIXES)}).")
        self.name = os.path.basename(root)
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        folders = class_folders([file.removeprefix(f"{root}/") for file in self.files])
        self.class_names = tuple(sorted(set(folders)))
        self.classes = len(self.class_names)
        self._label = np.searchsorted(self.class_names, folders).astype(np.int32)

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
      ValueError: as in `AllPictures` and `open_source`.
    """
    if not split and is_folder(name, data_dir):
        return AllPictures(name)
    return open_source(name, data_dir=data_dir, split=split or "train")
