"""The configs and commands of a row, with a user's changes of the config."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from simclr_jax.data.sources import EMBEDDED
from simclr_jax.experiment import config, config_files, schema
from simclr_jax.experiment.config import Changes
from simclr_jax.reproduce.rows import Row, runs


def row_config(row: Row, text: str, changes: Changes) -> ConfigDict:
    """The config of one of a row's runs.

    Args:
      row: the row; its changes are applied first.
      text: as returned by `runs`.
      changes: the user's changes.

    Raises:
      ValueError: as in `config.read`.
    """
    of_row = [*row.changes.items(), *row.evaluation.items()]
    name, colon, arguments = text.partition(":")
    path = config_files.SHIPPED / f"{name}.py"
    return config.read(f"{path}{colon}{arguments}", [*of_row, *changes])


def changed_fields(row: Row, changes: Changes) -> dict[str, list[str]]:
    """The fields that a user's changes alter: lines `key: was A, now B`, by config.

    Raises:
      ValueError: a change is invalid for the config.
    """
    lines = {}
    for text, _ in runs(row, "DIR"):
        original, changed = (
            config.plain(row_config(row, text, some)) for some in ((), changes)
        )
        lines[text] = config.differences(original, changed)
    return {text: changed for text, changed in lines.items() if changed}


def cluster_changes(row: Row, changes: Changes) -> Changes:
    """What a row needs on accelerators: colour on the device, and where its data is.

    DATA, the folder of the TFDS sets, is left for the user to fill in, unless `changes`
    name it or the pictures come with the package.
    """
    c = row_config(row, runs(row, "DIR")[0][0], changes)
    new = [] if c.data.colour == "device" else [("data.colour", "device")]
    if c.data.name != EMBEDDED and not c.data.data_dir:
        new.append(("data.data_dir", "DATA"))
    return new


def commands(row: Row, workdir: str, changes: Changes) -> list[list[str]]:
    """The commands that train and evaluate a row, as arguments of `simclr-jax`.

    The last command evaluates; it gets the changes of evaluation protocols' settings.
    """
    protocols = tuple(f"evaluate.{name}." for name in schema.PROTOCOLS)
    training = [pair for pair in changes if not pair[0].startswith(protocols)]
    evaluation = [pair for pair in changes if pair[0].startswith(protocols)]
    stages = runs(row, workdir)
    lines = [
        [
            *("pretrain", "--config", text, "--workdir", folder),
            *_flags(row.changes | dict(training)),
        ]
        for text, folder in stages
    ]
    last = [
        *("evaluate", "--workdir", stages[-1][1]),
        *("--protocol", row.protocol, "--features", row.features),
        *_flags(row.evaluation | dict(evaluation)),
    ]
    return [*lines, last]


def _flags(changes: Mapping[str, str]) -> list[str]:
    return [f"--config.{key}={text}" for key, text in changes.items()]
