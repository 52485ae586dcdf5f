"""Files and folders that a command writes: never over others."""

import os
from collections.abc import Iterable, Sequence

from simclr_jax.storage.files import storage_of


def check_absent(paths: Sequence[str]) -> None:
    """Checks that files do not exist yet.

    Args:
      paths: absolute, of one folder.

    Raises:
      ValueError: one of them exists; it is named.
    """
    folder, storage = os.path.dirname(paths[0]), storage_of(paths[0])
    if not storage.is_dir(folder):
        return
    existing = {name for names in storage.entries(folder) for name in names}
    for path in paths:
        if os.path.basename(path) in existing:
            raise ValueError(f"{path} exists: give another --out, or remove it.")


def check_empty(folder: str) -> None:
    """Checks that a folder does not exist yet, or is empty.

    Args:
      folder: an absolute path.

    Raises:
      ValueError: there is something in it, or it is a file.
    """
    storage = storage_of(folder)
    if os.path.isfile(folder) or (
        storage.is_dir(folder) and any(storage.entries(folder))
    ):
        raise ValueError(f"{folder} exists: give another --out, or remove it.")


def write_all(files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Writes files, (absolute path, content), and their folders; returns the paths."""
    paths = []
    for path, content in files:
        storage_of(path).write(path, content)
        paths.append(path)
    return paths
