"""Retries of operations on a bucket, for a limited time, and messages about them."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import google.api_core.exceptions
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from tqdm import tqdm

from simclr_jax.storage.errors import (
    BucketDenied,
    BucketError,
    BucketUnavailable,
    Category,
    ObjectMissing,
    classify,
    no_bucket,
    reason,
)

PATIENCE = "SIMCLR_JAX_STORAGE_PATIENCE"  # the environment variable, in seconds
DEFAULT_PATIENCE = 600.0
REPORT_AFTER = 3.0  # seconds of failures before the first message
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds between two tries, randomised

CLIENT = (google.api_core.exceptions.GoogleAPICallError, GoogleAuthError)
SLOW = 30.0  # seconds between messages about an operation that is still running

T = TypeVar("T")


def retry_seconds() -> float:
    """How long a failing operation is retried, in seconds.

    Raises:
      ValueError: the environment variable is not a number above 0.
    """
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text or DEFAULT_PATIENCE)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{PATIENCE}={text}: expected a number of seconds above 0.")
    return seconds


def say(text: str) -> None:
    """Prints a line on stderr, above a progress bar."""
    tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def report_if_slow(activity: str, after: float = SLOW) -> Iterator[None]:
    """Prints after some seconds, then every `SLOW`, that the body is still running.

    Args:
      activity: what the body does, for the message: "reading checkpoint 3".
      after: seconds before the first message.
    """
    end, start = threading.Event(), time.monotonic()

    def report() -> None:
        pause = after
        while not end.wait(pause):
            pause = SLOW
            say(f"Still {activity}, for {time.monotonic() - start:.0f} s ...")

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        end.set()


class OutageReporter:
    """Prints one message when the storage stops responding and one when it recovers.

    All threads share one reporter. Failures shorter than `REPORT_AFTER` seconds are not
    reported.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._failing: dict[object, float] = {}  # call -> time of its first failure
        self._since: float | None = None  # first failure of the reported outage

    def failed(self, call: object, error: BucketError, seconds: float) -> None:
        """Records a failure of `call`, which is retried for up to `seconds`."""
        time_now = time.monotonic()
        with self._lock:
            since = self._failing.setdefault(call, time_now)
            if self._since is None and time_now - since >= REPORT_AFTER:
                self._since = since
                say(f"{error}; trying again, for up to {seconds:.0f} s.")

    def ended(self, call: object, *, solved: bool) -> None:
        """Records that `call` has ended; solved: whether the storage responded."""
        with self._lock:
            self._failing.pop(call, None)
            if self._since is None or self._failing:
                return
            if solved:
                took = time.monotonic() - self._since
                say(f"The storage responds again, after {took:.0f} s.")
            self._since = None


OUTAGES = OutageReporter()


def with_retries(
    operation: str, path: str, call: Callable[[], T], *, token: bool = True
) -> T:
    """Returns the result of `call`, which is repeated after temporary errors.

    Args:
      operation: for messages, a participle: "read", "written".
      path: the path that `call` accesses, for messages.
      token: whether to retry when credentials are not accepted. During a run they may
        just have been renewed; at the start of a command they are wrong.

    Raises:
      BucketUnavailable: it failed for `retry_seconds()` seconds.
      BucketDenied: no permission, or no such bucket.
      ObjectMissing: no such object.
      BucketError: the service rejected it for another reason.
    """
    seconds, call_id = retry_seconds(), object()
    temporary = (Category.TRANSIENT, Category.TOKEN) if token else (Category.TRANSIENT,)

    def failed(error: Exception) -> None:
        cause = BucketError(operation, path, reason(error))
        OUTAGES.failed(call_id, cause, seconds)

    retry = Retry(
        predicate=lambda error: classify(error) in temporary,
        initial=FIRST_DELAY,
        maximum=LONGEST_DELAY,
        timeout=seconds,
        on_error=failed,
    )
    solved = False
    try:
        result = retry(call)()
        solved = True
        return result
    except google.api_core.exceptions.RetryError as error:
        cause = error.cause or error
        raise BucketUnavailable(operation, path, reason(cause)) from cause
    except Exception as error:
        solved = classify(error) is Category.MISSING
        translated = translate(operation, path, error)
        if translated is error:
            raise
        raise translated from error
    finally:
        OUTAGES.ended(call_id, solved=solved)


def translate(operation: str, path: str, error: Exception) -> Exception:
    """A storage client's error as a BucketError; any other error unchanged."""
    category, why = classify(error), reason(error)
    if category is Category.MISSING and not no_bucket(error):
        return ObjectMissing(operation, path, why)
    if category in (Category.DENIED, Category.TOKEN, Category.MISSING):
        return BucketDenied(operation, path, why)
    if isinstance(error, CLIENT):
        return BucketError(operation, path, why)
    return error
