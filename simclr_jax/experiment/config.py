"""Reads config files, overrides keys, converts to and from JSON, and compares."""

import contextlib
import json
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.evaluate.presets import PRESETS
from simclr_jax.experiment import schema, values
from simclr_jax.experiment.config_files import find
from simclr_jax.experiment.old_configs import check_not_renamed
from simclr_jax.suggest import check_name

Changes = Sequence[tuple[str, str]]  # (key, text) pairs, such as ("optim.lr", "0.1")
NO_CHANGES: Mapping[str, Any] = types.MappingProxyType({})

MAY_CHANGE = (  # keys, or their beginnings, that may change when a run is resumed
    *("log_every", "patience", "checkpoint.", "evaluate.", "data.data_dir"),
    *("data.colour", "profile", "health_every", "health_stop"),
)


def read(text: str, changes: Changes) -> ConfigDict:
    """Loads a config, applies changes and checks the result.

    Raises:
      ValueError: as in `load`, `override` and `schema.check`.
    """
    c = load(text)
    override(c, changes)
    schema.check(c)
    return c


def get_config(name: str, changes: Mapping[str, Any] = NO_CHANGES) -> ConfigDict:
    """A config for `simclr_jax.pretrain`, as the command line makes it.

    Args:
      name: of a config of this package, such as "quickstart", or the path of a config
        file; "NAME:key=value" passes arguments to the file's `get_config`.
      changes: values by dotted key, such as {"optim.lr": 0.3, "data.batch_size": 64}.

    Raises:
      ValueError: there is no such config or key (the message has the nearest), or a
        value has another type or is out of range.
    """
    return read(name, [(key, _as_text(value)) for key, value in changes.items()])


def _as_text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return repr(tuple(value) if isinstance(value, list) else value)


def load(text: str) -> ConfigDict:
    """Reads `NAME` or `NAME:key=value,key=value`.

    NAME is a file, or one of this package's configs by its name, such as quickstart.
    The keys are keyword-only arguments of the file's `get_config`, which is called with
    the values. The file may import modules from its own folder.

    Raises:
      ValueError: there is no such file, key or value, or the file raises an error.
    """
    name, _, arguments = text.partition(":")
    path = find(name)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: it must not replace other modules
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with _errors_named(name):
        exec(compile(path.read_text(), path, "exec"), module.__dict__)
        defaults = schema.defaults(module.get_config)
    kwargs = {}
    for pair in filter(None, arguments.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{name}: argument {pair!r} is not of the form key=value.")
        check_name(key, defaults, f"{name}, argument")
        if key in kwargs:
            raise ValueError(f"{name}: argument {key} is given more than once.")
        kwargs[key] = values.parse(value, defaults[key], key)
    with _errors_named(name):
        return module.get_config(**kwargs)


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turns any error of a config file into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # ConfigDict alone raises four classes
        message = str(error).strip("\"'")
        raise ValueError(f"{name}: {message} ({type(error).__name__})") from error


def override(c: ConfigDict, changes: Changes) -> None:
    """Applies changes in place.

    A change of a section's `name` is applied first, by `rename`.

    Raises:
      ValueError: an unknown key (suggests the nearest), or a value of a wrong type.
    """
    for key, text in changes:
        part, _, last = key.partition(".")
        if part in schema.SECTIONS and last == "name":
            rename(c, part, text)
    for key, text in changes:
        check_not_renamed(key)
        *parents, last = key.split(".")
        section = c
        for depth, parent in enumerate(parents):
            section = schema.child(section, parent, ".".join(parents[:depth]))
            if not isinstance(section, ConfigDict):
                raise ValueError(f"{key}: {parent} is a value, not a section.")
        old = schema.child(section, last, ".".join(parents))
        if isinstance(old, ConfigDict):
            keys = ", ".join(f"{key}.{name}" for name in old)
            raise ValueError(f"{key} is a section; set one of {keys}.")
        section[last] = values.parse(text, old, key)


def rename(c: ConfigDict, part: str, name: str) -> None:
    """Rebuilds a section for another factory, with that factory's defaults.

    Values that differ from the old factory's defaults are kept if the new factory has
    the same keyword, with a default of the same form (`blur` of SimCLR is a number, of
    BYOL one for each view); but not those of a data set, as its code may not be at
    hand. Keys of the section that belong to no factory, such as optim.lr, are kept as
    well.
    """
    old, new = c[part], schema.section(part, name)
    if name == old.name:
        return
    if part == "data":
        kept = set(schema.DATA)
    else:
        defaults = schema.settings(part, old.name)
        changed = {key for key, x in defaults.items() if old[key] != x}
        fitting = {k for k in changed & {*new} if values.is_like(old[k], new[k], k)}
        kept = {*old} - {"name"} - (defaults.keys() - fitting)
    for key in old:
        if key in kept:
            new[key] = old[key]
    with c.unlocked():
        c[part] = new


def add_protocol(c: ConfigDict, name: str) -> None:
    """Adds the section of an evaluation protocol that is not of this package.

    Args:
      name: `package.module:protocol`; the section is evaluate.PROTOCOL.

    Raises:
      ValueError: as in `schema.factory`; or the section exists.
    """
    key = schema.protocol_key(name)
    if key in c.evaluate:
        raise ValueError(
            f"--protocol={name}: evaluate.{key} is another section or value; give the "
            "function another name."
        )
    with c.unlocked():
        c.evaluate[key] = schema.settings("protocol", name)


def preset(protocol: str, name: str) -> tuple[Changes, str]:
    """The changes of the config for a paper's evaluation, and the features it is of.

    All settings but the seed are set, also those for which a run's config has others.

    Args:
      protocol: such as "linear_augmented".
      name: of one of the protocol's presets, see `evaluate.presets`.

    Raises:
      ValueError: the protocol has no such preset.
    """
    if protocol not in PRESETS:
        raise ValueError(
            f"--preset={name}: {protocol or 'no --protocol'} has no presets; "
            f"{', '.join(PRESETS)} have."
        )
    check_name(name, PRESETS[protocol], "--preset")
    settings, features = PRESETS[protocol][name]
    settings = schema.protocols()[protocol] | settings
    changes = [
        (f"evaluate.{protocol}.{key}", _as_text(value))
        for key, value in settings.items()
        if key != "seed"
    ]
    return changes, features


def plain(c: ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of JSON values."""
    return json.loads(json.dumps(c.to_dict()))


def restored(saved: dict[str, Any]) -> ConfigDict:
    """The locked config from the output of `plain`."""

    def with_tuples(x):
        if isinstance(x, dict):
            return {key: with_tuples(value) for key, value in x.items()}
        return tuple(with_tuples(item) for item in x) if isinstance(x, list) else x

    return ConfigDict({key: with_tuples(x) for key, x in saved.items()}).lock()


def differences(
    old: dict[str, Any],
    new: dict[str, Any],
    ignored: tuple[str, ...] = (),
    prefix: str = "",
) -> list[str]:
    """Compares two plain configs.

    Args:
      ignored: keys, or beginnings of keys, that are not compared.
      prefix: added before the keys in the output.

    Returns:
      a line `key: was A, now B` for each value that differs. Of sections of different
      factories, by their `name`, only the keys that both have are compared.
    """
    lines = []
    same_factory = old.get("name") == new.get("name")
    keys = old.keys() | new.keys() if same_factory else old.keys() & new.keys()
    for key in sorted(keys):
        path = f"{prefix}{key}"
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, ignored, f"{path}.")
        elif a != b and not path.startswith(ignored):
            lines.append(f"{path}: was {a!r}, now {b!r}")
    return lines
