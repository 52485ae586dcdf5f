"""Whether the folders that a command needs can be used, before anything is begun."""

import importlib.util
import os
import re
import uuid

from simclr_jax.storage import bucket
from simclr_jax.storage.errors import BucketDenied
from simclr_jax.storage.paths import BUCKET, in_bucket, split
from simclr_jax.storage.retry import attempt, patience

# Digits, small letters, dash, underscore, dot: cloud.google.com/storage/docs/buckets
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._\-]{1,220}[a-z0-9]")
HIERARCHY = "google.cloud.storage_control_v2"  # with which Orbax removes its folders
LOGIN = "this machine has no credentials: gcloud auth application-default login"


def check_folder(path: str, *, write: bool = False) -> None:
    """Finds out whether a folder can be read, or written to; it need not be there.

    In a bucket, writing means what a run does: read, list, make and remove objects, and
    look at the bucket itself, as Orbax does.

    Args:
      path: a whole path; "" is none.

    Raises:
      ValueError: it is a file, or the bucket cannot have that name.
      BucketDenied: there is no such bucket, or a permission is missing.
      BucketUnavailable: the storage did not answer for as long as it was asked.
    """
    patience()
    if in_bucket(path):
        _check_in_bucket(path, write)
    elif os.path.isfile(path):
        raise ValueError(f"{path} is a file; a folder is wanted.")


def _check_in_bucket(path: str, write: bool) -> None:
    name = split(path)[0]
    if not BUCKET_NAME.fullmatch(name):
        raise ValueError(f"{path}: {name!r} cannot be the name of a bucket.")

    def ask() -> None:
        blobs = bucket.client().list_blobs(
            split(path)[0], prefix=split(path)[1], max_results=1, **bucket.ONCE
        )
        if any(blob.name == split(path)[1] for blob in blobs):
            raise ValueError(f"{path} is an object; a folder is wanted.")
        if write:
            probe = bucket.blob(f"{path}/.writable-{uuid.uuid4().hex}")
            probe.upload_from_string(b"", **bucket.ONCE)
            probe.reload(**bucket.ONCE)
            probe.delete(**bucket.ONCE)

    try:
        attempt("opened", path, ask, token=False)
        if write:
            _check_kind(name)
    except BucketDenied as error:
        if not bucket.anonymous():
            raise
        reason = f"{error.reason}; {LOGIN}"
        raise BucketDenied(error.operation, path, reason) from error


def _check_kind(name: str) -> None:
    found = bucket.get_bucket(name)
    if found.hierarchical_namespace_enabled and not importlib.util.find_spec(HIERARCHY):
        raise ValueError(
            f"{BUCKET}{name} has a hierarchical namespace, whose folders Orbax removes "
            "by a client of their own: pip install google-cloud-storage-control."
        )
