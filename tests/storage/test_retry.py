"""Trying again: how often, for how long, and what is told of it."""

import itertools
import threading
import time

import google.api_core.exceptions as google
import pytest

from simclr_jax.storage import retry
from simclr_jax.storage.errors import (
    BucketDenied,
    BucketError,
    BucketUnavailable,
    ObjectMissing,
)

UNAVAILABLE = google.from_http_status(503, "x")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(retry, "LONGEST_DELAY", 0.01)
    monkeypatch.setattr(retry, "SOON", 0.0)
    monkeypatch.setattr(retry, "OUTAGE", retry.Outage())


def failing(*errors):
    """A call that raises these, one a time, and then returns how often it was made."""
    calls = itertools.count(1)

    def call():
        number = next(calls)
        if number <= len(errors):
            raise errors[number - 1]
        return number

    return call


def attempt(*errors, **options):
    return retry.attempt("written", "gs://b/x", failing(*errors), **options)


def test_what_passes_is_tried_again_and_told_once(capsys):
    token = google.from_http_status(401, "x")
    assert attempt(UNAVAILABLE, ConnectionResetError(), token) == 4
    begin, end = capsys.readouterr().err.splitlines()
    assert begin == (
        "gs://b/x could not be written: 503 Service Unavailable; trying again, for up "
        "to 600 s."
    )
    assert end == "The storage answers again, after 0 s."


def test_what_passes_soon_is_not_told(capsys, monkeypatch):
    monkeypatch.setattr(retry, "SOON", 60.0)
    assert attempt(UNAVAILABLE, UNAVAILABLE) == 3
    assert capsys.readouterr().err == ""


def test_patience_ends(monkeypatch, capsys):
    monkeypatch.setenv(retry.PATIENCE, "0.2")
    with pytest.raises(BucketUnavailable, match="gs://b/x could not be written: 503"):
        attempt(*[UNAVAILABLE] * 10**6)
    assert "again, after" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_patience_is_a_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv(retry.PATIENCE, text)
    with pytest.raises(ValueError, match=f"{retry.PATIENCE}={text}: wants a number"):
        retry.patience()


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (403, "x", BucketDenied),
        (404, "No such object: b/x", ObjectMissing),
        (404, "The specified bucket does not exist.", BucketDenied),
    ],
)
def test_what_does_not_pass_is_raised_at_once(status, text, kind, capsys):
    with pytest.raises(kind, match="gs://b/x could not be written"):
        attempt(google.from_http_status(status, text), token=False)
    assert capsys.readouterr().err == ""


def test_what_the_service_refuses_for_other_reasons_is_one_of_ours_too():
    refused = google.from_http_status(400, "Bucket is requester pays bucket")
    with pytest.raises(BucketError, match="400 Bad Request: Bucket is requester pays"):
        attempt(refused)


def test_credentials_that_are_wrong_from_the_start():
    with pytest.raises(BucketDenied, match="401 Unauthorized"):
        attempt(google.from_http_status(401, "x"), token=False)


def test_other_errors_are_left_alone():
    with pytest.raises(ValueError, match="another size") as caught:
        attempt(ValueError("another size"))
    assert caught.value.__cause__ is None  # not itself, which would never end


def test_threads_share_an_outage(capsys):
    """However many wait, one line when it begins and one when the last is over."""
    together = threading.Barrier(8)

    def call():
        together.wait()
        return attempt(UNAVAILABLE, UNAVAILABLE)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capsys.readouterr().err.splitlines()
    begins = [line for line in lines if "trying again" in line]
    ends = [line for line in lines if "answers again" in line]
    assert len(begins) == len(ends)
    assert 1 <= len(begins) < 8


def test_who_waits_is_told_for_what(capsys, monkeypatch):
    monkeypatch.setattr(retry, "SLOW", 0.05)
    with retry.said_if_slow("reading checkpoint 3", after=0.01):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert lines[0] == "Still reading checkpoint 3, for 0 s ..."
    with retry.said_if_slow("something quick", after=10):
        pass
    assert capsys.readouterr().err == ""
