"""Copies of growing files to a bucket: requests, bytes, and the log of a run."""

import json
import threading
import time

import pytest

from simclr_jax.storage import bucket, mirror
from simclr_jax.storage.errors import BucketDenied, ObjectMissing
from simclr_jax.storage.mirror import Mirror
from simclr_jax.train import log as logging
from simclr_jax.train.log import Log


class Counted:
    """A substitute for a bucket that keeps objects and counts requests and bytes."""

    def __init__(self):
        self.objects, self.sent, self.requests = {}, 0, []
        self.failure = None

    def _record(self, operation, path, data):
        if self.failure:
            raise self.failure
        self.requests.append((operation, path, threading.current_thread()))
        self.sent += len(data)

    def read(self, path):
        if path not in self.objects:
            raise ObjectMissing("read", path, "404 Not Found")
        return self.objects[path]

    def write(self, path, data):
        self._record("write", path, data)
        self.objects[path] = data

    def append(self, path, data, offset):
        self._record("append", path, data)
        assert len(self.objects[path]) == offset
        self.objects[path] += data


@pytest.fixture
def counted(monkeypatch):
    counted_bucket = Counted()
    for name in ("read", "write", "append"):
        monkeypatch.setattr(bucket, name, getattr(counted_bucket, name))
    return counted_bucket


def add(path, data):
    with path.open("ab") as file:
        file.write(data)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_changed_files_are_sent(tmp_path, counted):
    copies = Mirror(tmp_path, "gs://b/run", every=1e9)
    copies.copy()
    assert counted.requests == []
    add(tmp_path / "a", b"12345")
    copies.copy()
    copies.copy()
    assert len(counted.requests) == 1
    add(tmp_path / "a", b"67")
    copies.close()
    assert counted.objects == {"gs://b/run/a": b"1234567"}
    assert [operation for operation, *_ in counted.requests] == ["write", "write"]


def test_bytes_sent_grow_linearly_with_a_long_file(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(mirror, "WHOLE", 1000)
    copies = Mirror(tmp_path, "gs://b/run", every=1e9)
    for _ in range(100):
        add(tmp_path / "a", b"x" * 100)
        copies.copy()
    assert counted.objects == {"gs://b/run/a": b"x" * 10_000}
    assert counted.sent <= 10_000 + 10 * 1000
    copies.close()


def test_copies_run_in_another_thread(tmp_path, counted):
    add(tmp_path / "a", b"1")
    copies = Mirror(tmp_path, "gs://b/run", every=0.01)
    wait_for(lambda: counted.requests)
    assert all(t is not threading.current_thread() for *_, t in counted.requests)
    copies.close()


def test_a_failure_in_the_background_is_raised_by_check(tmp_path, counted):
    counted.failure = BucketDenied("written", "gs://b/run/a", "403 Forbidden")
    add(tmp_path / "a", b"1")
    copies = Mirror(tmp_path, "gs://b/run", every=0.01)
    with pytest.raises(BucketDenied, match="403"):
        wait_for(copies.check)


# The log of a run.

METRICS = {"loss": 1.5, "images_per_second": 10.0}


def steps(counted):
    text = counted.objects["gs://b/run/metrics.jsonl"].decode()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_lines_of_the_log_are_sent_by_copies_only(counted):
    log = Log("gs://b/run", 0, 100)
    for step in range(1, 51):
        log.write(step, METRICS)
    assert counted.requests == []
    log.copy()
    assert steps(counted) == [*range(1, 51)]
    assert len(counted.requests) == 2  # the lines, and TensorBoard's events
    log.write(60, METRICS)
    log.close()
    assert steps(counted) == [*range(1, 51), 60]
    assert len(counted.requests) == 4


def test_a_resumed_log_ends_at_the_checkpoint(counted):
    text = "".join(f'{{"step": {n}}}\n' for n in (10, 20, 30)) + '{"step": 4'
    counted.objects["gs://b/run/metrics.jsonl"] = text.encode()
    log = Log("gs://b/run", 20, 100)
    log.write(30, METRICS)
    log.close()
    assert steps(counted) == [10, 20, 30]


def test_local_files_of_the_log_are_removed(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.tempfile, "tempdir", str(tmp_path))
    log = Log("gs://b/run", 0, 100)
    log.write(1, METRICS)
    assert len([*tmp_path.iterdir()]) == 1
    log.close()
    assert [*tmp_path.iterdir()] == []


def test_a_failed_copy_of_the_log_is_raised_by_a_later_line(counted, monkeypatch):
    monkeypatch.setattr(mirror.Mirror.__init__, "__defaults__", (0.01,))
    counted.failure = BucketDenied("written", "gs://b/run/metrics.jsonl", "403")
    log = Log("gs://b/run", 0, 100)
    with pytest.raises(BucketDenied, match="403"):
        wait_for(lambda: log.write(1, METRICS))
