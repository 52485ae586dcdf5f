"""Retries: which errors, for how long, and the messages about them."""

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
    monkeypatch.setattr(retry, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(retry, "OUTAGES", retry.OutageReporter())


def failing(*errors):
    """A call that raises these errors, one at a time; then returns how many calls."""
    calls = itertools.count(1)

    def call():
        number = next(calls)
        if number <= len(errors):
            raise errors[number - 1]
        return number

    return call


def attempt(*errors, **options):
    return retry.with_retries("written", "gs://b/x", failing(*errors), **options)


def test_temporary_errors_are_retried_and_reported_once(capsys):
    token = google.from_http_status(401, "x")
    assert attempt(UNAVAILABLE, ConnectionResetError(), token) == 4
    begin, end = capsys.readouterr().err.splitlines()
    assert "gs://b/x could not be written: 503 Service Unavailable" in begin
    assert "600 s" in begin
    assert "responds again" in end


def test_short_outages_are_not_reported(capsys, monkeypatch):
    monkeypatch.setattr(retry, "REPORT_AFTER", 60.0)
    assert attempt(UNAVAILABLE, UNAVAILABLE) == 3
    assert capsys.readouterr().err == ""


def test_retries_time_out(monkeypatch, capsys):
    monkeypatch.setenv(retry.PATIENCE, "0.2")
    with pytest.raises(BucketUnavailable) as error:
        attempt(*[UNAVAILABLE] * 10**6)
    assert (error.value.operation, error.value.path) == ("written", "gs://b/x")
    assert "503" in error.value.reason
    assert "responds again" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_retry_seconds_are_a_positive_number(monkeypatch, text):
    monkeypatch.setenv(retry.PATIENCE, text)
    with pytest.raises(
        ValueError, match=f"{retry.PATIENCE}={text}.* number of seconds"
    ):
        retry.retry_seconds()


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (403, "x", BucketDenied),
        (404, "No such object: b/x", ObjectMissing),
        (404, "The specified bucket does not exist.", BucketDenied),
    ],
)
def test_permanent_errors_are_raised_at_once(status, text, error, capsys):
    with pytest.raises(error, match="gs://b/x"):
        attempt(google.from_http_status(status, text), token=False)
    assert capsys.readouterr().err == ""


def test_other_refusals_of_the_service_are_bucket_errors():
    refused = google.from_http_status(400, "Bucket is requester pays bucket")
    with pytest.raises(BucketError, match=r"400 .*requester pays"):
        attempt(refused)


def test_wrong_credentials_at_the_start_are_not_retried():
    with pytest.raises(BucketDenied, match="401 Unauthorized"):
        attempt(google.from_http_status(401, "x"), token=False)


def test_other_errors_are_raised_unchanged():
    with pytest.raises(ValueError, match="another size") as error:
        attempt(ValueError("another size"))
    assert error.value.__cause__ is None


def test_threads_share_the_report_of_an_outage(capsys):
    """One message for all threads when it begins, one when the last call succeeds."""
    barrier = threading.Barrier(8)

    def call():
        barrier.wait()
        return attempt(UNAVAILABLE, UNAVAILABLE)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capsys.readouterr().err.splitlines()
    begins = [line for line in lines if "trying again" in line]
    ends = [line for line in lines if "responds again" in line]
    assert len(begins) == len(ends)
    assert 1 <= len(begins) < 8


def test_slow_operations_are_reported(capsys, monkeypatch):
    monkeypatch.setattr(retry, "SLOW", 0.05)
    with retry.report_if_slow("reading checkpoint 3", after=0.01):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert "reading checkpoint 3" in lines[0]
    with retry.report_if_slow("something quick", after=10):
        pass
    assert capsys.readouterr().err == ""
