"""Copies of growing files: how many requests, how many bytes, in what order."""

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
    """A bucket that keeps bytes and counts what is sent; in place of the real one."""

    def __init__(self):
        self.objects, self.sent, self.requests = {}, 0, []
        self.failure = None

    def _note(self, kind, path, data):
        if self.failure:
            raise self.failure
        self.requests.append((kind, path, threading.current_thread()))
        self.sent += len(data)

    def read(self, path):
        if path not in self.objects:
            raise ObjectMissing("read", path, "404 Not Found")
        return self.objects[path]

    def write(self, path, data):
        self._note("write", path, data)
        self.objects[path] = data

    def append(self, path, data, offset):
        self._note("append", path, data)
        assert len(self.objects[path]) == offset
        self.objects[path] += data


@pytest.fixture
def counted(monkeypatch):
    made = Counted()
    for name in ("read", "write", "append"):
        monkeypatch.setattr(bucket, name, getattr(made, name))
    return made


def add(path, data):
    with path.open("ab") as file:
        file.write(data)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_what_is_new_is_sent(tmp_path, counted):
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
    assert [kind for kind, *_ in counted.requests] == ["write", "write"]


def test_a_long_file_is_not_sent_again(tmp_path, counted, monkeypatch):
    """The bytes of a week's copies grow with the file, not with its square."""
    monkeypatch.setattr(mirror, "WHOLE", 1000)
    copies = Mirror(tmp_path, "gs://b/run", every=1e9)
    for _ in range(100):
        add(tmp_path / "a", b"x" * 100)
        copies.copy()
    assert counted.objects == {"gs://b/run/a": b"x" * 10_000}
    assert counted.sent <= 10_000 + 10 * 1000
    copies.close()


def test_copies_are_made_by_another_thread(tmp_path, counted):
    add(tmp_path / "a", b"1")
    copies = Mirror(tmp_path, "gs://b/run", every=0.01)
    wait_for(lambda: counted.requests)
    assert all(t is not threading.current_thread() for *_, t in counted.requests)
    copies.close()


def test_a_failure_in_the_background_is_raised_by_check(tmp_path, counted):
    counted.failure = BucketDenied("written", "gs://b/run/a", "403 Forbidden")
    add(tmp_path / "a", b"1")
    copies = Mirror(tmp_path, "gs://b/run", every=0.01)
    wait_for(lambda: copies._failure)
    with pytest.raises(BucketDenied, match="403"):
        copies.check()


# The log of a run.

METRICS = {"loss": 1.5, "images_per_second": 10.0}


def steps(counted):
    text = counted.objects["gs://b/run/metrics.jsonl"].decode()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_a_line_of_the_log_costs_no_request(counted):
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


def test_a_resumed_log_is_cut_back_to_the_checkpoint(counted):
    text = "".join(f'{{"step": {n}}}\n' for n in (10, 20, 30)) + '{"step": 4'
    counted.objects["gs://b/run/metrics.jsonl"] = text.encode()
    log = Log("gs://b/run", 20, 100)
    log.write(30, METRICS)
    log.close()
    assert steps(counted) == [10, 20, 30]


def test_nothing_is_left_on_this_machine(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.tempfile, "tempdir", str(tmp_path))
    log = Log("gs://b/run", 0, 100)
    log.write(1, METRICS)
    assert len([*tmp_path.iterdir()]) == 1
    log.close()
    assert [*tmp_path.iterdir()] == []


def test_a_log_that_cannot_be_copied_says_so_at_the_next_line(counted, monkeypatch):
    monkeypatch.setattr(mirror.Mirror.__init__, "__defaults__", (0.01,))
    counted.failure = BucketDenied("written", "gs://b/run/metrics.jsonl", "403")
    log = Log("gs://b/run", 0, 100)
    log.write(1, METRICS)
    wait_for(lambda: log._mirror._failure)
    with pytest.raises(BucketDenied, match="403"):
        log.write(2, METRICS)
