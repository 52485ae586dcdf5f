"""The training loop: runs compiled steps, logs, evaluates and saves."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from simclr_jax.storage.retry import say
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_errors import CheckpointError
from simclr_jax.train.log import Log

AHEAD = 4  # steps dispatched ahead; enough to hide the time of writing a log line
ANY_ERROR = Exception, KeyboardInterrupt


class Diverged(FloatingPointError):
    """Training has failed: by non-finite steps, or by a sign that ends the run."""


class Plan(NamedTuple):
    """Steps and periods of a run; a period of 0 means never."""

    start: int  # steps done before this process
    total: int  # steps of the whole run
    batch_size: int  # images of a global step
    log_every: int
    evaluate_every: int = 0
    health_every: int = 0
    patience: int = 10  # consecutive non-finite steps after which to stop


def due(step: int, every: int) -> bool:
    """Whether an event of this period is due after `step` updates."""
    return every > 0 and step % every == 0


def run(
    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]],
    state: Any,
    batches: Iterator,
    plan: Plan,
    *,
    log: Log,
    checkpoints: Checkpoints,
    evaluate: Callable[[Any, Callable[[], None]], dict[str, float]] | None = None,
    health: Callable[[Any, Any], dict[str, jax.Array]] = lambda state, batch: {},
    watch: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    stop: Callable[[int], bool] = lambda step: False,
    on_progress: Callable[[], None] = lambda: None,
) -> tuple[Any, int]:
    """Trains from plan.start to plan.total.

    The metrics of a step are fetched after the next one is dispatched, so that the
    device waits for the host only at evaluations. At most AHEAD steps are dispatched
    ahead, which bounds the batches on the device and the time until a stop.

    Args:
      step: the compiled (state, batch) -> (state, metrics).
      batches: global batches, from step plan.start on.
      evaluate: (state, on_progress) -> metrics, every plan.evaluate_every steps.
      health: the compiled (state, batch) -> metrics, every plan.health_every steps;
        they are added to those of the step.
      watch: gets the number and the metrics of every logged step; it may raise
        Diverged.
      stop: steps done -> whether to save and return.
      on_progress: called after every step and during evaluations.

    Returns:
      the state and the steps done: plan.total, or fewer after a stop.

    Raises:
      Diverged: plan.patience consecutive steps had a non-finite loss or gradient, or
        `watch` raised it.
      CheckpointError: a checkpoint could not be written.
    """
    pending = _PendingMetrics(log, plan, watch, on_progress)
    done, dispatched = plan.start, collections.deque()
    with _complete_writes_on_error(checkpoints, log):
        for done in range(plan.start + 1, plan.total + 1):
            with _save_on_error(checkpoints, pending, done - 1, state):
                batch = next(batches)
            with jax.transfer_guard("disallow"):  # a step must not wait for the host
                state, metrics = step(state, batch)
                if due(done, plan.health_every):
                    metrics |= health(state, batch)
            with _save_on_error(checkpoints, pending, done, state, KeyboardInterrupt):
                dispatched.append(metrics)
                if len(dispatched) > AHEAD:
                    jax.block_until_ready(dispatched.popleft())
            on_progress()
            checkpoints.poll(done, state)
            with _save_on_error(checkpoints, pending, done, state):
                pending.flush()
                if evaluate is not None and due(done, plan.evaluate_every):
                    pending.put(done, metrics)
                    pending.flush(partial(evaluate, state, on_progress))
                elif _is_logged(done, plan):
                    pending.put(done, metrics)
                if checkpoints.due(done):
                    pending.flush()  # metrics are written before the checkpoint
                    checkpoints.save(done, state)
            if stop(done):
                break
        pending.flush()
        checkpoints.finish(done, state)
    return state, done


def _is_logged(step: int, plan: Plan) -> bool:
    periods = plan.log_every, plan.health_every
    return step == plan.total or any(due(step, every) for every in periods)


class _PendingMetrics:
    """The metrics of one step, until they can be fetched without waiting."""

    def __init__(
        self,
        log: Log,
        plan: Plan,
        watch: Callable[[int, Mapping[str, float]], None],
        on_progress: Callable[[], None],
    ):
        self._log, self._plan = log, plan
        self._watch, self._on_progress = watch, on_progress
        self._pending: tuple[int, dict] | None = None
        self._last = (plan.start, time.monotonic())

    def put(self, done: int, metrics: dict[str, jax.Array]) -> None:
        self._pending = (done, metrics)

    def flush(self, evaluate: Callable[[], dict] = dict) -> None:
        """Writes the pending metrics and those of `evaluate` to the log.

        Raises:
          Diverged: as in `run`.
        """
        if self._pending is None:
            return
        (done, metrics), self._pending = self._pending, None
        metrics = {name: x.item() for name, x in jax.device_get(metrics).items()}
        last_step, last_time = self._last
        images = (done - last_step) * self._plan.batch_size
        speed = images / max(time.monotonic() - last_time, 1e-9)
        metrics["images_per_second"] = round(speed, 1)
        self._on_progress()
        try:
            metrics |= evaluate()
        finally:
            self._on_progress()
            self._last = (done, time.monotonic())  # without the time of the evaluation
            self._log.write(done, metrics)
        self._watch(done, metrics)
        if metrics["streak"] >= self._plan.patience:
            raise Diverged(
                f"The loss or the gradient was not finite in the last "
                f"{metrics['streak']} steps, up to step {done}; the state is that of "
                "before them. Try a smaller optim.lr or a longer warm-up."
            )


@contextlib.contextmanager
def _save_on_error(
    checkpoints: Checkpoints,
    pending: _PendingMetrics,
    done: int,
    state: Any,
    errors: type[BaseException] | tuple[type[BaseException], ...] = ANY_ERROR,
) -> Iterator[None]:
    """Saves the state after an error of the data, the evaluation or the log.

    Not with several processes, which would have to agree on the step.
    """
    try:
        yield
    except (Diverged, CheckpointError):
        raise
    except errors:
        if jax.process_count() == 1 and done:
            with contextlib.suppress(Exception):
                pending.flush()
            try:
                checkpoints.finish(done, state)
            except Exception as failure:
                say(f"The state of step {done} could not be saved: {failure}")
        raise


@contextlib.contextmanager
def _complete_writes_on_error(checkpoints: Checkpoints, log: Log) -> Iterator[None]:
    """Completes pending writes before an error ends the process.

    With several processes only the log: a save would wait for the other processes.
    """
    try:
        yield
    except ANY_ERROR:
        with contextlib.suppress(CheckpointError):
            if jax.process_count() == 1:
                checkpoints.wait()
        with contextlib.suppress(OSError):
            log.close()
        raise
