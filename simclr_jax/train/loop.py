"""The loop: knows time, and nothing of what a step computes."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax

from simclr_jax.storage.retry import say
from simclr_jax.train.checkpoint import CheckpointError, Checkpoints
from simclr_jax.train.log import Log

AHEAD = 4  # steps on their way: a slow line in a log hides behind them, no more


class Diverged(FloatingPointError):
    """Too many steps in a row had no finite loss or gradient."""


class Plan(NamedTuple):
    """When things happen; a period of 0 means never."""

    start: int  # steps done before
    total: int  # steps of the whole run
    batch_size: int  # images of a global step
    log_every: int
    judge_every: int = 0
    patience: int = 10  # steps in a row that may be skipped for not being finite


def due(step: int, every: int) -> bool:
    """Whether something with this period is due after `step` updates."""
    return every > 0 and step % every == 0


def run(
    step: Callable,
    state,
    batches: Iterator,
    plan: Plan,
    *,
    log: Log,
    checkpoints: Checkpoints,
    judge: Callable | None = None,
    stop: Callable[[int], bool] = lambda step: False,
    alive: Callable[[], None] = lambda: None,
):
    """Trains from plan.start to plan.total.

    The device always has steps to do, but where a judge asks it: the metrics of one are
    fetched after the next one is under way. At most AHEAD are, so that batches do not
    pile up, and who is told to stop soon can.

    Args:
      step: the compiled (state, batch) -> (state, metrics).
      batches: global batches, from step plan.start on.
      judge: (state, alive) -> more metrics, every plan.judge_every steps.
      stop: steps done -> whether to save and leave now.
      alive: called whenever the run has got on.

    Returns:
      the state and the steps done: plan.total, or fewer if told to stop.

    Raises:
      Diverged: after plan.patience steps in a row without a finite loss or gradient.
      CheckpointError: if a checkpoint could not be written.
    """
    meter = _Meter(log, plan, alive)
    done, coming = plan.start, collections.deque()
    with _arriving(checkpoints, log):
        for done in range(plan.start + 1, plan.total + 1):
            with _saving(checkpoints, meter, done - 1, state):
                batch = next(batches)
            with jax.transfer_guard("disallow"):  # nothing of a step waits for the host
                state, metrics = step(state, batch)
            coming.append(metrics)
            if len(coming) > AHEAD:
                jax.block_until_ready(coming.popleft())
            alive()
            checkpoints.poll(done, state)
            with _saving(checkpoints, meter, done, state):
                meter.flush()
                if judge is not None and due(done, plan.judge_every):
                    meter.hold(done, metrics)
                    meter.flush(partial(judge, state, alive))
                elif due(done, plan.log_every) or done == plan.total:
                    meter.hold(done, metrics)
                if checkpoints.due(done):
                    meter.flush()  # no checkpoint is ahead of the metrics
                    checkpoints.save(done, state)
            if stop(done):
                break
        meter.flush()
        checkpoints.finish(done, state)
    return state, done


class _Meter:
    """Holds the metrics of one step until they can be had without waiting."""

    def __init__(self, log: Log, plan: Plan, alive: Callable[[], None]):
        self._log, self._plan, self._alive = log, plan, alive
        self._held: tuple | None = None
        self._last = (plan.start, time.monotonic())

    def hold(self, done: int, metrics) -> None:
        self._held = (done, metrics)

    def flush(self, judge: Callable[[], dict] = dict) -> None:
        if self._held is None:
            return
        (done, metrics), self._held = self._held, None
        metrics = {name: x.item() for name, x in jax.device_get(metrics).items()}
        before, then = self._last
        images = (done - before) * self._plan.batch_size
        speed = images / max(time.monotonic() - then, 1e-9)
        metrics["images_per_second"] = round(speed, 1)
        self._alive()
        try:
            metrics |= judge()
        finally:
            self._alive()
            self._last = (done, time.monotonic())  # the judge's time is not training's
            self._log.write(done, metrics)
        if metrics["streak"] >= self._plan.patience:
            raise Diverged(
                f"The loss or the gradient was not finite in the last "
                f"{metrics['streak']} steps, up to step {done}; the state is that of "
                "before them. A smaller optim.lr or a longer warm-up is the usual cure."
            )


@contextlib.contextmanager
def _saving(checkpoints: Checkpoints, meter: _Meter, done: int, state):
    """Saves the state if data, judge or log fail, and raises what was raised.

    Not with several processes: they would have to agree.
    """
    try:
        yield
    except (Diverged, CheckpointError):
        raise
    except Exception:
        if jax.process_count() == 1 and done:
            with contextlib.suppress(Exception):
                meter.flush()
            try:
                checkpoints.finish(done, state)
            except Exception as failure:
                say(f"The state of step {done} could not be saved: {failure}")
        raise


@contextlib.contextmanager
def _arriving(checkpoints: Checkpoints, log: Log):
    """Lets what is being written arrive before a failure ends the process.

    No checkpoint with several processes: one that has failed alone would wait for the
    others.
    """
    try:
        yield
    except Exception:
        with contextlib.suppress(CheckpointError):
            if jax.process_count() == 1:
                checkpoints.wait()
        with contextlib.suppress(OSError):
            log.close()
        raise
