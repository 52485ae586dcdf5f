"""The process of a run: its cluster, signals, hanging peers, and reports of errors."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

import jax

from simclr_jax.cli.common import FAILED, TRY_AGAIN, USAGE, Preempted, UsageError
from simclr_jax.data.errors import STORAGE, UnreadablePicture
from simclr_jax.multihost import StorageNotShared
from simclr_jax.storage.errors import BucketDenied, BucketUnavailable
from simclr_jax.train.checkpoint_errors import (
    CheckpointError,
    CheckpointUnavailable,
)

HEARTBEAT = 60  # seconds without a heartbeat after which a peer counts as lost
LOST = (  # texts in errors of collectives and of the coordination service
    *("Gloo", "NCCL", "Connection closed by peer", "Connection reset", "heartbeat"),
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "Barrier"),
)

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
SMALLER = (
    "The device's memory is too small for this. For training, try "
    "optim.microbatches=2 or more, encoder.dtype=bfloat16, placement=fsdp on several "
    "devices, or a smaller batch; else a smaller evaluate.batch_size."
)

# A later try may succeed; see docs/buckets.md.
UNAVAILABLE = (BucketUnavailable, BucketDenied, CheckpointUnavailable)
# Reported by their message alone, without a traceback.
FAILURES = (CheckpointError, FloatingPointError, UnreadablePicture, *STORAGE)


def join_cluster() -> None:
    """Joins the other processes of the run, if there are any.

    Three environment variables describe them (launch/local.sh sets these); otherwise
    JAX looks for a cluster that it supports: TPU slices, Slurm, Open MPI.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if all(name in os.environ for name in names):
        address, count, index = (os.environ[name] for name in names)
        jax.distributed.initialize(
            address, int(count), int(index), heartbeat_timeout_seconds=HEARTBEAT
        )
        return
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:
        if "coordinator_address" not in str(error):  # else there is no cluster
            raise


def exit_on_sigterm() -> None:
    """Makes SIGTERM raise Preempted, until a StopSignal replaces this handler.

    With several processes, JAX's preemption service handles the signal instead.
    """

    def handler(*_):
        raise Preempted("stopped by a signal before the first step.")

    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, handler)


class StopSignal:
    """Whether SIGTERM or Ctrl-C asked the run to stop; all processes agree."""

    def __init__(self, preempted: Callable[[int], bool]):
        """
        Args:
          preempted: steps done -> whether any process received the signal; only used
            with several processes, where JAX's preemption service handles the signal.
        """
        self._several = jax.process_count() > 1
        self._preempted = preempted
        self._event = threading.Event()
        if not self._several:
            signal.signal(signal.SIGTERM, self._handle)
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number, _):
        self._event.set()
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process

    def __call__(self, done: int) -> bool:
        return self._preempted(done) if self._several else self._event.is_set()


class Watchdog:
    """Ends this process if its peers hang, which raises no exception.

    The training loop calls it at each sign of progress, which resets the timer. The
    first step includes compilation, so the first limit is longer.
    """

    def __init__(self, seconds: float = 1800.0, first: float = 7200.0):
        self._seconds, self._deadline = seconds, time.monotonic() + first
        if jax.process_count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def _watch(self) -> None:
        while time.monotonic() < self._deadline:
            time.sleep(1)
        print("try again: no step ended in time; a peer hangs.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(TRY_AGAIN)


def report(error: BaseException) -> int:
    """Prints on stderr what went wrong; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    if isinstance(error, UsageError | StorageNotShared):
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if isinstance(error, (Preempted, *UNAVAILABLE)):
        print(f"try again: {error}", file=sys.stderr)
        return TRY_AGAIN
    if lost_peer(error):
        print(f"try again: lost a peer: {str(error).splitlines()[0]}", file=sys.stderr)
        return TRY_AGAIN
    if isinstance(error, FAILURES):
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    if isinstance(error, jax.errors.JaxRuntimeError) and OUT_OF_MEMORY in str(error):
        print(f"error: {SMALLER} ({str(error).splitlines()[0]})", file=sys.stderr)
        return FAILED
    traceback.print_exception(error)
    return FAILED


def lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process has ended."""
    several = jax.process_count() > 1
    return several and any(sign in str(error) for sign in LOST)
