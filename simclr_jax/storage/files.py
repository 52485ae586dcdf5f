"""Where files lie, this machine's disks or a bucket; one small interface to both."""

import os
import pathlib
import uuid
import weakref
from typing import Protocol

from simclr_jax.storage import bucket
from simclr_jax.storage.bucket import Stat
from simclr_jax.storage.paths import in_bucket

DESCRIPTORS = 512  # files kept open by one source; a process may often open 1,024


class Storage(Protocol):
    """What reads data sets; safe from many threads.

    Attributes:
      remote: whether a request costs more than many bytes.
    """

    remote: bool

    def read(self, path: str, offset: int, length: int) -> bytes:
        """The `length` bytes of a file from `offset`; fewer where the file ends."""
        ...

    def read_all(self, path: str) -> bytes: ...

    def write(self, path: str, data: bytes) -> None:
        """Writes a file in one piece: readers see all of it or nothing."""
        ...

    def stats(self, paths) -> list[Stat]:
        """What is known of files, for which a folder of a bucket is asked once.

        Raises:
          FileNotFoundError: one of them is not there.
        """
        ...

    def is_dir(self, path: str) -> bool: ...

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of the folders and of the files in a folder, links followed."""
        ...


def storage_of(path: str) -> Storage:
    """The storage that a whole path belongs to."""
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

    def stats(self, paths) -> list[Stat]:
        every = map(os.stat, paths)
        return [Stat(status.st_size, status.st_mtime_ns) for status in every]

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        with os.scandir(path) as found:
            kinds = [(e.name, e.is_dir()) for e in found]
        folders = sorted(name for name, folder in kinds if folder)
        return folders, sorted(name for name, folder in kinds if not folder)


class Bucket:
    """Objects under gs://."""

    remote = True

    def read(self, path: str, offset: int, length: int) -> bytes:
        return bucket.read(path, offset, length)

    def read_all(self, path: str) -> bytes:
        return bucket.read(path)

    def write(self, path: str, data: bytes) -> None:
        bucket.write(path, data)

    def stats(self, paths) -> list[Stat]:
        known: dict[str, Stat] = {}
        for folder in {os.path.dirname(path) for path in paths}:
            objects = bucket.listing(folder)[1]
            known |= {f"{folder}/{name}": stat for name, stat in objects.items()}
        missing = [path for path in paths if path not in known]
        if missing:
            raise FileNotFoundError(f"There is no {missing[0]}.")
        return [known[path] for path in paths]

    def is_dir(self, path: str) -> bool:
        return bucket.is_folder(path)

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        folders, objects = bucket.listing(path)
        return folders, [*objects]


def write(path: str, content: str) -> None:
    """Writes a text file in one piece, and the folder it is in, where needed."""
    storage_of(path).write(path, content.encode())


def _close(descriptors):
    for fd in descriptors.values():
        os.close(fd)
