"""Imports a foreign checkpoint as a work directory with a finished run."""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from simclr_jax import sharding
from simclr_jax.experiment import build, config, config_files, schema
from simclr_jax.state import TrainState
from simclr_jax.storage import files
from simclr_jax.suggest import check_name
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_reader import newest
from simclr_jax.tree import by_path, with_leaves
from simclr_jax.zoo import catalog, name_map, published
from simclr_jax.zoo import source as source_files
from simclr_jax.zoo.name_map import ForeignCheckpoint


class ImportResult(NamedTuple):
    """The arrays that were imported from a file, and those that were not."""

    format: str
    source: str  # name of the file or folder
    sha256: str
    config: str  # configs/NAME.py:key=value
    num_arrays: int  # number of arrays of our state that came from the file
    newly_initialised: list[str]  # layers that the file does not have
    unused: dict[str, int]  # numbers of arrays not imported, by pattern
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The content of import.json."""
        return {
            "format": self.format,
            "source": self.source,
            "sha256": self.sha256,
            "config": self.config,
            "taken": self.num_arrays,
            "fresh": self.newly_initialised,
            "left": self.unused,
            "notes": self.notes,
        }


class ImportedRun(NamedTuple):
    """The run that a foreign checkpoint is imported as."""

    config: Any
    data: dict[str, int]  # content of data.json
    run: build.Run

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all arrays of its state, by path."""
        return {path: x.shape for path, x in by_path(self.run.shapes).items()}


def import_checkpoint(
    format: str, source: str, workdir: str, changes: list[tuple[str, str]]
) -> ImportResult:
    """Reads a checkpoint and writes a work directory, including import.json.

    Args:
      format: one of `catalog.READERS`.
      source: the file, or the folder or prefix for a format of several files.
      workdir: a new or empty folder, or that of an interrupted import.
      changes: of the config, such as ("data.name", "my_pictures").

    Raises:
      ValueError: the format is unknown, the file does not match it, an array is
        missing, not expected or of another shape, or the work directory is not empty.
    """
    folder = epath.Path(workdir)
    if folder.exists() and any(folder.iterdir()) and not _interrupted(folder):
        raise ValueError(f"{workdir} is not empty; choose another --workdir.")
    imported, arrays, result = read_checkpoint(format, source, changes)
    _save(folder, imported, arrays, result)
    return result


def read_checkpoint(
    format: str, source: str, changes: list[tuple[str, str]]
) -> tuple[ImportedRun, dict[str, np.ndarray], ImportResult]:
    """Reads a checkpoint: its run, the arrays of the state by path, and the result.

    Arguments and errors as in `import_checkpoint`; writes nothing.
    """
    check_name(format, catalog.READERS, "--from")
    source_files.check_unpacked(source)
    with source_files.local_copy(source) as path:
        checkpoint = catalog.reader(format)(path)
        imported = assemble(checkpoint, changes)
        conversion = name_map.convert(checkpoint, imported.shapes())
        missing = conversion.newly_initialised
        result = ImportResult(
            format,
            pathlib.Path(path).name,
            source_files.sha256(path),
            checkpoint.config,
            len(conversion.arrays),
            sorted({path.rpartition("/")[0] or path for path in missing}),
            conversion.unused,
            [*checkpoint.notes, *published.licence_notes(format)],
        )
    return imported, conversion.arrays, result


def assemble(
    checkpoint: ForeignCheckpoint, changes: list[tuple[str, str]]
) -> ImportedRun:
    """The run of a checkpoint's config with these changes; computes no arrays.

    Raises:
      ValueError: the config is wrong.
    """
    c = config.load(f"{config_files.SHIPPED}/{checkpoint.config}")
    config.override(c, [*checkpoint.changes, *changes])
    schema.check(c)
    classes = name_map.num_classes(checkpoint)
    c.probe.enabled = classes > 0
    images = checkpoint.images
    data = {"pictures": images, "classes": classes, "pictures read together": 1}
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        run = build.assemble(c, mesh, images=images, classes=classes)
    return ImportedRun(c, data, run)


def _interrupted(folder: epath.Path) -> bool:
    """Whether an import into this folder was interrupted: it has no checkpoint."""
    started = (folder / "import.json").exists()
    return started and newest(folder / "checkpoints") is None


def finished_state(imported: ImportedRun, arrays: dict[str, np.ndarray]) -> TrainState:
    """The state after the last step, with these arrays by path.

    All other arrays are newly initialised.
    """
    run = imported.run
    with jax.set_mesh(sharding.make_mesh()):
        state = run.create()
        leaves = by_path(state)
        placed = {
            path: jax.device_put(
                np.asarray(x, leaves[path].dtype), leaves[path].sharding
            )
            for path, x in arrays.items()
        }
        return with_leaves(state, placed).replace(step=np.int32(run.total))


def _save(
    folder: epath.Path,
    imported: ImportedRun,
    arrays: dict[str, np.ndarray],
    result: ImportResult,
) -> None:
    """Writes the work directory; the checkpoint, which completes the import, last."""
    c, data, run = imported
    state = finished_state(imported, arrays)
    content = {
        "import": result.to_json(),
        "data": data,
        "config": config.plain(c),
    }
    for name, value in content.items():
        files.write(str(folder / f"{name}.json"), json.dumps(value, indent=2) + "\n")
    metadata = {
        "method": c.method.name,
        "keep": run.method.keep,
        "import": result.to_json(),
    }
    checkpoints = Checkpoints(
        folder / "checkpoints", every=run.total, metadata=metadata
    )
    checkpoints.finish(run.total, state)
    checkpoints.close()
