"""Where files live: this machine's disks, or a bucket; one small interface to both."""

import os
import pathlib
import uuid
import weakref

from simclr_jax.data.tensorflow import tf

DESCRIPTORS = 512  # files kept open by one source; a process may often open 1,024


def storage_of(path: str):
    """The storage that a path belongs to: a `Bucket` where it has a scheme."""
    return Bucket() if "://" in path else Disk()


class Disk:
    """Local files, read by position from many threads at once."""

    remote = False

    def __init__(self):
        self._open: dict[str, int] = {}
        weakref.finalize(self, _close, self._open)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """The `length` bytes of a file from `offset`; fewer where the file ends."""
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

    def write(self, path: str, data: bytes):
        """Writes a file in one piece: readers see all of it or nothing."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        scratch = f"{path}.{uuid.uuid4().hex}"
        try:
            pathlib.Path(scratch).write_bytes(data)
            os.replace(scratch, path)
        finally:
            pathlib.Path(scratch).unlink(missing_ok=True)

    def stat(self, path: str) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds."""
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of the folders and of the files in a folder, links followed."""
        with os.scandir(path) as found:
            kinds = [(e.name, e.is_dir()) for e in found]
        return _sorted_kinds(kinds)


class Bucket:
    """Files under a scheme such as gs://, through TensorFlow's file systems."""

    remote = True

    def read(self, path: str, offset: int, length: int) -> bytes:
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def read_all(self, path: str) -> bytes:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()

    def write(self, path: str, data: bytes):
        tf.io.gfile.makedirs(os.path.dirname(path))
        scratch = f"{path}.{uuid.uuid4().hex}"
        with tf.io.gfile.GFile(scratch, "wb") as file:
            file.write(data)
        tf.io.gfile.rename(scratch, path, overwrite=True)

    def stat(self, path: str) -> tuple[int, int]:
        status = tf.io.gfile.stat(path)
        return status.length, status.mtime_nsec

    def is_dir(self, path: str) -> bool:
        try:  # gfile.isdir would call a bucket that cannot be reached no folder
            return tf.io.gfile.stat(path).is_directory
        except tf.errors.NotFoundError:
            return False

    def entries(self, path: str) -> tuple[list[str], list[str]]:
        # A bucket marks folders by a slash; to ask for each file would take a request.
        names = tf.io.gfile.listdir(path)
        kinds = [(n.rstrip("/"), self._names_a_folder(path, n)) for n in names]
        return _sorted_kinds(kinds)

    def _names_a_folder(self, path, name):
        if name.endswith("/"):
            return True
        return "." not in name and self.is_dir(f"{path}/{name}")


def _sorted_kinds(kinds):
    folders = sorted(name for name, folder in kinds if folder)
    return folders, sorted(name for name, folder in kinds if not folder)


def _close(descriptors):
    for fd in descriptors.values():
        os.close(fd)
