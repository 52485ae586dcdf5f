"""Objects of Google Cloud Storage by their gs:// paths, as files and folders.

Bytes are read by TensorStore, which takes a fifth of the processor time of
google-cloud-storage; that does everything else. `retry.with_retries` retries every
operation. A folder exists if it contains an object; an empty folder is an empty object
whose name ends in a slash, as in the console of Cloud Storage.
"""

import concurrent.futures
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import google.api_core.exceptions
from google.cloud import storage

from simclr_jax.storage.client import ONCE, THREADS, blob, client, kvstore
from simclr_jax.storage.errors import no_bucket
from simclr_jax.storage.paths import BUCKET, split
from simclr_jax.storage.retry import with_retries

COMMIT = "commit_success.txt"  # Orbax's mark of a complete checkpoint in a bucket
FIELDS = "items(name,size,generation),prefixes,nextPageToken"  # that a listing requests

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stat(NamedTuple):
    """Metadata of an object or of a folder."""

    size: int = 0  # bytes
    version: int = 0  # time of the last change: microseconds, on disk nanoseconds
    is_folder: bool = False


def _stat(metadata: storage.Blob) -> Stat:
    return Stat(metadata.size or 0, metadata.generation or 0)


# Reading.


def read(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of an object, or `length` of them from `offset`; fewer at its end.

    Raises:
      ObjectMissing, BucketDenied, BucketUnavailable.
    """
    bucket, name = split(path)
    end = None if length is None else offset + length
    try:
        result = kvstore(bucket).read(name, byte_range=slice(offset, end)).result()
    except (ValueError, OSError):
        result = None  # retried below, where errors are translated
    if result is not None and result.state == "value":
        return result.value

    def download() -> bytes:
        last = None if end is None else end - 1
        try:
            return blob(path).download_as_bytes(start=offset, end=last, **ONCE)
        except google.api_core.exceptions.RequestRangeNotSatisfiable:
            return b""

    return with_retries("read", path, download) if length != 0 else b""


def find(path: str) -> Stat | None:
    """The object or folder at a path; None if there is neither.

    Raises:
      BucketDenied, BucketUnavailable.
    """
    lookups = [_find_object, _find_folder]
    if "." not in path.rpartition("/")[2]:  # probably a folder: try that first
        lookups.reverse()
    return lookups[0](path) or lookups[1](path)


def _find_object(path: str) -> Stat | None:
    def get() -> Stat | None:
        bucket, name = split(path)
        metadata = client().bucket(bucket).get_blob(name, **ONCE)
        return _stat(metadata) if metadata else None

    return with_retries("looked up", path, get) if split(path)[1] else None


def _find_folder(path: str) -> Stat | None:
    bucket, name = split(path)
    prefix = f"{name}/" if name else ""

    def probe() -> Stat | None:
        blobs = client().list_blobs(bucket, prefix=prefix, max_results=1, **ONCE)
        return Stat(is_folder=True) if any(True for _ in blobs) or not name else None

    return with_retries("listed", path, probe)


def is_folder(path: str) -> bool:
    """Whether a folder exists, possibly empty."""
    return _find_folder(path) is not None


def listing(path: str) -> tuple[list[str], dict[str, Stat]]:
    """Lists a folder: sorted names of its folders, and its objects by name.

    Raises:
      FileNotFoundError: there is no such folder.
      BucketDenied, BucketUnavailable.
    """
    bucket, name = split(path)
    prefix = f"{name}/" if name else ""

    def request() -> tuple[dict[str, Stat], set[str]]:
        prefixes: set[str] = set()
        blobs = client().list_blobs(
            bucket, prefix=prefix, delimiter="/", fields=FIELDS, **ONCE
        )
        objects: dict[str, Stat] = {}
        for page in blobs.pages:
            prefixes |= set(page.prefixes)
            objects |= {b.name: _stat(b) for b in page}
        return objects, prefixes

    objects, prefixes = with_retries("listed", path, request)
    if name and not objects and not prefixes:
        raise FileNotFoundError(f"There is no folder {path}.")
    folders = sorted({p.removeprefix(prefix).rstrip("/") for p in prefixes} - {""})
    objects.pop(prefix, None)  # the folder itself
    return folders, {k.removeprefix(prefix): x for k, x in sorted(objects.items())}


def under(path: str) -> dict[str, Stat]:
    """All objects whose path begins with `path`, by path, sorted."""
    bucket, prefix = split(path)

    def request() -> dict[str, Stat]:
        blobs = client().list_blobs(bucket, prefix=prefix, fields=FIELDS, **ONCE)
        return {f"{BUCKET}{bucket}/{b.name}": _stat(b) for b in blobs}

    return with_retries("listed", path, request)


# Writing. All operations are idempotent, so that they can be repeated.


def write(path: str, data: bytes | str, *, only_new: bool = False) -> None:
    """Writes an object atomically: readers see the whole old or new content.

    Args:
      only_new: whether to leave an existing object unchanged.

    Raises:
      BucketDenied, BucketUnavailable.
    """

    def upload() -> None:
        try:
            blob(path).upload_from_string(
                data,
                "application/octet-stream",
                if_generation_match=0 if only_new else None,
                **ONCE,
            )
        except google.api_core.exceptions.PreconditionFailed:
            if not only_new:
                raise

    with_retries("written", path, upload)


def make_folder(path: str) -> None:
    """Creates an empty object for a folder, unless it exists."""
    write(f"{path}/", b"", only_new=True)


def append(path: str, data: bytes, offset: int) -> None:
    """Appends bytes to an object of `offset` bytes, without uploading those again.

    Raises:
      ValueError: the object has another size.
    """
    part = blob(f"{path}.part")
    write(f"{path}.part", data)

    def compose() -> None:
        before = blob(path)
        before.reload(**ONCE)
        if before.size == offset + len(data):
            return  # an earlier try succeeded, but its response was lost
        if before.size != offset:
            raise ValueError(f"{path} has {before.size} bytes, not {offset}.")
        blob(path).compose(  # a new handle, without the checksums of `before`
            [blob(path), part],
            if_generation_match=before.generation,
            **ONCE,
        )

    with_retries("written", path, compose)
    remove(f"{path}.part")


def copy(path: str, target: str) -> None:
    """Copies an object to another path in a bucket, inside the service."""

    def rewrite() -> None:
        old, new, token = blob(path), blob(target), None
        while True:
            token, _, _ = new.rewrite(old, token=token, **ONCE)
            if token is None:
                return

    with_retries("copied", path, rewrite)


def remove(path: str) -> bool:
    """Removes an object; returns whether it existed."""

    def delete() -> bool:
        try:
            blob(path).delete(**ONCE)
        except google.api_core.exceptions.NotFound as error:
            if no_bucket(error):
                raise
            return False
        return True

    return with_retries("removed", path, delete)


def remove_folder(path: str) -> bool:
    """Removes all objects in a folder; returns whether there were any.

    Marks of complete checkpoints are removed first, so that a partial checkpoint is
    never taken for a complete one.
    """
    names = [*under(f"{path}/")]
    marks = [name for name in sorted(names, key=len) if name.endswith(f"/{COMMIT}")]
    for name in marks:
        remove(name)
    map_concurrently(remove, set(names) - set(marks))
    return bool(names)


def map_concurrently(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> list[Result]:
    """Applies a function to all items, in `THREADS` threads; results in order."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


# From and to the local disk.


def download(path: str, folder: pathlib.Path) -> int:
    """Copies the object or folder at a path, and all PATH.*, into a local folder.

    The last part of the path becomes the local name. PATH.* are the files of a
    TensorFlow checkpoint.

    Returns:
      the number of files.
    """
    parent = path.rpartition("/")[0]
    selected = re.compile(re.escape(path) + r"([/.].*)?", re.DOTALL)
    names = [name for name in under(path) if selected.fullmatch(name)]
    names = [name for name in names if name[-1] != "/" and ".." not in name.split("/")]

    def fetch(name: str) -> None:
        file = folder / name.removeprefix(f"{parent}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(read(name))

    map_concurrently(fetch, names)
    return len(names)


def upload(source: pathlib.Path, path: str) -> None:
    """Copies a local file or folder to a path in a bucket."""

    def send(file: pathlib.Path) -> None:
        name = f"{path}/{file.relative_to(source)}" if file != source else path
        new = blob(name)
        with_retries(  # streams: a file may be larger than the memory
            "written", name, lambda: new.upload_from_filename(str(file), **ONCE)
        )

    if source.is_file():
        send(source)
    else:
        map_concurrently(
            send, [file for file in sorted(source.rglob("*")) if file.is_file()]
        )
