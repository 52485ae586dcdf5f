"""Checks, before a command starts, that the folders it needs are accessible."""

import importlib.util
import os
import re
import uuid

from simclr_jax.storage import client
from simclr_jax.storage.errors import BucketDenied
from simclr_jax.storage.paths import BUCKET, in_bucket, split
from simclr_jax.storage.retry import retry_seconds, with_retries

# Digits, lower-case letters, - _ and . (cloud.google.com/storage/docs/buckets).
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._\-]{1,220}[a-z0-9]")
HIERARCHY = "google.cloud.storage_control_v2"  # Orbax removes folders with it
LOGIN = "this machine has no credentials: gcloud auth application-default login"


def check_folder(path: str, *, write: bool = False) -> None:
    """Checks that a folder can be read, or written to; it need not exist.

    In a bucket, writing includes the operations of a run: read, list, create and remove
    objects, and read the metadata of the bucket, as Orbax does.

    Args:
      path: an absolute path; "" is not checked.
      write: whether the folder is to be written to.

    Raises:
      ValueError: it is a file, or the name of the bucket is invalid.
      BucketDenied: there is no such bucket, or a permission is missing.
      BucketUnavailable: the storage did not respond until the retries timed out.
    """
    retry_seconds()  # raises if its environment variable is invalid
    if in_bucket(path):
        _check_in_bucket(path, write)
    elif os.path.isfile(path):
        raise ValueError(f"{path} is a file, not a folder.")


def _check_in_bucket(path: str, write: bool) -> None:
    name = split(path)[0]
    if not BUCKET_NAME.fullmatch(name):
        raise ValueError(f"{path}: {name!r} is not a valid name of a bucket.")

    def probe() -> None:
        blobs = client.client().list_blobs(
            split(path)[0], prefix=split(path)[1], max_results=1, **client.ONCE
        )
        if any(blob.name == split(path)[1] for blob in blobs):
            raise ValueError(f"{path} is an object, not a folder.")
        if write:
            trial = client.blob(f"{path}/.writable-{uuid.uuid4().hex}")
            trial.upload_from_string(b"", **client.ONCE)
            trial.reload(**client.ONCE)
            trial.delete(**client.ONCE)

    try:
        with_retries("opened", path, probe, token=False)
        if write:
            _check_namespace(name)
    except BucketDenied as error:
        if not client.anonymous():
            raise
        reason = f"{error.reason}; {LOGIN}"
        raise BucketDenied(error.operation, path, reason) from error


def _check_namespace(name: str) -> None:
    hierarchical = client.get_bucket(name).hierarchical_namespace_enabled
    if hierarchical and not importlib.util.find_spec(HIERARCHY):
        raise ValueError(
            f"{BUCKET}{name} has a hierarchical namespace; to remove its folders, "
            "Orbax needs: pip install google-cloud-storage-control."
        )
