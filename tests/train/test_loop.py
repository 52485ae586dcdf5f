"""When things happen, without a network."""

import itertools

import jax
import numpy as np
import pytest

from simclr_jax.train import loop


class Kept:
    """Checkpoints and a log that are only remembered."""

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


def trained(total, kept, *, judge=None, **periods):
    """The state counts the steps, and a loss is the number of the batch."""

    def step(state, batch):
        return state + 1, {"loss": np.float32(batch), "streak": np.int32(0)}

    plan = loop.Plan(start=0, total=total, batch_size=1, **periods)
    return loop.run(
        step, 0, itertools.count(), plan, log=kept, checkpoints=kept, judge=judge
    )


def test_only_a_few_steps_are_on_their_way(monkeypatch):
    """However seldom something is logged; else a stop would wait for all of them."""
    ready, ahead = [], []

    class Batches:
        def __iter__(self):
            return self

        def __next__(self):
            ahead.append(len(ahead) - len(ready))
            return len(ahead)

    monkeypatch.setattr(itertools, "count", Batches)
    monkeypatch.setattr(jax, "block_until_ready", ready.append)
    trained(50, Kept(), log_every=0)
    assert max(ahead) == loop.AHEAD
    assert [said["loss"] for said in ready] == [*range(1, 51 - loop.AHEAD)]


def test_a_judge_that_fails_costs_neither_the_line_nor_the_state():
    def judge(state, alive):
        raise OSError("a picture that cannot be read")

    kept = Kept()
    with pytest.raises(OSError, match="cannot be read"):
        trained(20, kept, judge=judge, log_every=0, judge_every=10)
    assert [(done, said["loss"]) for done, said in kept.lines] == [(10, 9.0)]
    assert kept.saved == [(10, 10)]


def test_a_log_that_fails_costs_no_state():
    class Closed(Kept):
        def write(self, done, metrics):
            raise PermissionError("gs://b/run/metrics.jsonl could not be written: 403")

    kept = Closed()
    with pytest.raises(PermissionError, match="403"):
        trained(20, kept, log_every=5)
    assert kept.saved == [(6, 6)]
