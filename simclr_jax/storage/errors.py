"""What an error of a storage means, whichever client raised it.

Three clients reach buckets: google-cloud-storage, for all that this package does
itself; TensorStore, for the arrays of checkpoints and for pictures; and TensorFlow,
where TFDS prepares a data set in a bucket. TensorStore's errors are ValueErrors whose
text says their status.
"""

import enum
import http
import re
import socket
import ssl

import google.api_core.exceptions
import google.auth.exceptions
from requests import exceptions as connection


class Meaning(enum.Enum):
    """What an error says about the next try."""

    TRANSIENT = "passes by itself"  # 408, 429, 5xx, resets, timeouts
    TOKEN = "the credentials were not accepted"  # 401
    DENIED = "no permission"  # 403
    MISSING = "not there"  # 404: the object, or the whole bucket
    OTHER = "nothing of a storage"


class BucketError(OSError):
    """An operation on a bucket failed; says which, on what, and why."""

    def __init__(self, operation: str, path: str, reason: str):
        super().__init__(f"{path} could not be {operation}: {reason}")
        self.operation, self.path, self.reason = operation, path, reason


class BucketUnavailable(BucketError):
    """It failed for as long as it was to be tried; another time it may not."""


class BucketDenied(BucketError, PermissionError):
    """Permission or credentials are missing, or the bucket is not there."""


class ObjectMissing(BucketError, FileNotFoundError):
    """There is no such object."""


# What HTTP and the codes of TensorFlow and TensorStore say.
STATUS = {
    401: Meaning.TOKEN,
    403: Meaning.DENIED,
    404: Meaning.MISSING,
    **dict.fromkeys((408, 429, 500, 502, 503, 504), Meaning.TRANSIENT),
}
CODES = {
    "UNAUTHENTICATED": Meaning.TOKEN,
    "PERMISSION_DENIED": Meaning.DENIED,
    "NOT_FOUND": Meaning.MISSING,
    **dict.fromkeys(
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED"),
        Meaning.TRANSIENT,
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
    connection.ConnectionError,  # which SSLError is one of
    connection.Timeout,
    connection.ChunkedEncodingError,
    google.auth.exceptions.TransportError,
    google.api_core.exceptions.RetryError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
)


def meaning(error: BaseException) -> Meaning:
    """What an error of a client says, or the one that it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        found = _meaning(seen)
        if found is not Meaning.OTHER:
            return found
        seen = seen.__cause__
    return Meaning.OTHER


def _meaning(error: BaseException) -> Meaning:
    if isinstance(error, BucketUnavailable):
        return Meaning.TRANSIENT
    if isinstance(error, ObjectMissing):
        return Meaning.MISSING
    if isinstance(error, BucketDenied):
        return Meaning.DENIED
    if isinstance(error, google.api_core.exceptions.GoogleAPICallError):
        return STATUS.get(error.code or 0, Meaning.OTHER)
    if isinstance(error, google.auth.exceptions.RefreshError):
        return Meaning.TRANSIENT if error.retryable else Meaning.TOKEN
    if isinstance(error, google.auth.exceptions.DefaultCredentialsError):
        return Meaning.TOKEN
    if isinstance(error, NETWORK):
        return Meaning.TRANSIENT
    code = TENSORFLOW.get(getattr(error, "error_code", None) or 0)
    if code or isinstance(error, ValueError | OSError):
        return _by_text(str(error), code)
    return Meaning.OTHER


def _by_text(text: str, code: str | None) -> Meaning:
    """The meaning of an error that says its status in words; the HTTP one is exact."""
    status = HTTP.search(text)
    if status and int(status[1]) in STATUS:
        return STATUS[int(status[1])]
    match = CODE.search(text)
    code = code or (match[1] if match else None)
    return CODES[code] if code else Meaning.OTHER


def no_bucket(error: BaseException) -> bool:
    """Whether the bucket itself is not there."""
    return "bucket does not exist" in str(error)


def reason(error: BaseException) -> str:
    """The error in a few words, without the body that the service sent."""
    if no_bucket(error):
        return "there is no such bucket"
    text = " ".join(str(error).split())
    caused = CAUSE.search(text)
    if caused and isinstance(error, connection.RequestException):
        return caused[1]
    status = getattr(error, "code", None) or HTTP.search(text)
    status = int(status[1]) if isinstance(status, re.Match) else status
    if status in STATUS:
        permission = PERMISSION.search(text)
        missing = f", {permission[0]} is missing" if permission else ""
        return f"{status} {http.HTTPStatus(status).phrase}{missing}"
    if isinstance(error, google.api_core.exceptions.GoogleAPICallError) and error.code:
        said = " ".join(error.message.split())
        return f"{error.code:d} {http.HTTPStatus(error.code).phrase}: {said[-200:]}"
    return BODY.sub("", text)[:300] or type(error).__name__
