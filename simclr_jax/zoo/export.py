"""Writes a network in a foreign format, verifies the file and adds its card."""

import json
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np

from simclr_jax import fingerprint
from simclr_jax.storage import bucket, files
from simclr_jax.storage.paths import in_bucket
from simclr_jax.zoo import card, catalog
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork
from simclr_jax.zoo.verification.verify import verification_batches, verify


class ExportResult(NamedTuple):
    """A file or folder that was written and verified."""

    path: str
    format: str
    part: str
    bytes: int  # without the card
    verification: str  # the packages that ran it, and the largest difference
    limits: tuple[str, ...]  # restrictions that a user should know


def check_new(out: str) -> None:
    """Checks that there is no file, folder or object of this name.

    Raises:
      ValueError: there is one.
    """
    if bucket.find(out) if in_bucket(out) else pathlib.Path(out).exists():
        raise ValueError(f"{out} exists already; choose another --out.")


def write(
    network: ExportedNetwork,
    expected: list[dict[str, np.ndarray]],
    run: dict,
    format: str,
    out: str,
) -> ExportResult:
    """Writes and verifies a network; nothing is left behind if that fails.

    The file gets the name `out` only after its own runtime has loaded it in another
    process, and its outputs for sample images and noise agree with the Flax network to
    1e-5 of the largest value. The card, .card.json and .card.md, is written beside a
    file and inside a folder.

    Args:
      expected: outputs of the Flax network for each of `verification_batches`.
      run: metadata of the work directory, see `card.of_run`.
      format: one of `catalog.WRITERS`.
      out: a new file or folder, on this machine or in a bucket.

    Raises:
      ValueError: the format cannot hold this network, or the verification failed.
    """
    if not in_bucket(out):
        return _write(network, expected, run, format, pathlib.Path(out).absolute())
    parent, _, name = out.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="simclr_jax_export_") as folder:
        result = _write(network, expected, run, format, pathlib.Path(folder, name))
        for file in pathlib.Path(folder).iterdir():
            bucket.upload(file, f"{parent}/{file.name}")
    return result._replace(path=out)


def _write(
    network: ExportedNetwork,
    expected: list[dict[str, np.ndarray]],
    run: dict,
    format: str,
    path: pathlib.Path,
) -> ExportResult:
    """Writes under a hidden name and renames at the end."""
    partial = path.with_name(f".{path.name}.half")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)  # left by an interrupted export
    try:
        file = catalog.writer(format)(network, partial)
        batches = verification_batches(network.image_size)
        try:
            verification = verify(file, partial, network, batches, expected)
        except ValueError as error:
            raise ValueError(f"{path} failed verification, deleted: {error}") from error
        content = card.contents(format, network, file, verification, expected[0], run)
        content["fingerprints"] |= _fingerprints(partial, path.name)
        size = sum(file.stat().st_size for file in _files(partial))
        _write_card(content, file, partial, path)
        partial.rename(path)
    finally:
        _remove(partial)
    line = card.verification_line(content["verified"])
    return ExportResult(str(path), format, network.part, size, line, file.limits)


def _write_card(
    content: dict, file: ExportedFile, partial: pathlib.Path, path: pathlib.Path
) -> None:
    """Writes the card into a folder, or beside a file."""
    prefix = f"{partial}/" if partial.is_dir() else f"{path}."
    readme = f"{prefix}README.md" if file.front_matter else f"{prefix}card.md"
    files.write(f"{prefix}card.json", json.dumps(content, indent=2) + "\n")
    files.write(readme, file.front_matter + card.text(content, path.name))


def _fingerprints(partial: pathlib.Path, name: str) -> dict[str, str]:
    """SHA-256 of the file, or of each file of the folder, by its final name."""
    names = {
        file: f"{name}/{file.relative_to(partial)}" if file != partial else name
        for file in _files(partial)
    }
    return {name: fingerprint.of_file(file) for file, name in sorted(names.items())}


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
