"""A foreign checkpoint becomes a work directory, as if it had been trained here."""

import contextlib
import hashlib
import json
import pathlib
import tempfile
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from simclr_jax import sharding
from simclr_jax.experiment import build, config
from simclr_jax.storage import bucket
from simclr_jax.storage.paths import in_bucket
from simclr_jax.suggest import check_name
from simclr_jax.train.checkpoint import Checkpoints, newest
from simclr_jax.tree import by_path, with_leaves
from simclr_jax.zoo import name_map, published
from simclr_jax.zoo.formats import FORMATS

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PACKED = (".zip", ".tgz", ".gz")
TRAINED = ("params", "target_params", "model_state", "method_state")


class Imported(NamedTuple):
    """What became of a file; also written to DIR/import.json."""

    format: str
    source: str
    sha256: str
    config: str
    taken: int  # arrays of our state that it filled
    fresh: list[str]  # layers that begin as in an untrained network
    left: dict[str, int]  # arrays of the file that are of no use here, by rule
    notes: list[str]


def bring(
    name: str, source: str, workdir: str, changes: list[tuple[str, str]]
) -> Imported:
    """Reads a checkpoint of the named format and writes a finished run.

    Args:
      name: one of FORMATS.
      source: the file, or the folder or prefix where the format has several files.
      workdir: a new one.
      changes: of the config, such as ("data.name", "my_pictures").

    Raises:
      ValueError: the format is unknown, the file is not of it, an array is missing,
        surplus or misshapen, or the work directory is somebody's already.
    """
    check_name(name, FORMATS, "--from")
    if pathlib.Path(source).suffix in PACKED:
        raise ValueError(f"--source={source}: unpack it, and give what is inside.")
    folder = epath.Path(workdir)
    if folder.exists() and any(folder.iterdir()) and not _stopped(folder):
        raise ValueError(f"{workdir} is not empty; take another --workdir.")
    with _on_this_machine(source) as source:
        return _bring(name, source, folder, changes)


@contextlib.contextmanager
def _on_this_machine(source: str):
    """The path of a source, of a copy where it lies in a bucket."""
    if not in_bucket(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="simclr_jax_import_") as folder:
        name = source.rpartition("/")[2]
        if not bucket.copy_here(source, pathlib.Path(folder)):
            raise ValueError(f"--source={source}: there is no such file or folder.")
        yield f"{folder}/{name}"


def _bring(name: str, source: str, folder, changes: list[tuple[str, str]]) -> Imported:
    found = FORMATS[name](source)
    c = config.load(f"{CONFIGS}/{found.config}")
    config.override(c, [*found.changes, *changes])
    config.check(c)
    classifies = any("probe" in branch.parts for branch in found.branches)
    c.probe.enabled = classifies
    classes = _classes(found) if classifies else 0
    data = {"pictures": found.pictures, "classes": classes, "pictures read together": 1}

    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        job = build.assemble(c, mesh, images=data["pictures"], classes=classes)
        shapes = by_path(job.shapes)
        table = name_map.table(found, shapes)
        sizes = {path: x.shape for path, x in shapes.items()}
        taken = name_map.take(table, found.arrays, sizes, found.spare)
        state = _lay(job.create(), taken).replace(step=np.int32(job.total))
        left = name_map.left(found, table)
        said = _said(name, source, found, taken, shapes, left)
        _save(folder, c, data, job, state, said)
    return said


def _stopped(folder) -> bool:
    """Whether an import began here and did not end: no step is saved."""
    began = (folder / "import.json").exists()
    return began and newest(folder / "checkpoints") is None


def _classes(found: name_map.Found) -> int:
    """How many the classifier that came along tells apart."""
    branch = next(b for b in found.branches if "probe" in b.parts)
    bias = branch.parts["probe"]("bias")
    name = bias.name if bias else ""
    if name not in found.arrays:
        raise ValueError(f"The file has no {name}: a classifier here has a bias.")
    return found.arrays[name].size


def _lay(state, taken: dict[str, np.ndarray]):
    """The state with these arrays in place of its own."""

    own = by_path(state)
    arrays = {
        path: jax.device_put(np.asarray(x, own[path].dtype), own[path].sharding)
        for path, x in taken.items()
    }
    return with_leaves(state, arrays)


def _said(name, source, found, taken, shapes, left) -> Imported:
    fresh = [p for p in shapes if p.split("/")[0] in TRAINED and p not in taken]
    layers = sorted({path.rpartition("/")[0] or path for path in fresh})
    return Imported(
        name,
        pathlib.Path(source).name,
        fingerprint(source),
        found.config,
        len(taken),
        layers,
        left,
        [*found.notes, *published.terms(name)],
    )


def fingerprint(source: str) -> str:
    """SHA-256 of a file, or of all files of a folder or a prefix, by name."""
    path, digest = pathlib.Path(source), hashlib.sha256()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
    else:
        files = [path] if path.is_file() else sorted(path.parent.glob(f"{path.name}.*"))
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _save(folder, c, data, job: build.Run, state, said: Imported) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = {"method": c.method.name, "keep": job.method.keep, "import": said._asdict()}
    files = {"import": said._asdict(), "data": data, "config": config.plain(c)}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    checkpoints = Checkpoints(  # last: without one nothing is taken for a run
        folder / "checkpoints", every=job.total, about=about
    )
    checkpoints.finish(job.total, state)
    checkpoints.close()
