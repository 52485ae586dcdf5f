"""The work directory of a run: its saved config, data set sizes and state."""

import json
import os
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import multihost
from simclr_jax.data.sources import Source
from simclr_jax.experiment import build, config, external, schema
from simclr_jax.experiment.old_configs import upgraded
from simclr_jax.state import TrainState
from simclr_jax.storage import files
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.paths import absolute, has_scheme
from simclr_jax.train.checkpoint_reader import restore_latest

BUILT = ("method", "encoder", "augment")  # sections whose factories build a run


class CodeNotNamed(ValueError):
    """A work directory names code from outside this package, and the user does not.

    Attributes:
      names: such as ["method.name=package.module:factory"].
    """

    def __init__(self, workdir: str | os.PathLike, names: list[str]):
        self.names = names
        arguments = " ".join(f"--config.{name}" for name in names)
        super().__init__(
            f"{workdir} names code from outside this package, which is only run if it "
            f"is named again. If you trust it, add {arguments} (in Python: "
            "allow_code=True)."
        )


class SavedRun(NamedTuple):
    """A run restored from its work directory."""

    config: ConfigDict
    run: build.Run
    state: TrainState
    step: int


def read_saved(workdir: str | os.PathLike, name: str = "config.json") -> dict[str, Any]:
    """A JSON object that a run has written, such as config.json or data.json.

    A config is brought up to date: see `old_configs.upgraded`.

    Raises:
      ValueError: the file is missing or damaged.
    """
    path = epath.Path(workdir) / name
    if not path.exists():
        raise ValueError(f"{workdir} is no work directory: it has no {name}.")
    try:
        saved = json.loads(path.read_text())
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise ValueError(
            f"{path} is damaged: it is no JSON object, and without it the content of "
            f"{workdir} is unknown. Take another --workdir, or put the file back."
        )
    return upgraded(saved) if name == "config.json" else saved


def saved_config(
    workdir: str | os.PathLike,
    changes: config.Changes = (),
    *,
    sections: tuple[str, ...] = BUILT,
    protocol: str = "",
    allow_code: bool = False,
) -> ConfigDict:
    """The config of a run, with changes.

    Args:
      changes: of the config, such as ("encoder.dtype", "float32").
      sections: those whose factories will be called. If one is from outside this
        package (see `external`), its name must be among the changes: a work directory
        that comes from elsewhere must not run code of its choice.
      protocol: an evaluation protocol from outside, whose settings are added.
      allow_code: whether factories from outside need not be named.

    Raises:
      CodeNotNamed: a factory from outside is not named.
      ValueError: as in `read_saved`, `config.override`, `config.add_protocol` and
        `schema.check`.
    """
    c = config.restored(read_saved(workdir))
    _check_names(c, workdir, dict(changes), sections, allow_code)
    if external.is_external(protocol):
        config.add_protocol(c, protocol)
    config.override(c, changes)
    schema.check(c)
    return c


def _check_names(
    c: ConfigDict,
    workdir: str | os.PathLike,
    changes: dict[str, str],
    sections: tuple[str, ...],
    allow_code: bool,
) -> None:
    for part in BUILT:
        key, name = f"{part}.name", c[part].name
        if key in changes and changes[key] != name:
            raise ValueError(
                f"{workdir} was trained with {key}={name}; got --config.{key}="
                f"{changes[key]}."
            )
    names = [
        f"{part}.name={c[part].name}"
        for part in sections
        if external.is_external(c[part].name) and f"{part}.name" not in changes
    ]
    if names and not allow_code:
        raise CodeNotNamed(workdir, names)


def save_score(
    workdir: str | os.PathLike, protocol: str, name: str, result: dict[str, Any]
) -> None:
    """Adds a score to results.json by protocol and name."""
    path = epath.Path(workdir) / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results.setdefault(protocol, {})[name] = result
    files.write(str(path), json.dumps(results, indent=2) + "\n")


def data_sizes(workdir: str | os.PathLike) -> dict[str, int]:
    """The images and classes of a run's training split, as arguments of `assemble`.

    Raises:
      ValueError: as in `read_saved`.
    """
    data = read_saved(workdir, "data.json")
    return {"images": data["pictures"], "classes": data["classes"]}


def open_saved(
    workdir: str | os.PathLike,
    mesh: Mesh,
    changes: config.Changes = (),
    *,
    sections: tuple[str, ...] = BUILT,
    protocol: str = "",
    allow_code: bool = False,
) -> SavedRun:
    """A run with the state of its newest checkpoint.

    Args:
      mesh: the mesh on which the state is restored.
      changes, sections, protocol, allow_code: as in `saved_config`.

    Raises:
      ValueError: as in `saved_config`; or there is no checkpoint yet.
      CheckpointError: the checkpoint cannot be read.
    """
    c = saved_config(
        workdir,
        changes,
        sections=sections,
        protocol=protocol,
        allow_code=allow_code,
    )
    run = build.assemble(c, mesh, **data_sizes(workdir))
    folder = epath.Path(workdir) / "checkpoints"
    state, step = restore_latest(folder, build.abstract(run))
    return SavedRun(c, run, state, step)


def record_run(c: ConfigDict, source: Source, workdir: str | os.PathLike) -> None:
    """Writes config.json and data.json; if a run has started, compares them first.

    A run has started when a step was logged or a checkpoint saved.

    Raises:
      ValueError: config or data set differ from the run's; lists the differences.
      StorageNotShared: the processes do not share the work directory.
    """
    folder = epath.Path(workdir)
    contents = {
        "config.json": config.plain(c),
        "data.json": {
            "pictures": len(source),
            "classes": source.classes,
            "pictures read together": source.block,
        },
    }
    with multihost.process_0_first():
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if _has_started(folder, names):
            for name in contents.keys() & names:
                _check_same(read_saved(folder, name), contents[name], folder)
        if jax.process_index() == 0:
            for name, content in contents.items():
                files.write(str(folder / name), json.dumps(content, indent=2) + "\n")
    if jax.process_count() > 1:
        path = folder / "config.json"
        multihost.check_shared(path.read_text() if path.exists() else "", workdir)


def _has_started(folder: epath.Path, names: Collection[str]) -> bool:
    return "metrics.jsonl" in names or (
        "checkpoints" in names and any((folder / "checkpoints").iterdir())
    )


def _check_same(saved: dict, content: dict, folder: epath.Path) -> None:
    lines = config.differences(saved, content, config.MAY_CHANGE)
    if lines:
        shown = "\n  ".join(lines)
        raise ValueError(
            f"The run in {folder} has another config or other data:\n  {shown}\n"
            "Take another --workdir, or the config and data of that run."
        )


def check_inputs(c: ConfigDict, workdir: str) -> None:
    """Checks that the folders a config reads from can be read.

    Args:
      workdir: an absolute path; once it has checkpoints, init_from is not read.

    Raises:
      ValueError, BucketDenied, BucketUnavailable: as in `check_folder`.
    """
    folders = [c.data.data_dir]
    if has_scheme(c.data.name):
        folders.append(c.data.name)
    if c.init_from and not (epath.Path(workdir) / "checkpoints").exists():
        folders.append(c.init_from)
    for path in folders:
        check_folder(absolute(path))
