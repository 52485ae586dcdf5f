"""The files of a foreign checkpoint: a local copy and their fingerprint."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from simclr_jax import fingerprint
from simclr_jax.storage import bucket
from simclr_jax.storage.paths import in_bucket

PACKED = (".zip", ".tgz", ".gz")


def check_unpacked(source: str) -> None:
    """Checks that a source is not an archive.

    Raises:
      ValueError: its suffix is that of an archive.
    """
    if pathlib.Path(source).suffix in PACKED:
        raise ValueError(f"--source={source}: unpack it and give its content.")


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[str]:
    """The path of a source on this machine, copied there if it is in a bucket.

    Raises:
      ValueError: there is nothing in the bucket under this name.
    """
    if not in_bucket(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="simclr_jax_import_") as folder:
        name = source.rpartition("/")[2]
        if not bucket.download(source, pathlib.Path(folder)):
            raise ValueError(f"--source={source}: there is no such file or folder.")
        yield f"{folder}/{name}"


def sha256(source: str) -> str:
    """The fingerprint of a local file, or of all files of a folder or a prefix."""
    path = pathlib.Path(source)
    if path.is_dir():
        return fingerprint.of_files(sorted(p for p in path.rglob("*") if p.is_file()))
    if path.is_file():
        return fingerprint.of_file(path)
    return fingerprint.of_files(sorted(path.parent.glob(f"{path.name}.*")))
