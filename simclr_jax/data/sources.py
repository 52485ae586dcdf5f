"""Random access to pictures: one interface, opened by name.

A source answers `read(indices)` in any order and holds no position, so the order of a
run (`simclr_jax.data.sampler`) is nobody's state.
"""

import functools
import json
import os
import pathlib
import re
from typing import Protocol

import numpy as np

from simclr_jax.data import tfds
from simclr_jax.data.folder import Folder
from simclr_jax.data.records import Records
from simclr_jax.storage.paths import absolute, has_scheme
from simclr_jax.suggest import did_you_mean

EMBEDDED = "cifar10_mini"
TERM = re.compile(r"([\w\-.]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


class Source(Protocol):
    """Pictures by number.

    Attributes:
      name: the set and its split, "imagenet2012/train".
      classes: number of classes; 0 where there are no labels.
      class_names: one for each class, or nothing.
      block: how many consecutive records are best read together; 1 where any order is
        as good as another.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    block: int

    def __len__(self) -> int: ...

    def read(self, indices) -> dict[str, np.ndarray]:
        """{"image": object [n], encoded pictures as bytes; "label": int32 [n], only
        where classes > 0} of the indices, int64 [n]; safe from many threads."""
        ...

    def describe(self, index: int) -> str:
        """The file, or the record and its file, for a message about a picture."""
        ...


def open_source(
    name: str, *, data_dir: str = "", split: str, workdir: str = ""
) -> Source:
    """Opens the pictures that `config.data` names.

    Args:
      name: "cifar10_mini", the embedded pictures; a folder of pictures by its path, or
        "folder" for the one that data_dir names; or a TFDS set, "imagenet2012".
      data_dir: where TFDS keeps its prepared sets; "" for its default folder.
      split: the split's name; "train+test" joins, "train[:1000]" and "train[10%:]" cut.
      workdir: where an index may be kept that cannot be kept beside the data.

    Raises:
      ValueError: unknown or missing set, folder or split, or files that are damaged;
        says what there is.
    """
    data_dir = absolute(data_dir)
    open_one = functools.cache(_opener(name, data_dir, workdir))
    parts = [_part(open_one, term.strip(), split) for term in split.split("+")]
    source, start, stop = parts[0]
    if len(parts) == 1 and (start, stop) == (0, len(source)):
        return source
    return Joined(parts, f"{source.name.rpartition('/')[0]}/{split}")


class Joined:
    """Sources, or runs of their pictures, one after the other.

    Labels remain where all parts have them.

    Args:
      parts: (source, start, stop) each.
      name: of the whole.
    """

    def __init__(self, parts, name: str):
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

    def read(self, indices) -> dict[str, np.ndarray]:
        indices = np.asarray(indices)
        which = np.searchsorted(self._ends, indices, side="right")
        out = {"image": np.empty(len(indices), object)}
        if self.classes:
            out["label"] = np.empty(len(indices), np.int32)
        for j in np.unique(which):
            rows = which == j
            got = self._parts[j][0].read(self._inner(j, indices[rows]))
            for key in out:
                out[key][rows] = got[key]
        return out

    def describe(self, index: int) -> str:
        j = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[j][0].describe(int(self._inner(j, index)))

    def _inner(self, j, indices):
        _, start, stop = self._parts[j]
        return indices - (self._ends[j] - (stop - start)) + start


def _opener(name, data_dir, workdir):
    """The function from a split's name to its source."""
    if name == EMBEDDED:
        return _embedded
    if name == "folder":
        if not data_dir:
            raise ValueError("data.name='folder' needs data.data_dir, the folder.")
        return functools.partial(Folder, data_dir)
    if has_scheme(name) or name.startswith(("/", "~", ".")):
        return functools.partial(Folder, name)
    builder = tfds.find(name, data_dir)
    if builder is None and os.path.isdir(name):
        return functools.partial(Folder, name)
    builder = builder or tfds.prepare(name, data_dir)
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
        files, name=f"{EMBEDDED}/{split}", classes=len(names), class_names=names
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
