"""Objects of Google Cloud Storage by their gs:// paths, as files and folders.

google-cloud-storage does all but the reading of many bytes, for which TensorStore needs
a fifth of the processor's time. Every operation is tried again as `retry.attempt` says.
A folder is there while an object lies in it; one that is made empty is an empty object
whose name ends in a slash, as the console of Cloud Storage makes them.
"""

import concurrent.futures
import functools
import os
import pathlib
import re
from typing import Any, NamedTuple

import google.api_core.exceptions
import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.transport.requests
import requests.adapters
import tensorstore as ts
from google.cloud import storage

from simclr_jax.storage.errors import no_bucket
from simclr_jax.storage.paths import BUCKET, split
from simclr_jax.storage.retry import attempt

THREADS = 16  # requests at the same time where there are many
# Every request is made once, `attempt` repeats it, and waits for so many seconds to
# connect and for the next byte of an answer.
ONCE: dict[str, Any] = {"retry": None, "timeout": (10, 60)}
# TensorStore's own tries are few: what fails goes the other way, where it is said.
TENSORSTORE = {
    "gcs_request_retries": {
        "max_retries": 2,
        "initial_delay": "100ms",
        "max_delay": "1s",
    }
}
# A transfer without a byte for so long is broken off, and tried again; else it hangs.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
COMMIT = "commit_success.txt"  # by which Orbax knows what is complete in a bucket
FIELDS = "items(name,size,generation),prefixes,nextPageToken"  # of a list


class Stat(NamedTuple):
    """What is known of an object, or of a folder."""

    size: int = 0  # bytes
    version: int = 0  # another one after each change; microseconds of the last one
    is_folder: bool = False


@functools.cache
def client() -> storage.Client:
    """The client of this process, with the machine's credentials or with none."""
    try:
        credentials, _ = google.auth.default(scopes=storage.Client.SCOPE)
    except google.auth.exceptions.DefaultCredentialsError:
        credentials = google.auth.credentials.AnonymousCredentials()
    session = google.auth.transport.requests.AuthorizedSession(credentials)
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
    made = storage.Client("none", credentials=credentials, _http=session)
    # It else asks for the bucket again after each object that is not there.
    made._bucket_metadata_cache = None  # pyrefly: ignore[bad-assignment]
    return made


def anonymous() -> bool:
    """Whether this machine has no credentials: then only public buckets are open."""
    credentials = client()._credentials
    return isinstance(credentials, google.auth.credentials.AnonymousCredentials)


@functools.cache
def _kvstore(bucket: str) -> ts.KvStore:
    spec = {"driver": "gcs", "bucket": bucket, "context": TENSORSTORE}
    return ts.KvStore.open(spec).result()


@functools.cache
def get_bucket(name: str) -> storage.Bucket:
    """A bucket and what kind it is; needs storage.buckets.get."""
    path = f"{BUCKET}{name}"
    return attempt("opened", path, lambda: client().get_bucket(name, **ONCE))


def blob(path: str) -> storage.Blob:
    bucket, name = split(path)
    return client().bucket(bucket).blob(name)


def _stat(found: storage.Blob) -> Stat:
    return Stat(found.size or 0, found.generation or 0)


# Reading.


def read(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of an object, or `length` of them from `offset`; fewer at its end.

    Raises:
      ObjectMissing, BucketDenied, BucketUnavailable.
    """
    bucket, name = split(path)
    end = None if length is None else offset + length
    try:
        result = _kvstore(bucket).read(name, byte_range=slice(offset, end)).result()
    except (ValueError, OSError):
        result = None  # whatever it is: below it is tried again, and has a class
    if result is not None and result.state == "value":
        return result.value

    def download() -> bytes:
        last = None if end is None else end - 1
        try:
            return blob(path).download_as_bytes(start=offset, end=last, **ONCE)
        except google.api_core.exceptions.RequestRangeNotSatisfiable:
            return b""

    return attempt("read", path, download) if length != 0 else b""


def find(path: str) -> Stat | None:
    """What lies at a path, an object or a folder; None if nothing does.

    Raises:
      BucketDenied, BucketUnavailable.
    """
    ways = [_find_object, _find_folder]
    if "." not in path.rpartition("/")[2]:  # rather a folder: one request is enough
        ways.reverse()
    return ways[0](path) or ways[1](path)


def _find_object(path: str) -> Stat | None:
    def get() -> Stat | None:
        bucket, name = split(path)
        found = client().bucket(bucket).get_blob(name, **ONCE)
        return _stat(found) if found else None

    return attempt("looked up", path, get) if split(path)[1] else None


def _find_folder(path: str) -> Stat | None:
    bucket, name = split(path)
    prefix = f"{name}/" if name else ""

    def first() -> Stat | None:
        blobs = client().list_blobs(bucket, prefix=prefix, max_results=1, **ONCE)
        return Stat(is_folder=True) if any(True for _ in blobs) or not name else None

    return attempt("listed", path, first)


def is_folder(path: str) -> bool:
    """Whether something lies in this folder, or it was made."""
    return _find_folder(path) is not None


def listing(path: str) -> tuple[list[str], dict[str, Stat]]:
    """Sorted names of the folders in a folder, and its objects by name.

    Raises:
      FileNotFoundError: there is no such folder.
      BucketDenied, BucketUnavailable.
    """
    bucket, name = split(path)
    prefix = f"{name}/" if name else ""

    def every() -> tuple[dict[str, Stat], set[str]]:
        prefixes: set[str] = set()
        blobs = client().list_blobs(
            bucket, prefix=prefix, delimiter="/", fields=FIELDS, **ONCE
        )
        objects: dict[str, Stat] = {}
        for page in blobs.pages:
            prefixes |= set(page.prefixes)
            objects |= {b.name: _stat(b) for b in page}
        return objects, prefixes

    objects, prefixes = attempt("listed", path, every)
    if name and not objects and not prefixes:
        raise FileNotFoundError(f"There is no folder {path}.")
    folders = sorted({p.removeprefix(prefix).rstrip("/") for p in prefixes} - {""})
    objects.pop(prefix, None)  # the folder itself
    return folders, {k.removeprefix(prefix): x for k, x in sorted(objects.items())}


def under(path: str) -> dict[str, Stat]:
    """All objects whose name begins with a path, by their paths, in order."""
    bucket, prefix = split(path)

    def every():
        blobs = client().list_blobs(bucket, prefix=prefix, fields=FIELDS, **ONCE)
        return {f"{BUCKET}{bucket}/{b.name}": _stat(b) for b in blobs}

    return attempt("listed", path, every)


# Writing. All of it may be done twice without harm.


def write(path: str, data: bytes | str, *, only_new: bool = False) -> None:
    """Makes an object of these bytes; readers see all of it or what was there before.

    only_new: leave what is there as it is.
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

    attempt("written", path, upload)


def make_folder(path: str) -> None:
    """Makes a folder, if only as an empty object; one that is there stays."""
    write(f"{path}/", b"", only_new=True)


def append(path: str, data: bytes, offset: int) -> None:
    """Adds bytes to an object that has `offset` bytes, without sending those again.

    Raises:
      ValueError: it has another size.
    """
    part = blob(f"{path}.part")
    write(f"{path}.part", data)

    def compose() -> None:
        before = blob(path)
        before.reload(**ONCE)
        if before.size == offset + len(data):
            return  # a try before was not in vain
        if before.size != offset:
            raise ValueError(f"{path} has {before.size} bytes, not {offset}.")
        blob(path).compose(  # a fresh one: checksums of before do not hold
            [blob(path), part],
            if_generation_match=before.generation,
            **ONCE,
        )

    attempt("written", path, compose)
    remove(f"{path}.part")


def copy(path: str, to: str) -> None:
    """Copies an object to another path in a bucket, without its bytes coming here."""

    def rewrite() -> None:
        old, new, token = blob(path), blob(to), None
        while True:
            token, _, _ = new.rewrite(old, token=token, **ONCE)
            if token is None:
                return

    attempt("copied", path, rewrite)


def remove(path: str) -> bool:
    """Removes an object; returns whether it was there."""

    def delete() -> bool:
        try:
            blob(path).delete(**ONCE)
        except google.api_core.exceptions.NotFound as error:
            if no_bucket(error):
                raise
            return False
        return True

    return attempt("removed", path, delete)


def remove_folder(path: str) -> bool:
    """Removes all objects in a folder; returns whether there were any.

    Those that mark a checkpoint as complete go first: half of one is none.
    """
    names = [*under(f"{path}/")]
    marks = [name for name in sorted(names, key=len) if name.endswith(f"/{COMMIT}")]
    for name in marks:
        remove(name)
    each(remove, set(names) - set(marks))
    return bool(names)


def each(do, items) -> list:
    """The results of a function for each item, of some at the same time."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(do, items))


# From and to this machine.


def copy_here(path: str, folder: pathlib.Path) -> int:
    """Copies a file, a folder, or all PATH.* into a folder of this machine.

    The last part of the path is the name there. Several files of one name are what
    TensorFlow makes of a checkpoint.

    Returns:
      how many files there were.
    """
    above = path.rpartition("/")[0]
    mine = re.compile(re.escape(path) + r"([/.].*)?", re.DOTALL)
    names = [name for name in under(path) if mine.fullmatch(name)]
    names = [name for name in names if name[-1] != "/" and ".." not in name.split("/")]

    def fetch(name: str) -> None:
        file = folder / name.removeprefix(f"{above}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(read(name))

    each(fetch, names)
    return len(names)


def upload(source: pathlib.Path, path: str) -> None:
    """Copies a file or a folder of this machine to a path in a bucket."""

    def send(file: pathlib.Path) -> None:
        name = f"{path}/{file.relative_to(source)}" if file != source else path
        new = blob(name)  # from the disk: a file may be larger than the memory
        attempt("written", name, lambda: new.upload_from_filename(str(file), **ONCE))

    if source.is_file():
        send(source)
    else:
        each(send, [file for file in sorted(source.rglob("*")) if file.is_file()])
