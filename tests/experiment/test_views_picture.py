"""Work beside the training: it overlaps, it ends in time, its errors surface."""

import threading
from functools import partial

import pytest

from simclr_jax.experiment.views_picture import in_background


def test_a_task_runs_meanwhile_and_ends_before_the_run():
    begun, end, done = threading.Event(), threading.Event(), []

    def task():
        begun.set()
        assert end.wait(30)
        done.append("task")

    calls = []
    with in_background([task], lambda: calls.append(1)) as progress:
        assert begun.wait(30)
        progress()
        assert done == []
        end.set()
    assert done == ["task"]
    assert calls == [1]


def failing(after):
    """A task that fails once the event has happened."""
    assert after.wait(30)
    raise OSError("disk full")


def test_an_error_surfaces_with_the_next_progress():
    begun, steps = threading.Event(), []

    def train():
        with in_background([partial(failing, begun)], lambda: steps.append(1)) as f:
            f()
            begun.set()
            while True:
                f()

    with pytest.raises(OSError, match="disk full"):
        train()
    assert steps


def test_an_error_after_the_last_step_surfaces():
    ended = threading.Event()

    def train():
        with in_background([partial(failing, ended)], lambda: None) as progress:
            progress()
            ended.set()

    with pytest.raises(OSError, match="disk full"):
        train()
