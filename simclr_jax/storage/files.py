"""One small interface to local files and to files in a bucket."""

import os
import pathlib
import uuid
import weakref
from collections.abc import Sequence
from typing import Protocol

from simclr_jax.storage import bucket
from simclr_jax.storage.bucket import Stat
from simclr_jax.storage.paths import in_bucket

DESCRIPTORS = 512  # open files per source; a common limit per process is 1,024


class Storage(Protocol):
    """Reads and writes files; can be used by several threads.

    Attributes:
      remote: whether the latency of a request exceeds the time to read many bytes.
    """

    remote: bool

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a file from `offset`; fewer at its end."""
        ...

    def read_all(self, path: str) -> bytes:
        """All bytes of a file."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Writes a file atomically, and creates its folder where needed."""
        ...

    def stats(self, paths: Sequence[str]) -> list[Stat]:
        """Metadata of files; a folder in a bucket is listed once.

        Raises:
          FileNotFoundError: one of them does not exist.
        """
        ...

    def is_dir(self, path: str) -> bool:
        """Whether the path is a folder."""
        ...

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of the folders and of the files in a folder; follows links."""
        ...


def storage_of(path: str) -> Storage:
    """The storage of an absolute path."""
    return Bucket() if in_bucket(path) else Disk()


class Disk:
    """Local files, read by position."""

    remote = False

    def __init__(self):
        self._open: dict[str, int] = {}
        weakref.finalize(self, _close, self._open)

    def read(self, path: str, offset: int, length: int) -> bytes:
        fd = self._open.get(path)
        if fd is not None:
            return os.pread(fd, length, offset)
        fd = os.open(path, os.O_RDONLY)
        if len(self._open) < DESCRIPTORS and self._open.setdefault(path, fd) == fd:
            return os.pread(fd, length, offset)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def read_all(self, path: str) -> bytes:
        return pathlib.Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        scratch = f"{path}.{uuid.uuid4().hex}"
        try:
            pathlib.Path(scratch).write_bytes(data)
            os.replace(scratch, path)
        finally:
            pathlib.Path(scratch).unlink(missing_ok=True)

    def stats(self, paths: Sequence[str]) -> list[Stat]:
        return [Stat(x.st_size, x.st_mtime_ns) for x in map(os.stat, paths)]

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        with os.scandir(path) as iterator:
            entries = [(entry.name, entry.is_dir()) for entry in iterator]
        folders = sorted(name for name, is_dir in entries if is_dir)
        return folders, sorted(name for name, is_dir in entries if not is_dir)


class Bucket:
    """Objects under gs://."""

    remote = True

    def read(self, path: str, offset: int, length: int) -> bytes:
        return bucket.read(path, offset, length)

    def read_all(self, path: str) -> bytes:
        return bucket.read(path)

    def write(self, path: str, data: bytes) -> None:
        bucket.write(path, data)

    def stats(self, paths: Sequence[str]) -> list[Stat]:
        stats: dict[str, Stat] = {}
        for folder in {os.path.dirname(path) for path in paths}:
            objects = bucket.listing(folder)[1]
            stats |= {f"{folder}/{name}": stat for name, stat in objects.items()}
        missing = [path for path in paths if path not in stats]
        if missing:
            raise FileNotFoundError(f"There is no {missing[0]}.")
        return [stats[path] for path in paths]

    def is_dir(self, path: str) -> bool:
        return bucket.is_folder(path)

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        folders, objects = bucket.listing(path)
        return folders, [*objects]


def write(path: str, content: str) -> None:
    """Writes a text file atomically, in UTF-8, and creates its folder where needed."""
    storage_of(path).write(path, content.encode())


def _close(descriptors: dict[str, int]) -> None:
    for fd in descriptors.values():
        os.close(fd)
