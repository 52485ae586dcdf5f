"""`epath.Path("gs://...")` with `storage.bucket`, for Orbax, TFDS and this package.

The default of etils is TensorFlow's file system. It retries a missing bucket without
limit, reports no retries, and keeps using a revoked token. Importing this module
registers the class.
"""

import contextlib
import fnmatch
import io
import os
import pathlib

from etils import epath
from etils.epath import backend, gpath, stat_utils

from simclr_jax.storage import bucket
from simclr_jax.storage.paths import in_bucket


class GcsBackend(backend.Backend):
    """The operations of a file system that epath calls."""

    @contextlib.contextmanager
    def open(self, path, mode):  # pyrefly: ignore[bad-override]
        """A file in memory, written at the end unless an error is raised.

        As in etils, `path.open()` must be used in a with statement.
        """
        path, mode, binary = os.fspath(path), mode.strip("bt"), "b" in mode
        append = mode == "a" and bucket.find(path) is not None
        raw = io.BytesIO(bucket.read(path) if mode == "r" or append else b"")
        raw.seek(0, io.SEEK_END if append else io.SEEK_SET)
        file = raw if binary else io.TextIOWrapper(raw, "utf-8")
        yield file
        if mode != "r":
            file.flush()
            bucket.write(path, raw.getvalue())

    def exists(self, path):
        return bucket.find(os.fspath(path)) is not None

    def isdir(self, path):
        return bucket.is_folder(os.fspath(path))

    def listdir(self, path):
        folders, objects = bucket.listing(os.fspath(path))
        return [*folders, *objects]

    def glob(self, path):
        pattern = os.fspath(path)
        wildcards = [pattern.find(c) for c in "*?[" if c in pattern]
        if not wildcards:
            return [pattern] if self.exists(pattern) else []
        depth = pattern.count("/") + 1
        paths = (
            p.rstrip("/").split("/") for p in bucket.under(pattern[: min(wildcards)])
        )
        matches = {"/".join(parts[:depth]) for parts in paths if len(parts) >= depth}
        return sorted(fnmatch.filter(matches, pattern))

    def walk(self, top, *, top_down=True, on_error=None):
        top = os.fspath(top)
        folders, objects = bucket.listing(top)
        if top_down:
            yield top, folders, [*objects]
        for name in folders:
            yield from self.walk(f"{top}/{name}", top_down=top_down)
        if not top_down:
            yield top, folders, [*objects]

    def makedirs(self, path, *, exist_ok=False, mode=None):
        self.mkdir(path, exist_ok=exist_ok)

    def mkdir(self, path, *, exist_ok=False, mode=None):
        if not exist_ok and self.exists(path):
            raise FileExistsError(f"{os.fspath(path)} exists already.")
        bucket.make_folder(os.fspath(path))

    def rmtree(self, path):
        if not bucket.remove_folder(os.fspath(path)):
            raise FileNotFoundError(f"There is no folder {os.fspath(path)}.")

    def remove(self, path):
        if not bucket.remove(os.fspath(path)):
            raise FileNotFoundError(f"There is no {os.fspath(path)}.")

    def rename(self, path, dst):
        if epath.Path(dst).exists():
            raise FileExistsError(f"{os.fspath(dst)} exists already.")
        self.replace(path, dst)

    def replace(self, path, dst):
        path, dst = os.fspath(path), os.fspath(dst)
        if not bucket.is_folder(path):
            self.copy(path, dst, overwrite=True)
            bucket.remove(path)
            return
        if not in_bucket(dst):
            raise ValueError(f"{path} is a folder; it cannot be moved to {dst}.")
        names = [*bucket.under(f"{path}/")]
        bucket.map_concurrently(
            lambda p: bucket.copy(p, dst + p.removeprefix(path)), names
        )
        bucket.map_concurrently(bucket.remove, names)

    def copy(self, path, dst, overwrite):
        path, dst = os.fspath(path), os.fspath(dst)
        if not overwrite and epath.Path(dst).exists():
            raise FileExistsError(f"{dst} exists already.")
        if in_bucket(dst):
            bucket.copy(path, dst)
        else:
            pathlib.Path(dst).write_bytes(bucket.read(path))

    def stat(self, path):
        stat = bucket.find(os.fspath(path))
        if stat is None:
            raise FileNotFoundError(f"There is no {os.fspath(path)}.")
        return stat_utils.StatResult(
            is_directory=stat.is_folder,
            length=stat.size,
            mtime=stat.version // 1_000_000,
            owner=None,
            group=None,
            mode=None,
        )


BACKEND = GcsBackend()


@epath.register_path_cls(("gs://",))
class GcsPath(gpath.PosixGPath):
    """A path that starts with gs://."""

    @property
    def _backend(self):
        # A local path derived from one in a bucket uses the local file system.
        return BACKEND if self._uri_scheme == "gs" else super()._backend
