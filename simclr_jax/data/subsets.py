"""The labelled part of a training set: an official list, or a balanced draw."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.data.errors import STORAGE
from simclr_jax.data.folder import Folder
from simclr_jax.data.sampler import permute
from simclr_jax.data.sources import Source, file_names, open_source
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.paths import absolute

CHUNK = 1024  # pictures that are read at a time for their labels
PERCENT = re.compile(r"(\d+(?:\.\d*)?) ?%")
IMAGENET = "imagenet2012/train"  # the source of which there are official parts


class Official(NamedTuple):
    """SimCLR's published part of ImageNet's labels."""

    file: str  # a list of file names, one a line
    tfds: str  # the same as a TFDS set
    pictures: int


OFFICIAL = {  # percentage: the list
    1.0: Official("1percent.txt", "imagenet2012_subset/1pct", 12_811),
    10.0: Official("10percent.txt", "imagenet2012_subset/10pct", 128_116),
}


class Subset:
    """Some pictures of a source (see `simclr_jax.data.sources.Source`).

    Args:
      source: of the pictures.
      rows: int64 [n], their positions, in the order of the subset.
      name: of the subset.
    """

    block = 1

    def __init__(self, source: Source, rows: np.ndarray, name: str):
        self.name, self._source, self._rows = name, source, rows
        self.classes, self.class_names = source.classes, source.class_names

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """As the source's."""
        return self._source.read(self._rows[indices])

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._rows[index]))


def labelled_part(source: Source, labels: str, seed: int, data_dir: str = "") -> Source:
    """The training pictures whose labels are used.

    Args:
      source: the training split, with labels.
      labels: a percentage, "1%", or a list: a file with one name a line, such as
        SimCLR's 1percent.txt. A name matches the end of a picture's path.
        1 % and 10 % of IMAGENET are the official lists, from TFDS; other percentages
        are drawn by `balanced`.
      seed: of the draw.
      data_dir: of TFDS.

    Returns:
      the source itself for 100%.

    Raises:
      ValueError: labels is neither; there are too few pictures for one of every class,
        or only one class; the list cannot be read, is damaged, or names what the source
        lacks; an official set cannot be prepared here.
    """
    match = PERCENT.fullmatch(labels.strip())
    if match is None:
        return _listed(source, labels)
    percent = float(match[1])
    if not 0 < percent <= 100:
        raise ValueError(f"labels={labels}: must be above 0 and at most 100%.")
    if percent == 100:
        return source
    if source.name == IMAGENET and percent in OFFICIAL:
        return _from_tfds(OFFICIAL[percent], labels, data_dir)
    label = read_labels(source)
    count = int(percent / 100 * len(source) + 1e-9)
    classes = len(np.unique(label))
    if classes < 2:
        raise ValueError(f"All labels of {source.name} are of one class.")
    if count < classes:
        raise ValueError(
            f"labels={labels} of the {len(source)} pictures of {source.name} are "
            f"{count}, fewer than its {classes} classes, so that some would be empty. "
            f"Take {100 * classes / len(source):.2g}% or more."
        )
    rows = balanced(label, count, seed)
    return Subset(source, rows, f"{source.name} ({labels})")


def read_labels(source: Source) -> np.ndarray:
    """The labels of all pictures, int32 [N]; reads the pictures, unless in a folder."""
    if isinstance(source, Folder):
        return source.label
    rows = np.arange(len(source))
    chunks = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    return np.concatenate([source.read(chunk)["label"] for chunk in chunks])


def balanced(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A draw of equally many pictures of every class.

    If the classes do not divide the count, some have one picture more, drawn as well: 1
    % of ImageNet's are 12 or 13 of a class, like those of SimCLR's list. A class with
    fewer pictures gives all of them, and the others more. For one seed, a smaller draw
    is part of a larger one.

    Args:
      label: int [N], of all pictures.
      count: n, of pictures to draw; at most N.
      seed: of the draw.

    Returns:
      int64 [n], positions, ascending.
    """
    return _draw(label, lambda sizes: _quotas(sizes, count, seed), seed)


def stratified(label: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A draw of the same share of every class, at least one where there are two.

    Args:
      label: int [N], of all pictures.
      share: in (0, 1).
      seed: of the draw.

    Returns:
      bool [N], whether a picture was drawn; at least one of every class was not.
    """

    def counts(sizes):
        return np.clip(np.rint(share * sizes).astype(int), 1, None).clip(max=sizes - 1)

    drawn = np.zeros(len(label), bool)
    drawn[_draw(label, counts, seed)] = True
    return drawn


def _draw(
    label: np.ndarray, counts: Callable[[np.ndarray], np.ndarray], seed: int
) -> np.ndarray:
    """The first positions, ascending, of a permutation of every class.

    Args:
      counts: sizes of all classes with pictures -> pictures to draw of them.
    """
    names, sizes = np.unique(label, return_counts=True)
    quotas = counts(sizes)

    def repeat(x):
        return np.repeat(x, quotas)

    rank = np.arange(quotas.sum()) - repeat(np.cumsum(quotas) - quotas)
    rank = permute(rank, repeat(sizes), seed, repeat(names))
    by_class = np.argsort(label, kind="stable")
    return np.sort(by_class[repeat(np.cumsum(sizes) - sizes) + rank])


def _quotas(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The number of pictures of every class: min(size, level), and some one more."""
    levels = np.arange(sizes.max() + 1)
    totals = np.minimum(sizes, levels[:, None]).sum(1)
    level = int(np.searchsorted(totals, count, side="right")) - 1
    quotas = np.minimum(sizes, level)
    larger = np.flatnonzero(sizes > level)
    rest = count - int(quotas.sum())
    if rest:
        quotas[larger[permute(np.arange(rest), len(larger), seed)]] += 1
    return quotas


def _from_tfds(official: Official, labels: str, data_dir: str) -> Source:
    try:
        source = open_source(official.tfds, data_dir=data_dir, split="train")
    except ValueError as error:
        raise ValueError(
            f"{labels} of ImageNet's labels are an official list of {official.pictures}"
            f" pictures: give the path of SimCLR's {official.file} as labels, or "
            f"prepare the TFDS set {official.tfds}. {error}"
        ) from error
    _check_count(official.tfds, len(source), official)
    return source


def _check_count(name: str, count: int, official: Official) -> None:
    if count != official.pictures:
        raise ValueError(
            f"{name} has {count} pictures, but the official part has "
            f"{official.pictures}: it is not complete."
        )


def _listed(source: Source, path: str) -> Source:
    """The pictures that a list names, in the order of the source."""
    names = _read_list(path)
    rows = _positions(names, file_names(source), path, source.name)
    part = Subset(source, np.sort(rows), f"{source.name} ({path})")
    sizes = np.bincount(read_labels(part), minlength=source.classes)
    if empty := np.flatnonzero(sizes == 0).tolist():
        first = (source.class_names or [*map(str, range(source.classes))])[empty[0]]
        raise ValueError(
            f"labels={path} has no picture of {len(empty)} of the {source.classes} "
            f"classes of {source.name}, such as {first}."
        )
    return part


def _read_list(path: str) -> list[str]:
    full = absolute(path)
    try:
        text = storage_of(full).read_all(full).decode()
    except (*STORAGE, UnicodeDecodeError) as error:
        raise ValueError(
            f"labels={path} is neither a percentage, such as 1%, nor a list of file "
            f"names that can be read: {error}"
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        problem = "repeats names" if names else "is empty"
        raise ValueError(f"labels={path} {problem}; it needs one file name a line.")
    for official in OFFICIAL.values():
        if full.rpartition("/")[2] == official.file:
            _check_count(path, len(names), official)
    return names


def _positions(
    names: Sequence[str], files: Sequence[str], path: str, title: str
) -> np.ndarray:
    """The position of every name among the ends of the files' paths."""
    depths = {name.count("/") + 1 for name in names}
    ends: dict[str, list[int]] = {}
    for row, file in enumerate(files):
        for depth in depths:
            ends.setdefault("/".join(file.split("/")[-depth:]), []).append(row)
    for count, problem in ((0, "lacks"), (2, "has several times")):
        bad = [n for n in names if min(len(set(ends.get(n, ()))), 2) == count]
        if bad:
            shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
            raise ValueError(
                f"labels={path} names {len(bad)} pictures that {title} {problem}: "
                f"{shown}"
            )
    return np.array([ends[name][0] for name in names])
