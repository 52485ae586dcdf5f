"""What our arrays are called elsewhere, and how they lie there.

A layout is a table {path of ours: Place}. It is read both ways: `take` brings arrays
from there, `give` makes those of there. Nothing is skipped in silence: an array that
one side has and the other does not is an error that names it.
"""

import collections
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where one of our arrays is there."""

    name: str
    turn: str = "same"  # how it lies there, one of TURNS


class Turn(NamedTuple):
    take: Callable  # array there -> ours
    give: Callable  # ours -> there


TURNS = {
    "same": Turn(lambda x: x, lambda x: x),
    "conv": Turn(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    "dense": Turn(lambda x: x.T, lambda x: x.T),
    "column": Turn(lambda x: x.reshape(len(x)), lambda x: x[:, None]),  # [K, 1]
    "row": Turn(lambda x: x.reshape(-1), lambda x: x[None]),  # [1, C]
    "pixel": Turn(lambda x: x.reshape(-1), lambda x: x[None, None, None]),
    "scalar": Turn(lambda x: x.reshape(()), lambda x: x[None]),
}

# The paths inside a part, such as layer1_0/conv1/kernel, -> their places; None: nowhere
Naming = Callable[[str], Place | None]


class Branch(NamedTuple):
    """A copy of the network: where its arrays are in our state, and their names there.

    A part that is not in `parts` is not in the file, and stays as it begins here.
    """

    params: str  # "params" or "target_params"
    stats: str  # "model_state/online" or "model_state/target"
    parts: dict[str, Naming]  # "encoder", "projector", "predictor", "probe": names


class Found(NamedTuple):
    """What a foreign file turned out to hold."""

    config: str  # of ours that it was trained by, configs/NAME.py:key=value
    changes: list[tuple[str, str]]  # of that config: ("encoder.width", "2")
    arrays: dict[str, np.ndarray]
    branches: list[Branch]
    others: dict[str, Place] = {}  # noqa: RUF012  state paths outside the branches
    spare: tuple[str, ...] = ()  # expressions for names that are of no use here
    unread: dict[str, int] = {}  # noqa: RUF012  such rules: arrays left in the file
    notes: tuple[str, ...] = ()  # what a user should know
    pictures: int = 1_281_167  # that it was trained on; ImageNet's


def table(found: Found, paths: Iterable[str]) -> dict[str, Place]:
    """The layout of a state with these paths, such as params/encoder/conv1/kernel.

    Raises:
      ValueError: an array of a part that is there has no name there.
    """
    known, nameless = dict(found.others), []
    for path in paths:
        for branch in found.branches:
            for part, naming in branch.parts.items():
                for root in (branch.params, branch.stats):
                    if path.startswith(f"{root}/{part}/"):
                        place = naming(path.removeprefix(f"{root}/{part}/"))
                        known |= {path: place} if place else {}
                        nameless += [] if place else [path]
    if nameless:
        raise ValueError(
            f"That layout has no name for {listed(nameless)}: it describes another "
            "network than the config's."
        )
    return known


def take(
    table: dict[str, Place],
    arrays: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    spare: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Our arrays by path, from those of there.

    Args:
      shapes: of ours, by path.
      spare: regular expressions; names there that one of them matches are left.

    Raises:
      ValueError: with all names that are missing there, all that nobody asked for, or
        all whose shape does not fit.
    """
    wanted = {place.name for place in table.values()}
    missing = sorted(wanted - arrays.keys())
    surplus = sorted(n for n in arrays.keys() - wanted if not rule(n, spare))
    if missing or surplus:
        raise ValueError(
            f"The file does not hold what its format says. Missing: {listed(missing)}. "
            f"Not expected: {listed(surplus)}."
        )
    taken, misshapen = {}, []
    for path, place in table.items():
        there = np.asarray(arrays[place.name])
        try:
            x = TURNS[place.turn].take(there)
        except ValueError:  # such as axes that are not there
            x = there
        taken[path] = x
        if x.shape != shapes[path]:
            misshapen.append(f"{place.name} {there.shape} for {path} {shapes[path]}")
    if misshapen:
        raise ValueError(f"Arrays of other shapes: {listed(misshapen)}.")
    return taken


def rule(name: str, spare: Iterable[str]) -> str:
    """The first of the expressions that the whole name matches; "": none does."""
    return next((each for each in spare if re.fullmatch(each, name)), "")


def left(found: Found, table: dict[str, Place]) -> dict[str, int]:
    """How many arrays of a file are of no use here, by the rule that says so."""
    wanted = {place.name for place in table.values()}
    rules = (rule(name, found.spare) for name in found.arrays.keys() - wanted)
    return dict(sorted(collections.Counter(rules).items())) | found.unread


def give(table: dict[str, Place], ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of there, by name, from ours by path."""
    return {
        place.name: np.ascontiguousarray(TURNS[place.turn].give(np.asarray(ours[path])))
        for path, place in table.items()
    }


def listed(names: list[str], most: int = 12) -> str:
    """The first of them, and how many more there are."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
