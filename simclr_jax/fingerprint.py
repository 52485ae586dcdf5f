"""SHA-256 fingerprints, in hexadecimal, of files, arrays and JSON values."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

BLOCK = 1 << 20  # bytes read at a time


def of_file(path: str | os.PathLike) -> str:
    """The fingerprint of a local file's bytes.

    Raises:
      OSError: the file cannot be read.
    """
    return of_files([path])


def of_files(paths: Iterable[str | os.PathLike]) -> str:
    """The fingerprint of the concatenated bytes of several local files, in order.

    Raises:
      OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with pathlib.Path(path).open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def of_json(value: Any) -> str:
    """The fingerprint of a value's JSON text with sorted keys."""
    return of_bytes(json.dumps(value, sort_keys=True).encode())


def of_arrays(arrays: Mapping[str, Any]) -> str:
    """The fingerprint of the names, types, shapes and bytes of NumPy arrays, in order.

    An array of objects is that of the bytes that its elements are.
    """
    digest = hashlib.sha256()
    for name, x in arrays.items():
        digest.update(f"{name} {x.dtype} {x.shape} ".encode())
        for part in x if x.dtype == object else [x.tobytes()]:
            digest.update(part)
    return digest.hexdigest()


def of_sources(folder: str | os.PathLike) -> str:
    """The fingerprint of the names and the contents of all Python files of a folder."""
    root = pathlib.Path(folder)
    paths = sorted(root.rglob("*.py"))
    names = [path.relative_to(root).as_posix() for path in paths]
    return of_json([names, [of_file(path) for path in paths]])


def of_bytes(data: bytes) -> str:
    """The fingerprint of some bytes."""
    return hashlib.sha256(data).hexdigest()
