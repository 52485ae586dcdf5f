"""A profiler's trace of some steps, which xprof and TensorBoard show."""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax

from simclr_jax.storage import bucket
from simclr_jax.storage.paths import in_bucket

Step = Callable[[Any, Any], tuple[Any, Any]]


def steps_of(text: str) -> tuple[int, int]:
    """(first, last) step of "FIRST:LAST", both included; (0, 0) for the empty string.

    Raises:
      ValueError: these are not two numbers with 1 <= FIRST <= LAST.
    """
    if not text:
        return 0, 0
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        return int(first), int(last)
    raise ValueError(
        f"profile={text!r}: must be FIRST:LAST, the first and the last step to trace, "
        "such as 100:105, or empty."
    )


@contextlib.contextmanager
def traced(
    step: Step, steps: tuple[int, int], first_step: int, workdir: str
) -> Iterator[Step]:
    """Yields the step, which writes a trace of some of its calls to workdir/profile.

    It waits for the devices before the first of them and after the last one, so that
    the trace has these steps and no other. Nothing is traced of a run that resumes
    after the first of them. If the body ends earlier, so does the trace.

    Args:
      step: the compiled (state, batch) -> (state, metrics).
      steps: first and last step, as from `steps_of`; step n is the n-th of the run.
      first_step: steps done before.
      workdir: absolute path of the run, local or in a bucket.

    Raises:
      BucketDenied, BucketUnavailable: the trace could not be copied.
    """
    first, last = steps
    done = first_step
    with contextlib.ExitStack() as trace:

        def call(state, batch):
            nonlocal done
            done += 1
            if done == first:
                jax.block_until_ready(state)
                trace.enter_context(_trace(f"{workdir}/profile"))
            result = step(state, batch)
            if done == last:
                jax.block_until_ready(result)
                trace.close()
            return result

        yield call


@contextlib.contextmanager
def _trace(folder: str) -> Iterator[None]:
    if not in_bucket(folder):
        with jax.profiler.trace(folder):
            yield
        return
    with tempfile.TemporaryDirectory(prefix="simclr_jax_profile_") as local:
        with jax.profiler.trace(local):
            yield
        bucket.upload(pathlib.Path(local), folder)
