"""Conversion between our arrays and those of a foreign checkpoint.

A name map is a table {path of our array: Entry}, used in both directions: `to_flax`
reads foreign arrays, `from_flax` makes them. An array that only one side has raises an
error with its name; nothing is skipped silently.
"""

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """The foreign counterpart of one of our arrays."""

    name: str
    transform: str = "identity"  # change of its axes, one of TRANSFORMS


class Transform(NamedTuple):
    """A change of axes, in both directions."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    from_flax: Callable[[np.ndarray], np.ndarray]


TRANSFORMS = {
    "identity": Transform(lambda x: x, lambda x: x),
    "conv": Transform(  # [O, I, H, W]
        lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
    ),
    "dense": Transform(lambda x: x.T, lambda x: x.T),  # [O, I]
    "column": Transform(lambda x: x.reshape(len(x)), lambda x: x[:, None]),  # [K, 1]
    "row": Transform(lambda x: x.reshape(-1), lambda x: x[None]),  # [1, C]
    "pixel": Transform(  # [1, 1, 1, C]
        lambda x: x.reshape(-1), lambda x: x[None, None, None]
    ),
    "scalar": Transform(lambda x: x.reshape(()), lambda x: x[None]),  # [1]
}

NETWORK = ("params", "target_params", "model_state", "method_state")  # of a state
NameMap = dict[str, Entry]
# Path inside a part, such as layer1_0/conv1/kernel -> its entry; None: no such layer.
Naming = Callable[[str], Entry | None]


class Branch(NamedTuple):
    """A branch of the network: its paths in our state, and its foreign names.

    A part that is not in `parts` is not in the file and is newly initialised.
    """

    params: str  # "params" or "target_params"
    stats: str  # "model_state/online" or "model_state/target"
    parts: dict[str, Naming]  # of "encoder", "projector", "predictor", "probe", ...


class ForeignCheckpoint(NamedTuple):
    """The contents of a foreign file, and the config and names that describe them."""

    config: str  # our config of its training, configs/NAME.py:key=value
    changes: list[tuple[str, str]]  # of that config, such as ("encoder.width", "2")
    arrays: dict[str, np.ndarray]
    branches: list[Branch]
    method_state: Mapping[str, Entry] = {}
    ignored: tuple[str, ...] = ()  # regular expressions of names that are not imported
    unread: Mapping[str, int] = {}  # numbers of arrays not read, by description
    notes: tuple[str, ...] = ()  # for the user
    images: int = 1_281_167  # in its training set; the default is ImageNet's


class Conversion(NamedTuple):
    """The arrays of a foreign checkpoint for a state of ours."""

    arrays: dict[str, np.ndarray]  # by path in the state
    newly_initialised: list[str]  # paths of the network that the file does not have
    unused: dict[str, int]  # numbers of arrays not imported, by pattern


def convert(
    checkpoint: ForeignCheckpoint, shapes: Mapping[str, tuple[int, ...]]
) -> Conversion:
    """The checkpoint's arrays by their paths in a state of ours.

    Args:
      shapes: of all arrays of the state, by path such as params/encoder/conv1/kernel.

    Raises:
      ValueError: as in `build` and `to_flax`.
    """
    entries = build(checkpoint, shapes)
    arrays = to_flax(entries, checkpoint.arrays, shapes, checkpoint.ignored)
    names = {entry.name for entry in entries.values()}
    rules = (
        matching_rule(name, checkpoint.ignored)
        for name in checkpoint.arrays.keys() - names
    )
    unused = dict(sorted(collections.Counter(rules).items()))
    missing = [p for p in shapes if p.split("/")[0] in NETWORK and p not in arrays]
    return Conversion(arrays, missing, {**unused, **checkpoint.unread})


def build(checkpoint: ForeignCheckpoint, paths: Iterable[str]) -> NameMap:
    """The name map of a state with these paths.

    Raises:
      ValueError: an array of one of the checkpoint's parts has no foreign name.
    """
    entries, nameless = dict(checkpoint.method_state), []
    roots = [
        (f"{root}/{part}/", naming)
        for branch in checkpoint.branches
        for part, naming in branch.parts.items()
        for root in (branch.params, branch.stats)
    ]
    for path in paths:
        for root, naming in roots:
            if not path.startswith(root):
                continue
            entry = naming(path.removeprefix(root))
            if entry is None:
                nameless.append(path)
            else:
                entries[path] = entry
    if nameless:
        raise ValueError(
            f"The format has no name for {abbreviate(nameless)}: it describes another "
            "network than the config."
        )
    return entries


def to_flax(
    entries: Mapping[str, Entry],
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    ignored: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Our arrays by path, from foreign arrays by name.

    Args:
      entries: the name map.
      shapes: of our arrays, by path.
      ignored: regular expressions of foreign names that need not be in the name map.

    Raises:
      ValueError: with all names that are missing, all that are not expected, or all
        arrays whose shape does not fit.
    """
    names = {entry.name for entry in entries.values()}
    missing = sorted(names - arrays.keys())
    surplus = sorted(n for n in arrays.keys() - names if not matching_rule(n, ignored))
    if missing or surplus:
        raise ValueError(
            f"The file does not match its format. Missing: {abbreviate(missing)}. "
            f"Not expected: {abbreviate(surplus)}."
        )
    converted, misshapen = {}, []
    for path, entry in entries.items():
        foreign = np.asarray(arrays[entry.name])
        try:
            x = TRANSFORMS[entry.transform].to_flax(foreign)
        except ValueError:  # another number of axes, reported below
            x = foreign
        converted[path] = x
        if x.shape != shapes[path]:
            misshapen.append(f"{entry.name} {foreign.shape} for {path} {shapes[path]}")
    if misshapen:
        raise ValueError(f"Arrays of other shapes: {abbreviate(misshapen)}.")
    return converted


def from_flax(
    entries: Mapping[str, Entry], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Foreign arrays by name, from our arrays by path."""
    return {
        entry.name: np.ascontiguousarray(
            TRANSFORMS[entry.transform].from_flax(np.asarray(arrays[path]))
        )
        for path, entry in entries.items()
    }


def matching_rule(name: str, rules: Iterable[str]) -> str:
    """The first of the regular expressions that matches the whole name, or ""."""
    return next((rule for rule in rules if re.fullmatch(rule, name)), "")


def num_classes(checkpoint: ForeignCheckpoint) -> int:
    """C, the number of classes of the checkpoint's classifier; 0 without one.

    Raises:
      ValueError: its classifier has no bias.
    """
    probes = (b.parts["probe"] for b in checkpoint.branches if "probe" in b.parts)
    naming = next(probes, None)
    if naming is None:
        return 0
    bias = naming("bias")
    name = bias.name if bias else ""
    if name not in checkpoint.arrays:
        raise ValueError(f"The file has no {name}: a classifier needs a bias.")
    return checkpoint.arrays[name].size


def abbreviate(names: list[str], most: int = 12) -> str:
    """The first names as text, and the number of the others."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
