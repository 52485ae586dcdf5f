"""Trying an operation on a bucket again, for a limited time."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import google.api_core.exceptions
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from tqdm import tqdm

from simclr_jax.storage.errors import (
    BucketDenied,
    BucketError,
    BucketUnavailable,
    Meaning,
    ObjectMissing,
    meaning,
    no_bucket,
    reason,
)

PATIENCE = "SIMCLR_JAX_STORAGE_PATIENCE"  # the environment variable, in seconds
DEFAULT_PATIENCE = 600.0
SOON = 3.0  # seconds of failures before they are told
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds between two tries, drawn at random

CLIENT = (google.api_core.exceptions.GoogleAPICallError, GoogleAuthError)
SLOW = 30.0  # seconds after which somebody who waits is told for what

T = TypeVar("T")


def patience() -> float:
    """For how many seconds a failing operation is tried.

    Raises:
      ValueError: the environment variable is no number above 0.
    """
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text or DEFAULT_PATIENCE)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{PATIENCE}={text}: wants a number of seconds above 0.")
    return seconds


def say(text: str) -> None:
    """A line on stderr, above a progress bar."""
    tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def said_if_slow(what: str, after: float = SLOW):
    """Says after some seconds, and then twice a minute, that `what` still goes on."""
    end, began = threading.Event(), time.monotonic()

    def tell():
        pause = after
        while not end.wait(pause):
            pause = SLOW
            say(f"Still {what}, for {time.monotonic() - began:.0f} s ...")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        end.set()


class Outage:
    """Says once that a storage does not answer, and once that it does again.

    Many threads may fail at the same time; they share one. What passes within `SOON`
    is not worth a line.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._failing: dict[object, float] = {}  # calls, and since when
        self._since: float | None = None  # when what was said began

    def note(self, call: object, error: BucketError, seconds: float) -> None:
        """`call` has failed once more; it is tried for up to so many seconds."""
        now = time.monotonic()
        with self._lock:
            began = self._failing.setdefault(call, now)
            if self._since is None and now - began >= SOON:
                self._since = began
                say(f"{error}; trying again, for up to {seconds:.0f} s.")

    def end(self, call: object, *, solved: bool) -> None:
        """`call` is not tried any more."""
        with self._lock:
            self._failing.pop(call, None)
            if self._since is None or self._failing:
                return
            if solved:
                took = time.monotonic() - self._since
                say(f"The storage answers again, after {took:.0f} s.")
            self._since = None


OUTAGE = Outage()


def attempt(operation: str, path: str, call: Callable[[], T], *, token=True) -> T:
    """What `call` returns, tried again while its error is one that passes.

    Args:
      operation: what is done to the path, for messages: "read", "written".
      path: on what.
      token: whether credentials that are not accepted are such an error. They may have
        been renewed a moment ago; at the start of a command they are rather wrong.

    Raises:
      BucketUnavailable: it failed for `patience()` seconds.
      BucketDenied: no permission, or no such bucket.
      ObjectMissing: no such object.
      BucketError: the service refuses it for another reason.
    """
    seconds, mine = patience(), object()
    passing = (Meaning.TRANSIENT, Meaning.TOKEN) if token else (Meaning.TRANSIENT,)

    def note(error: Exception) -> None:
        cause = BucketError(operation, path, reason(error))
        OUTAGE.note(mine, cause, seconds)

    retry = Retry(
        predicate=lambda error: meaning(error) in passing,
        initial=FIRST_DELAY,
        maximum=LONGEST_DELAY,
        timeout=seconds,
        on_error=note,
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
        solved = meaning(error) is Meaning.MISSING
        ours = translated(operation, path, error)
        if ours is error:
            raise
        raise ours from error
    finally:
        OUTAGE.end(mine, solved=solved)


def translated(operation: str, path: str, error: Exception) -> Exception:
    """The error as one of ours, where it is one of a storage."""
    what, why = meaning(error), reason(error)
    if what is Meaning.MISSING and not no_bucket(error):
        return ObjectMissing(operation, path, why)
    if what in (Meaning.DENIED, Meaning.TOKEN, Meaning.MISSING):
        return BucketDenied(operation, path, why)
    if isinstance(error, CLIENT):
        return BucketError(operation, path, why)
    return error
