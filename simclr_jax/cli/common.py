"""What all doors share: arguments, processes, exit codes."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

import jax
from etils import epath

from simclr_jax.data.errors import STORAGE, UnreadablePicture
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.errors import BucketDenied, BucketUnavailable
from simclr_jax.storage.paths import absolute, has_scheme
from simclr_jax.suggest import nearest
from simclr_jax.train.checkpoint import CheckpointError, CheckpointUnavailable

DONE, FAILED, USAGE, AGAIN = 0, 1, 2, 75

HEARTBEAT = 60  # seconds without one after which a peer counts as lost
LOST = (  # what collectives and the coordination service say of a peer that is gone
    *("Gloo", "NCCL", "Connection closed by peer", "Connection reset", "heartbeat"),
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "Barrier"),
)

FULL = "RESOURCE_EXHAUSTED"
SMALLER = (
    "The device's memory is too small for this. For training, try "
    "optim.microbatches=2 or more, encoder.dtype=bfloat16, placement=fsdp on several "
    "devices, or a smaller batch; else a smaller evaluate.batch_size."
)

# What may be otherwise another time; see docs/buckets.md.
AWAY = (BucketUnavailable, BucketDenied, CheckpointUnavailable)
# What may happen to any run, and explains itself without a stack.
FAILURES = (CheckpointError, FloatingPointError, UnreadablePicture, *STORAGE)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says a mistake in one line and knows near spellings."""

    def __init__(self, **words):
        super().__init__(allow_abbrev=False, **words)

    def error(self, message):
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(USAGE)

    def parse_with_changes(self, argv):
        """Returns (arguments, [(key, text)]) with `--config.KEY=VALUE` taken apart."""
        for word in argv:  # before argparse misses what was only misspelt
            flag = word.partition("=")[0]
            known = flag in self._flags() or flag.startswith("--config.")
            if flag.startswith("--") and not known:
                self.error(self._left_over(word))
        arguments, rest = self.parse_known_args(argv)
        changes, words = [], iter(rest)
        for word in words:
            key, equals, text = word.partition("=")
            if not key.startswith("--config."):
                self.error(self._left_over(word))
            if not equals:
                text = next(words, None)
                if text is None or text.startswith("--"):
                    self.error(f"{key} wants a value: {key}=VALUE.")
            changes.append((key.removeprefix("--config."), text))
        return arguments, changes

    def _flags(self):
        return [flag for action in self._actions for flag in action.option_strings]

    def _left_over(self, word):
        flags = self._flags()
        near = nearest(word.partition("=")[0], flags)
        if near:
            return f"unknown {word!r}. Did you mean {near}?"
        if "=" in word:
            return f"left-over word {word!r}. Settings are written --config.KEY=VALUE."
        return f"left-over word {word!r}. There are: {', '.join(sorted(flags))}."


class Mistake(Exception):
    """The call or the config is wrong; nothing was begun."""


class Again(BaseException):
    """The run stopped for a reason that passes; the same command goes on with it.

    Like KeyboardInterrupt, it is no error that code on its way may take for its own.
    """


@contextlib.contextmanager
def checking(*, begun: bool = False):
    """A ValueError inside is a mistake of the call or the config, as is a bad path.

    begun: whether work may be lost already: then a bucket that is closed is none.
    """
    try:
        yield
    except (UnreadablePicture, BucketUnavailable):
        raise
    except BucketDenied as error:
        if begun:
            raise
        raise Mistake(str(error)) from error
    except (ValueError, *STORAGE) as error:
        raise Mistake(str(error)) from error


def check_data(c, workdir: str) -> None:
    """Finds out whether what a config names to be read can be.

    Args:
      workdir: a whole path; once it has checkpoints, init_from is not read.

    Raises:
      ValueError, BucketDenied, BucketUnavailable: as `check_folder`.
    """
    folders = [c.data.data_dir]
    if has_scheme(c.data.name):
        folders.append(c.data.name)
    if c.init_from and not (epath.Path(workdir) / "checkpoints").exists():
        folders.append(c.init_from)
    for path in folders:
        check_folder(absolute(path))


def join_cluster() -> None:
    """Joins the other processes of the run, where there are any.

    Three variables name them explicitly (launch/local.sh sets them); otherwise JAX
    looks for a cluster that it knows: TPU slices, Slurm, Open MPI.
    """
    named = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if all(name in os.environ for name in named):
        address, count, mine = (os.environ[name] for name in named)
        jax.distributed.initialize(
            address, int(count), int(mine), heartbeat_timeout_seconds=HEARTBEAT
        )
        return
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:
        if "coordinator_address" not in str(error):  # else there is no cluster
            raise


def begin_again_if_told() -> None:
    """Until a run has something to save, SIGTERM ends it to be begun again.

    With several processes JAX's service catches the signal, and `Told` asks it.
    """

    def end(*_):
        raise Again("told to stop before the first step.")

    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, end)


class Told:
    """Whether the run was told to stop, by SIGTERM or Ctrl-C; all processes agree."""

    def __init__(self, preempted: Callable[[int], bool]):
        """
        Args:
          preempted: steps done -> whether any process was told, for several
            processes, whose service catches the signal itself.
        """
        self._several = jax.process_count() > 1
        self._preempted = preempted
        self._event = threading.Event()
        if not self._several:
            signal.signal(signal.SIGTERM, self._hear)
            signal.signal(signal.SIGINT, self._hear)

    def _hear(self, number, _):
        self._event.set()
        signal.signal(number, signal.SIG_DFL)  # who asks twice means now

    def __call__(self, done: int) -> bool:
        return self._preempted(done) if self._several else self._event.is_set()


class Watchdog:
    """Ends a process whose peers hang: no exception would ever reach it.

    Fed by calling it: a step can only be dispatched while earlier ones end. Compiling
    the first may take long, hence its own limit.
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
        os._exit(AGAIN)


def leave(main: Callable[[list[str]], None]) -> None:
    """Runs a door and ends the process with the house's exit codes.

    0 done; 1 a failure while running; 2 a mistake in the call or the config; 75 try
    again. A failure leaves by `os._exit`: with several processes the ordinary exit
    waits minutes for peers that wait for us.
    """
    # Orbax logs hundreds of lines about what then arrives here as one exception.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unheard
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
    except BaseException as error:
        code = report(error)
    else:
        code = DONE
    sys.stdout.flush()
    sys.stderr.flush()
    if code != DONE:
        os._exit(code)


def _unheard(failure) -> None:
    """Drops what Orbax's other writes report to the loop that the failed one closed."""
    if str(failure.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(failure)


def report(error: BaseException) -> int:
    """Says on stderr what went wrong; returns the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    if isinstance(error, Mistake):
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if isinstance(error, Again):
        print(f"try again: {error}", file=sys.stderr)
        return AGAIN
    if isinstance(error, AWAY):
        print(f"try again: {error}", file=sys.stderr)
        return AGAIN
    if lost_peer(error):
        print(f"try again: lost a peer: {str(error).splitlines()[0]}", file=sys.stderr)
        return AGAIN
    if isinstance(error, FAILURES):
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    if isinstance(error, jax.errors.JaxRuntimeError) and FULL in str(error):
        print(f"error: {SMALLER} ({str(error).splitlines()[0]})", file=sys.stderr)
        return FAILED
    traceback.print_exception(error)
    return FAILED


def lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone."""
    several = jax.process_count() > 1
    return several and any(sign in str(error) for sign in LOST)
