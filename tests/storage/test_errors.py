"""Categories and descriptions of the errors of the three clients."""

import google.api_core.exceptions as google
import google.auth.exceptions as auth
import pytest
import requests.exceptions as connection
import tensorflow as tf

from simclr_jax.storage.errors import (
    BucketDenied,
    BucketError,
    BucketUnavailable,
    Category,
    ObjectMissing,
    classify,
    reason,
)

T, TOKEN, DENIED, MISSING, OTHER = Category
BODY = "[http_response_code='{0}'] [http_response_body='{{\\\"code\\\": {0}}}']"


def tensorstore(text, status):
    """An error as TensorStore 0.1.86 raises it."""
    return ValueError(f"{text} {BODY.format(status)}")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # google-cloud-storage
        *[(google.from_http_status(s, "x"), T) for s in (408, 429, 500, 502, 503, 504)],
        (google.from_http_status(401, "x"), TOKEN),
        (google.from_http_status(403, "x"), DENIED),
        (google.from_http_status(404, "x"), MISSING),
        (google.from_http_status(412, "x"), OTHER),
        (google.from_http_status(400, "x"), OTHER),
        (google.RetryError("too late", None), T),
        (connection.ConnectionError("reset by peer"), T),
        (connection.ReadTimeout("60 s"), T),
        (connection.ChunkedEncodingError("cut off"), T),
        (connection.SSLError("bad record"), T),
        (auth.TransportError("metadata server"), T),
        (auth.RefreshError("no such account"), TOKEN),
        (auth.RefreshError("busy", retryable=True), T),
        (auth.DefaultCredentialsError("none"), TOKEN),
        # TensorStore
        (tensorstore("ABORTED: All 32 retry attempts failed: Unavailable", 503), T),
        (tensorstore("ABORTED: All 32 retry attempts failed: Too Many", 429), T),
        (tensorstore("PERMISSION_DENIED: Unauthorized", 401), TOKEN),
        (tensorstore("PERMISSION_DENIED: Forbidden", 403), DENIED),
        (tensorstore("NOT_FOUND: no such bucket", 404), MISSING),
        (ValueError("ABORTED: All 4 retry attempts failed: CURL error [56]"), T),
        (ValueError("UNAVAILABLE: Connection reset"), T),
        (ValueError("DEADLINE_EXCEEDED: 60 s"), T),
        (ValueError("NOT_FOUND: Metadata key not present"), MISSING),
        # TensorFlow
        (tf.errors.UnavailableError(None, None, "x"), T),
        (tf.errors.DeadlineExceededError(None, None, "x"), T),
        (tf.errors.AbortedError(None, None, "All 10 retry attempts failed"), T),
        (tf.errors.PermissionDeniedError(None, None, "HTTP response code 401"), TOKEN),
        (tf.errors.PermissionDeniedError(None, None, "HTTP response code 403"), DENIED),
        (tf.errors.UnauthenticatedError(None, None, "x"), TOKEN),
        (tf.errors.NotFoundError(None, None, "x"), MISSING),
        (tf.errors.InvalidArgumentError(None, None, "no JPEG"), OTHER),
        # Built-in errors, and errors without a storage
        (ConnectionResetError("x"), T),
        (TimeoutError("x"), T),
        (OSError(28, "No space left on device"), OTHER),
        (ValueError("the shapes differ"), OTHER),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), OTHER),  # of a device
        (KeyError("x"), OTHER),
        # This package
        (BucketUnavailable("read", "gs://b/x", "503"), T),
        (BucketDenied("read", "gs://b/x", "403"), DENIED),
        (ObjectMissing("read", "gs://b/x", "404"), MISSING),
    ],
    ids=lambda x: str(x)[:40],
)
def test_category_of_an_error_and_of_its_cause(error, expected):
    assert classify(error) is expected
    outer = RuntimeError("a checkpoint failed")
    outer.__cause__ = error
    assert classify(outer) is expected


def test_reasons_are_short():
    denied = (
        "GET https://storage.googleapis.com/...: me@x.iam does not have "
        "storage.objects.get access to the Google Cloud Storage object."
    )
    forbidden = google.from_http_status(403, denied)
    assert reason(forbidden) == "403 Forbidden, storage.objects.get is missing"
    gone = google.from_http_status(404, "The specified bucket does not exist.")
    assert reason(gone) == "there is no such bucket"
    stored = tensorstore("PERMISSION_DENIED: Unauthorized (injected)", 401)
    assert reason(stored) == "401 Unauthorized"
    assert reason(ConnectionResetError("Connection\n reset")) == "Connection reset"
    assert reason(ValueError()) == "ValueError"


def test_bucket_errors_name_operation_path_and_reason():
    error = BucketDenied("written", "gs://b/x", "403 Forbidden")
    assert str(error) == "gs://b/x could not be written: 403 Forbidden"
    assert isinstance(error, BucketError)
    assert isinstance(error, PermissionError)
