"""Classes of storage errors, and the classification of errors of all clients.

Three clients access buckets: google-cloud-storage, for the operations of this package;
TensorStore, for the arrays of checkpoints and for pictures; and TensorFlow, where TFDS
prepares a data set in a bucket. TensorStore raises ValueErrors whose text contains the
status.
"""

import enum
import http
import re
import socket
import ssl

import google.api_core.exceptions
import google.auth.exceptions
from requests import exceptions as connection


class Category(enum.Enum):
    """What an error implies for a retry."""

    TRANSIENT = "temporary"  # 408, 429, 5xx, resets, timeouts
    TOKEN = "credentials not accepted"  # 401
    DENIED = "no permission"  # 403
    MISSING = "not found"  # 404: the object or the bucket
    OTHER = "not a storage error"


class BucketError(OSError):
    """An operation on a path in a bucket failed, for this reason."""

    def __init__(self, operation: str, path: str, reason: str):
        super().__init__(f"{path} could not be {operation}: {reason}")
        self.operation, self.path, self.reason = operation, path, reason


class BucketUnavailable(BucketError):
    """The operation failed until its retries timed out; a later try may succeed."""


class BucketDenied(BucketError, PermissionError):
    """Permission or credentials are missing, or the bucket does not exist."""


class ObjectMissing(BucketError, FileNotFoundError):
    """The object does not exist."""


# By HTTP status, and by the codes of TensorFlow and TensorStore.
STATUS = {
    401: Category.TOKEN,
    403: Category.DENIED,
    404: Category.MISSING,
    **dict.fromkeys((408, 429, 500, 502, 503, 504), Category.TRANSIENT),
}
CODES = {
    "UNAUTHENTICATED": Category.TOKEN,
    "PERMISSION_DENIED": Category.DENIED,
    "NOT_FOUND": Category.MISSING,
    **dict.fromkeys(
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED"),
        Category.TRANSIENT,
    ),
}
TENSORFLOW = {  # absl's numbers, tf.errors.OpError.error_code
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    10: "ABORTED",
    14: "UNAVAILABLE",
    16: "UNAUTHENTICATED",
}
# TensorStore: "PERMISSION_DENIED: ... [http_response_code='401']", TensorFlow: "...
# HTTP response code 401 ..."
HTTP = re.compile(r"http[ _]response[ _]code[ :='\"]*(\d{3})", re.IGNORECASE)
# requests: "...: Max retries exceeded with url: ... (Caused by X('...: the reason'))"
CAUSE = re.compile(r"\(Caused by .*: ([^:]*?)['\")]*$")
PERMISSION = re.compile(r"storage\.(buckets|objects)\.\w+")
BODY = re.compile(r"\s*\[(http_response_body|tensorstore_spec)=.*?'\](?=\s|$)")
CODE = re.compile(rf"(?<![A-Z_])({'|'.join(CODES)})(?![A-Z_])")

NETWORK = (
    connection.ConnectionError,  # a base class of SSLError
    connection.Timeout,
    connection.ChunkedEncodingError,
    google.auth.exceptions.TransportError,
    google.api_core.exceptions.RetryError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
)


def classify(error: BaseException) -> Category:
    """The category of a client's error, or else of its causes."""
    cause: BaseException | None = error
    while cause is not None:
        category = _classify(cause)
        if category is not Category.OTHER:
            return category
        cause = cause.__cause__
    return Category.OTHER


def _classify(error: BaseException) -> Category:
    if isinstance(error, BucketUnavailable):
        return Category.TRANSIENT
    if isinstance(error, ObjectMissing):
        return Category.MISSING
    if isinstance(error, BucketDenied):
        return Category.DENIED
    if isinstance(error, google.api_core.exceptions.GoogleAPICallError):
        return STATUS.get(error.code or 0, Category.OTHER)
    if isinstance(error, google.auth.exceptions.RefreshError):
        return Category.TRANSIENT if error.retryable else Category.TOKEN
    if isinstance(error, google.auth.exceptions.DefaultCredentialsError):
        return Category.TOKEN
    if isinstance(error, NETWORK):
        return Category.TRANSIENT
    code = TENSORFLOW.get(getattr(error, "error_code", None) or 0)
    if code or isinstance(error, ValueError | OSError):
        return _by_text(str(error), code)
    return Category.OTHER


def _by_text(text: str, code: str | None) -> Category:
    """The category by the HTTP status in a message, else by the less exact code."""
    status = HTTP.search(text)
    if status and int(status[1]) in STATUS:
        return STATUS[int(status[1])]
    match = CODE.search(text)
    code = code or (match[1] if match else None)
    return CODES[code] if code else Category.OTHER


def no_bucket(error: BaseException) -> bool:
    """Whether the bucket itself does not exist."""
    return "bucket does not exist" in str(error)


def reason(error: BaseException) -> str:
    """A short description of an error, without the response's body."""
    if no_bucket(error):
        return "there is no such bucket"
    text = " ".join(str(error).split())
    cause = CAUSE.search(text)
    if cause and isinstance(error, connection.RequestException):
        return cause[1]
    status = getattr(error, "code", None) or HTTP.search(text)
    status = int(status[1]) if isinstance(status, re.Match) else status
    if status in STATUS:
        permission = PERMISSION.search(text)
        missing = f", {permission[0]} is missing" if permission else ""
        return f"{status} {http.HTTPStatus(status).phrase}{missing}"
    if isinstance(error, google.api_core.exceptions.GoogleAPICallError) and error.code:
        message = " ".join(error.message.split())
        return f"{error.code:d} {http.HTTPStatus(error.code).phrase}: {message[-200:]}"
    return BODY.sub("", text)[:300] or type(error).__name__
