"""Work beside the steps: when it begins, that it ends in time, that errors surface."""

import threading
from functools import partial

import pytest

from simclr_jax.experiment.views_picture import beside_steps


def test_a_task_runs_from_the_first_step_on_and_ends_before_the_run():
    begun, end, done, calls = threading.Event(), threading.Event(), [], []

    def task():
        begun.set()
        assert end.wait(30)
        done.append("task")

    with beside_steps(task, lambda: calls.append(1)) as progress:
        assert not begun.wait(0.05)
        progress()
        assert begun.wait(30)
        progress()
        assert done == []
        end.set()
    assert done == ["task"]
    assert calls == [1, 1]


def failing(event):
    """A task that fails after the event."""
    assert event.wait(30)
    raise OSError("disk full")


def test_an_error_surfaces_with_the_next_progress():
    event, steps = threading.Event(), []

    def train():
        task = partial(failing, event)
        with beside_steps(task, lambda: steps.append(1)) as progress:
            progress()
            event.set()
            while True:
                progress()

    with pytest.raises(OSError, match="disk full"):
        train()
    assert steps


def test_an_error_after_the_last_step_surfaces():
    ended = threading.Event()

    def train():
        with beside_steps(partial(failing, ended), lambda: None) as progress:
            progress()
            ended.set()

    with pytest.raises(OSError, match="disk full"):
        train()
