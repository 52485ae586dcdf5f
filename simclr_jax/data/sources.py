"""Random access to pictures: one interface for all sources, opened by name.

A source reads any indices in any order and has no position; the order of a run is
computed by `simclr_jax.data.sampler`.
"""

import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import numpy as np

from simclr_jax.data import tfds
from simclr_jax.data.folder import Folder
from simclr_jax.data.records import Records
from simclr_jax.storage.paths import absolute, has_scheme
from simclr_jax.suggest import did_you_mean

EMBEDDED = "cifar10_mini"
TERM = re.compile(r"([\w\-.]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


class Source(Protocol):
    """Pictures, read by their index.

    Attributes:
      name: the set and its split, "imagenet2012/train".
      classes: number of classes; 0 without labels.
      class_names: one for each class, or empty.
      block: the number of consecutive records that are best read together; 1 if the
        order makes no difference.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    block: int

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the pictures of the indices, int64 [n]; thread-safe.

        Returns:
          {"image": object [n] of bytes, encoded, or uint8 [n, H, W, 3], decoded;
          "label": int32 [n], only if classes > 0}.
        """
        ...

    def describe(self, index: int) -> str:
        """The file, or record and file, of a picture, for messages."""
        ...


class Named(Source, Protocol):
    """A source that stores the names of its pictures' files."""

    def file_names(self) -> list[str]:
        """The names of all files in order, some perhaps with their folders."""
        ...


def file_names(source: Source) -> list[str]:
    """The names of the pictures' files, in order.

    Raises:
      ValueError: the source does not store them.
    """
    if not hasattr(source, "file_names"):
        raise ValueError(f"{source.name} does not store the names of its files.")
    return cast(Named, source).file_names()


def open_source(
    name: str, *, data_dir: str = "", split: str, workdir: str = ""
) -> Source:
    """Opens the pictures that `config.data` names.

    Args:
      name: "cifar10_mini", the embedded pictures; a folder of pictures by its path, or
        "folder" for the one that data_dir names; or a TFDS set, "imagenet2012".
      data_dir: where TFDS keeps its prepared sets; "" for its default folder.
      split: the split's name; "train+test" joins splits, "train[:1000]" and
        "train[10%:]" are parts of one.
      workdir: folder for an index that cannot be written beside the data.

    Raises:
      ValueError: unknown or missing set, folder or split, with a list of those that
        exist; or damaged files.
    """
    return join_splits(_opener(name, absolute(data_dir), workdir), split)


def is_folder(name: str, data_dir: str = "") -> bool:
    """Whether a name is that of a folder, and not of a set.

    Args:
      name, data_dir: as in `open_source`.
    """
    if has_scheme(name) or name.startswith(("/", "~", ".")):
        return True
    if name in (EMBEDDED, "folder") or not os.path.isdir(name):
        return False
    return tfds.find_prepared(name, absolute(data_dir)) is None


def join_splits(open_one: Callable[[str], Source], split: str) -> Source:
    """The source of a split such as "train", "train+test" or "train[:10%]".

    Args:
      open_one: from the name of a split, "train", to its source.
      split: names and ranges of them, joined by "+".

    Raises:
      ValueError: the split cannot be read, or is empty; and as in open_one.
    """
    opened = functools.cache(open_one)
    parts = [_part(opened, term.strip(), split) for term in split.split("+")]
    source, start, stop = parts[0]
    if len(parts) == 1 and (start, stop) == (0, len(source)):
        return source
    return Joined(parts, f"{source.name.rpartition('/')[0]}/{split}")


class Joined:
    """Sources, or ranges of their pictures, one after the other.

    There are labels if all parts have them.

    Args:
      parts: (source, start, stop) of each.
      name: of the joined source.
    """

    def __init__(self, parts: Sequence[tuple[Source, int, int]], name: str):
        self.name = name
        self._parts = parts
        sources = [source for source, _, _ in parts]
        labelled = all(source.classes for source in sources)
        self.classes = sources[0].classes if labelled else 0
        self.class_names = sources[0].class_names if labelled else ()
        self.block = max(source.block for source in sources)
        self._ends = np.cumsum([stop - start for _, start, stop in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        indices = np.asarray(indices)
        part = np.searchsorted(self._ends, indices, side="right")
        rows = [np.flatnonzero(part == j) for j in np.unique(part)]
        batches = [
            self._parts[part[r[0]]][0].read(self._inner(part[r[0]], indices[r]))
            for r in rows
        ]
        order = np.argsort(np.concatenate(rows))
        keys = ("image", "label") if self.classes else ("image",)
        return {k: np.concatenate([b[k] for b in batches])[order] for k in keys}

    def describe(self, index: int) -> str:
        j = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[j][0].describe(int(self._inner(j, index)))

    def file_names(self) -> list[str]:
        """Those of the parts, in order; see `Named`."""
        return [
            name
            for source, start, stop in self._parts
            for name in file_names(source)[start:stop]
        ]

    def _inner(self, j, indices):
        _, start, stop = self._parts[j]
        return indices - (self._ends[j] - (stop - start)) + start


def _opener(name, data_dir, workdir):
    """The function from a split's name to its source."""
    if name == EMBEDDED:
        return _embedded
    if name == "folder":
        if not data_dir:
            raise ValueError(
                "No folder of pictures is named: set data.name to its path (or "
                "data.data_dir, with data.name='folder')."
            )
        return functools.partial(Folder, data_dir)
    if is_folder(name, data_dir):
        return functools.partial(Folder, name)
    builder = tfds.find_prepared(name, data_dir) or tfds.prepare(name, data_dir)
    return lambda split: tfds.open_split(builder, split, workdir)


def _embedded(split):
    folder = pathlib.Path(__file__).parent / "embedded"
    info = json.loads((folder / "info.json").read_text())
    if split not in info["splits"]:
        raise ValueError(
            f"{EMBEDDED} has no split '{split}'; it has {', '.join(info['splits'])}."
            f"{did_you_mean(split, info['splits'])}"
        )
    names = tuple(info["label_names"])
    files = sorted(str(path) for path in folder.glob(f"{EMBEDDED}-{split}.tfrecord*"))
    return Records(
        files,
        name=f"{EMBEDDED}/{split}",
        file_name="id",
        classes=len(names),
        class_names=names,
    )


def _part(open_one, term, split):
    """A term of a split, "train" or "train[:10%]", as (source, start, stop)."""
    match = TERM.fullmatch(term)
    if not match:
        raise ValueError(
            f"The split '{split}' cannot be read at '{term}'; write names such as "
            "train, train+test, train[:1000] or train[10%:]."
        )
    source = open_one(match[1])
    n = len(source)
    cut = slice(*(_position(text, n) for text in match.group(2, 3)))
    start, stop, _ = cut.indices(n)
    if start >= stop:
        raise ValueError(f"The split '{term}' is empty: {match[1]} has {n} pictures.")
    return source, start, stop


def _position(text, n):
    if text is None or not text.endswith("%"):
        return text and int(text)
    return round(int(text[:-1]) * n / 100)
