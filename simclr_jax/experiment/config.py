"""Configs: a factory's signature is its schema, and every mistake gets a kind word."""

import ast
import contextlib
import functools
import inspect
import json
import pathlib
import sys
import types
from collections.abc import Callable
from operator import getitem

import ml_collections as mlc

from simclr_jax.data.recipes import RECIPES
from simclr_jax.evaluate.embedding_2d import map2d
from simclr_jax.evaluate.knn import knn
from simclr_jax.evaluate.linear import linear, linear_augmented
from simclr_jax.methods.catalog import METHODS
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.suggest import check_name, nearest
from simclr_jax.train.optim import OPTIMISERS
from simclr_jax.train.schedules import LENGTHS, SCALINGS, SHAPES

SECTIONS = {
    "method": METHODS,
    "encoder": ENCODERS,
    "augment": RECIPES,
    "optim": OPTIMISERS,
}
PROTOCOLS = {
    "knn": knn,
    "linear": linear,
    "linear_augmented": linear_augmented,
    "map2d": map2d,
}
WORDS = {  # fields whose value is one of a few words
    "optim.lr_scaling": tuple(SCALINGS),
    "optim.schedule": tuple(SHAPES),
    "optim.length": tuple(LENGTHS),
    "data.colour": ("host", "device"),
    "placement": ("replicated", "fsdp"),
}
POSITIVE = (
    *("epochs", "log_every", "patience", "probe.views", "optim.microbatches"),
    *("data.batch_size", "data.image_size", "checkpoint.every", "checkpoint.keep"),
    *("evaluate.batch_size", "evaluate.knn.k", "evaluate.knn.temperature"),
    *("evaluate.linear.iterations", "evaluate.linear_augmented.epochs"),
    *("evaluate.linear_augmented.batch_size", "evaluate.linear_augmented.lr"),
    "evaluate.map2d.k",
)
NOT_NEGATIVE = (
    *("steps", "transfer_from", "checkpoint.keep_every", "optim.lr"),
    *("optim.warmup_epochs", "optim.lr_end", "optim.clip", "optim.late_epochs"),
    *("evaluate.every", "evaluate.linear.l2", "evaluate.linear_augmented.weight_decay"),
)
ANY_NUMBER = ("optim.changes",)
MAY_CHANGE = (  # when a run goes on
    *("log_every", "patience", "checkpoint.", "evaluate.", "data.data_dir"),
    "data.colour",
)


def settings(factory: Callable) -> dict:
    """A factory's keyword-only arguments that have a default, at their defaults.

    Those without one (`size`, `total_steps`, `steps_per_epoch`) are wired in by the
    run.
    """
    found = inspect.signature(factory).parameters.values()
    own = [k for k in found if k.kind is k.KEYWORD_ONLY and k.default is not k.empty]
    return {k.name: k.default for k in own}


def section(factories: dict, name: str) -> mlc.ConfigDict:
    """All keywords of the named factory; its defaults are the paper's numbers."""
    check_name(name, factories, "name")
    return mlc.ConfigDict({"name": name, **settings(factories[name])})


def build(part: str, c: mlc.ConfigDict, *args, **wired):
    """Calls the factory that a section names; see `call`."""
    return call(SECTIONS[part], c[part], *args, **wired)


def call(factories: dict, chosen, *args, **wired):
    """Calls the factory named in `chosen` with its own of those keys.

    wired: what the run knows itself; given where the factory asks for it.
    """
    factory = factories[chosen["name"]]
    own = {key: _child(chosen, key, chosen["name"]) for key in settings(factory)}
    wanted = inspect.signature(factory).parameters
    own |= {key: known for key, known in wired.items() if key in wanted}
    return factory(*args, **own)


def protocols() -> dict:
    """The sections of the evaluation protocols."""
    return {name: settings(factory) for name, factory in PROTOCOLS.items()}


# Reading: a file, its arguments, and changes from the command line.


def value(text: str, like, where: str):
    """The text of a command line as a value of the type of `like`.

    Raises:
      ValueError: if it is not one.
    """
    if isinstance(like, str):
        return text
    words = {"true": True, "false": False}
    try:
        said = words.get(text.lower())
        said = ast.literal_eval(text) if said is None else said
    except (ValueError, SyntaxError):
        said = text
    if isinstance(like, float) and type(said) is int:
        said = float(said)
    same = type(said) is type(like)
    if not same or (isinstance(like, tuple) and not _alike(said, like, where)):
        kind = type(like).__name__
        many = f" of {len(like)}" if isinstance(said, tuple) and same else ""
        raise ValueError(f"{where}={text}: wants {kind}{many}, such as {like!r}.")
    return said


def _alike(said: tuple, like: tuple, where: str) -> bool:
    """Whether two tuples hold the same kinds; rules (of text) may differ in number."""
    if all(isinstance(item, str) for item in like):
        return all(isinstance(item, str) for item in said)
    return (len(said) == len(like) or where in ANY_NUMBER) and all(
        isinstance(a, int | float) and not isinstance(a, bool) for a in said
    )


def read(text: str, changes: list[tuple[str, str]]) -> mlc.ConfigDict:
    """The config of `load`, changed by `override`, once `check` has nothing against it.

    Raises:
      ValueError: as these.
    """
    c = load(text)
    override(c, changes)
    check(c)
    return c


def load(text: str) -> mlc.ConfigDict:
    """Reads `FILE.py` or `FILE.py:key=value,key=value`.

    The keyword-only arguments of the file's `get_config` are what it takes.
    """
    name, _, arguments = text.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")])
        hint = f" Did you mean {path.parent / near}?" if near else ""
        raise ValueError(f"--config: there is no file {name}.{hint}")
    root = str(path.resolve().parent.parent)  # for `from configs import base`
    if root not in sys.path:
        sys.path.insert(0, root)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with _blaming(name):
        exec(compile(path.read_text(), path, "exec"), module.__dict__)
        known = settings(module.get_config)
    given = {}
    for pair in filter(None, arguments.split(",")):
        key, equals, said = pair.partition("=")
        if not equals:
            raise ValueError(f"{name}: argument {pair!r} is not of the form key=value.")
        check_name(key, known, f"{name}, argument")
        given[key] = value(said, known[key], key)
    with _blaming(name):
        return module.get_config(**given)


@contextlib.contextmanager
def _blaming(name: str):
    """Whatever goes wrong inside a config file is a mistake in that file."""
    try:
        yield
    except Exception as error:  # ConfigDict alone raises four kinds
        said = str(error).strip("\"'")
        raise ValueError(f"{name}: {said} ({type(error).__name__})") from error


def override(c: mlc.ConfigDict, changes: list[tuple[str, str]]) -> None:
    """Applies (`a.b`, text) changes in place.

    A change of a section's `name` comes first and brings the new factory's defaults;
    what the config file itself had set to something else than the old factory's
    default stays where the new one has the same keyword.
    """
    for key, text in changes:
        part, _, last = key.partition(".")
        if part in SECTIONS and last == "name":
            rename(c, part, text)
    for key, text in changes:
        *parents, last = key.split(".")
        place = c
        for depth, parent in enumerate(parents):
            place = _child(place, parent, ".".join(parents[:depth]))
            if not isinstance(place, mlc.ConfigDict):
                raise ValueError(f"{key}: {parent} is a value, not a section.")
        old = _child(place, last, ".".join(parents))
        if isinstance(old, mlc.ConfigDict):
            inside = ", ".join(f"{key}.{name}" for name in old)
            raise ValueError(f"{key} is a section; set one of {inside}.")
        place[last] = value(text, old, key)


def _child(place, key: str, inside: str):
    check_name(key, list(place), f"config {inside}" if inside else "config")
    return place[key]


def rename(c: mlc.ConfigDict, part: str, name: str) -> None:
    """Rebuilds a section for another factory."""
    factories = SECTIONS[part]
    check_name(name, factories, f"{part}.name")
    old, new = c[part], section(factories, name)
    were = settings(factories[old.name])
    for key in old:
        common = key not in were  # such as optim.lr: the section's, not one factory's
        if key != "name" and (common or (key in new and old[key] != were[key])):
            new[key] = old[key]
    with c.unlocked():
        c[part] = new


# Checking and comparing.


def check(c: mlc.ConfigDict) -> None:
    """Rules that the types alone do not keep."""
    numbers = dict(_numbers(c))
    for key, said in numbers.items():
        if not abs(said) < 2**63:
            raise ValueError(f"{key}={said} is not a number to compute with.")
    for key, known in WORDS.items():
        check_name(str(functools.reduce(getitem, key.split("."), c)), known, key)
    for key in POSITIVE:
        if not numbers[key] > 0:
            raise ValueError(f"{key}={numbers[key]}: must be above 0.")
    for key in NOT_NEGATIVE:
        if not numbers[key] >= 0:
            raise ValueError(f"{key}={numbers[key]}: must be 0 or more.")


def _numbers(c, inside: str = ""):
    """(key, number) for every number of a config."""
    for key, said in c.items():
        if isinstance(said, mlc.ConfigDict):
            yield from _numbers(said, f"{inside}{key}.")
        elif isinstance(said, int | float):
            yield f"{inside}{key}", said


def check_batch(c, devices: int, processes: int, images: int) -> None:
    """Each microbatch must divide over the devices, a batch not exceed the data set."""
    batch_size, parts = c.data.batch_size, c.optim.microbatches
    least = devices * parts
    if batch_size % least:
        below = batch_size // least * least
        near = f"{below} or {below + least}" if below else f"{least}"
        into = "" if parts == 1 else f" and optim.microbatches={parts}"
        raise ValueError(
            f"data.batch_size={batch_size} does not divide over {devices} devices "
            f"(in {processes} processes){into}; the nearest that does is {near}."
        )
    if batch_size > images:
        raise ValueError(
            f"data.batch_size={batch_size} is larger than the data set of {images} "
            "images; no epoch would hold a whole batch."
        )


def plain(c: mlc.ConfigDict) -> dict:
    """The config as JSON keeps it."""
    return json.loads(json.dumps(c.to_dict()))


def restored(saved: dict) -> mlc.ConfigDict:
    """The config that `plain` wrote."""

    def tuples(x):
        if isinstance(x, dict):
            return {key: tuples(inside) for key, inside in x.items()}
        return tuple(tuples(item) for item in x) if isinstance(x, list) else x

    tree = {key: tuples(inside) for key, inside in saved.items()}
    return mlc.ConfigDict(tree).lock()


def differences(old: dict, new: dict, free: tuple = (), inside: str = "") -> list[str]:
    """Lines `key: was A, now B` for all but what begins with a word of `free`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{inside}{key}"
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, free, f"{path}.")
        elif a != b and not path.startswith(free):
            lines.append(f"{path}: was {a!r}, now {b!r}")
    return lines
