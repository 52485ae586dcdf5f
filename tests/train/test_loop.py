"""The order of steps, logs, evaluations and saves, without a network."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from simclr_jax.train import loop


class Recorder:
    """Records calls in place of Checkpoints and Log."""

    def __init__(self):
        self.saved, self.lines = [], []

    def due(self, done):
        return False

    def save(self, done, state):
        self.saved.append((done, state))

    def poll(self, done, state):
        pass

    finish = save

    def write(self, done, metrics):
        self.lines.append((done, metrics))

    def wait(self):
        pass

    close = wait


def train(total, recorder, *, evaluate=None, **periods):
    """The state is the number of steps, the loss the number of the batch."""

    def step(state, batch) -> Any:
        return state + 1, {"loss": np.float32(batch), "streak": np.int32(0)}

    plan = loop.Plan(start=0, total=total, batch_size=1, **periods)
    return loop.run(
        step,
        0,
        itertools.count(),
        plan,
        log=recorder,
        checkpoints=recorder,
        evaluate=evaluate,
    )


def test_few_steps_are_dispatched_ahead(monkeypatch):
    """However rarely metrics are logged, as a stop waits for the dispatched steps."""
    ready, ahead = [], []

    class Batches:
        def __iter__(self):
            return self

        def __next__(self):
            ahead.append(len(ahead) - len(ready))
            return len(ahead)

    monkeypatch.setattr(itertools, "count", Batches)
    monkeypatch.setattr(jax, "block_until_ready", ready.append)
    train(50, Recorder(), log_every=0)
    assert max(ahead) == loop.AHEAD
    assert [metrics["loss"] for metrics in ready] == [*range(1, 51 - loop.AHEAD)]


def test_metrics_and_state_are_saved_when_an_evaluation_fails():
    def evaluate(state, on_progress):
        raise OSError("a picture that cannot be read")

    recorder = Recorder()
    with pytest.raises(OSError, match="cannot be read"):
        train(20, recorder, evaluate=evaluate, log_every=0, evaluate_every=10)
    assert [(done, x["loss"]) for done, x in recorder.lines] == [(10, 9.0)]
    assert recorder.saved == [(10, 10)]


def test_the_state_is_saved_when_the_log_fails():
    class Closed(Recorder):
        def write(self, done, metrics):
            raise PermissionError("gs://b/run/metrics.jsonl could not be written: 403")

    recorder = Closed()
    with pytest.raises(PermissionError, match="403"):
        train(20, recorder, log_every=5)
    assert recorder.saved == [(6, 6)]


def test_diagnostics_are_on_the_line_of_their_step():
    """And every line is shown to `watch`, which may end the run."""
    seen = []

    def watch(step, metrics):
        seen.append((step, metrics.get("rank")))
        if step == 12:
            raise loop.Diverged("dead")

    def step(state, batch) -> Any:
        return state + 1, {"loss": np.float32(batch), "streak": np.int32(0)}

    def health(state, batch) -> Any:
        return {"rank": np.float32(100 * state + batch)}

    recorder: Any = Recorder()
    plan = loop.Plan(start=0, total=40, batch_size=1, log_every=5, health_every=4)
    with pytest.raises(loop.Diverged, match="dead"):
        loop.run(
            step,
            0,
            itertools.count(),
            plan,
            log=recorder,
            checkpoints=recorder,
            health=health,
            watch=watch,
        )
    assert seen == [(4, 403), (5, None), (8, 807), (10, None), (12, 1211)]
    assert [done for done, _ in recorder.lines] == [4, 5, 8, 10, 12]
    assert recorder.lines[0][1]["loss"] == 3
