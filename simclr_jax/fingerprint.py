"""SHA-256 fingerprints, in hexadecimal, of files and of JSON values."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
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


def of_bytes(data: bytes) -> str:
    """The fingerprint of some bytes."""
    return hashlib.sha256(data).hexdigest()
