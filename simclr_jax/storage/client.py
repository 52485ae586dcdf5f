"""The clients of Google Cloud Storage in this process, and their settings."""

import functools
import os
from typing import Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.transport.requests
import requests.adapters
import tensorstore as ts
from google.cloud import storage

from simclr_jax.storage.paths import BUCKET, split
from simclr_jax.storage.retry import with_retries

THREADS = 16  # concurrent requests where there are many
# Not retried by the client, as `with_retries` does so. Timeouts in seconds: to connect,
# and between two bytes of the response.
ONCE: dict[str, Any] = {"retry": None, "timeout": (10, 60)}
# Few retries: failed reads are repeated by google-cloud-storage, with messages.
TENSORSTORE = {
    "gcs_request_retries": {
        "max_retries": 2,
        "initial_delay": "100ms",
        "max_delay": "1s",
    }
}
# Seconds without a byte after which a transfer is aborted and repeated.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


@functools.cache
def client() -> storage.Client:
    """The client of this process, with the machine's credentials or with none."""
    try:
        credentials, _ = google.auth.default(scopes=storage.Client.SCOPE)
    except google.auth.exceptions.DefaultCredentialsError:
        credentials = google.auth.credentials.AnonymousCredentials()
    session = google.auth.transport.requests.AuthorizedSession(credentials)
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
    result = storage.Client("none", credentials=credentials, _http=session)
    # Otherwise the client requests the bucket's metadata after each missing object.
    result._bucket_metadata_cache = None  # pyrefly: ignore[bad-assignment]
    return result


def anonymous() -> bool:
    """Whether this machine has no credentials: it can read public buckets only."""
    credentials = client()._credentials
    return isinstance(credentials, google.auth.credentials.AnonymousCredentials)


@functools.cache
def kvstore(bucket: str) -> ts.KvStore:
    """A bucket as a TensorStore KvStore, which reads with little processor time."""
    spec = {"driver": "gcs", "bucket": bucket, "context": TENSORSTORE}
    return ts.KvStore.open(spec).result()


@functools.cache
def get_bucket(name: str) -> storage.Bucket:
    """A bucket with its metadata; needs storage.buckets.get.

    Raises:
      BucketDenied, BucketUnavailable.
    """
    path = f"{BUCKET}{name}"
    return with_retries("opened", path, lambda: client().get_bucket(name, **ONCE))


def blob(path: str) -> storage.Blob:
    """The handle of an object; sends no request."""
    bucket, name = split(path)
    return client().bucket(bucket).blob(name)
