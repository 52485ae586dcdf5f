"""Saving and restoring the state with Orbax, in the background."""

import concurrent.futures
import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint._src.path import gcs_utils

from simclr_jax.storage import (
    bucket,
    gcs_path,  # noqa: F401, Orbax's way to buckets
)
from simclr_jax.storage.bucket import COMMIT
from simclr_jax.storage.errors import Meaning, meaning, reason
from simclr_jax.storage.paths import in_bucket
from simclr_jax.storage.retry import patience, said_if_slow, say
from simclr_jax.train.checkpoint_upload import start_upload

# Orbax would look a bucket up by a client of its own, which needs a project, does not
# try again, and has errors of its own.
gcs_utils.get_bucket = bucket.get_bucket
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds from a failed save to the next
PASSING = (Meaning.TRANSIENT, Meaning.TOKEN)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; says which and why."""


class CheckpointUnavailable(CheckpointError):
    """The storage was the reason; it may be there again another time."""


def _unwritten(directory, cause: Exception) -> CheckpointError:
    """The error for a checkpoint that could not be written."""
    why, remote = _reason(cause), in_bucket(directory)
    full = "No space left" in str(cause) or "RESOURCE_EXHAUSTED" in str(cause)
    if full and not remote:
        why = "no space left on the device"
    away = remote and meaning(cause) is not Meaning.OTHER
    kind = CheckpointUnavailable if away else CheckpointError
    return kind(
        f"A checkpoint could not be written to {directory}: {why}. Those written "
        "before are untouched; the same command goes on from the last of them."
    )


def _unread(directory, step: int, cause: Exception) -> CheckpointError:
    """The error for a checkpoint that could not be read."""
    if in_bucket(directory) and meaning(cause) not in (Meaning.OTHER, Meaning.MISSING):
        return CheckpointUnavailable(
            f"Checkpoint {step} of {directory} could not be read: {_reason(cause)}."
        )
    return CheckpointError(
        f"Checkpoint {step} of {directory} could not be read: {_reason(cause)}. If it "
        f"is damaged, remove {directory / str(step)}: the one before it is then the "
        "newest."
    )


def _reason(cause: Exception) -> str:
    """The first and the last words of an error; the middle of Orbax's is its stack."""
    if meaning(cause) is not Meaning.OTHER:
        return reason(cause)
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) < 600 else f"{text[:200]} ... {text[-300:]}"


class Save(NamedTuple):
    """A save that goes on in the background."""

    step: int
    end: concurrent.futures.Future
    began: float  # time.monotonic()


class Checkpoints:
    """The checkpoints of one run: the last few, and every n-th for good.

    A save that fails for a reason that passes is done again, with the state as it is
    then, until `storage.retry.patience()` is over. Several processes would have to
    agree on when: there, any failure is the end.
    """

    def __init__(
        self,
        directory,
        *,
        every: int,
        keep: int = 3,
        keep_every: int = 0,
        about: dict | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        """
        Args:
          directory: a whole path.
          every: steps between two saves.
          keep: how many of the last to keep.
          keep_every: checkpoints whose step this divides stay for good; 0: none do.
          about: what a reader of a checkpoint should know; saved beside the state.
          before_commit: called by process 0, in the background, when a checkpoint is
            written but does not count yet.
        """
        self.directory = epath.Path(directory)
        self._every, self._about = every, about or {}
        self._keep, self._keep_every = keep, keep_every
        self._before_commit = before_commit
        self._manager = self._open(cleanup=True)
        # Orbax's threads are waited for in one of our own, so that the loop need not.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: Save | None = None
        self._reopening: concurrent.futures.Future | None = None
        self._upload = False  # whether the next save goes by this machine's disk
        self._failed_since: float | None = None
        self._pause = FIRST_PAUSE

    def _open(self, *, cleanup: bool) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            keep_period=self._keep_every or None,
            cleanup_tmp_directories=cleanup,
            async_options=ocp.AsyncOptions(
                timeout_secs=max(1200, int(2 * patience())),
                post_finalization_callback=self._before_commit,
            ),
            # Whether a step is there already is known, see `save`; to look for it again
            # would have the loop wait for the storage.
            file_options=ocp.options.FileOptions(skip_sync_file_validations=True),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, complete or being written."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the state of this step is one to save."""
        return step % self._every == 0

    def preempted(self, step: int) -> bool:
        """Whether any process of a multi-process run was told to stop."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state) -> None:
        """Starts to write the state, unless it is saved already or `poll` is to do so.

        Returns at once, but where the save before is still going on: that is said.

        Raises:
          CheckpointError: if this or the previous save failed for good.
        """
        writing = self._writing
        if writing and writing.step == step and not writing.end.done():
            return
        if writing:
            before = f"writing checkpoint {writing.step}; step {step} waits for it"
            with said_if_slow(before, after=1.0):
                concurrent.futures.wait([writing.end])
            self._settle()
        if self._reopening or step == self.latest:
            return
        began = time.monotonic()
        try:
            finish = self._start(step, state)
        except (ValueError, OSError) as cause:
            raise _unwritten(self.directory, cause) from cause
        self._writing = Save(step, self._thread.submit(finish), began)

    def _start(self, step: int, state) -> Callable[[], None]:
        """Starts to write; returns what waits for the end."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(self._about)
        )
        if not self._upload:
            self._manager.save(step, args=args, force=True)
            return self._manager.wait_until_finished
        self._upload = False
        finish = start_upload(str(self.directory), step, args, self._before_commit)

        def finish_and_look() -> None:
            finish()
            self._manager.reload()

        return finish_and_look

    def poll(self, step: int, state) -> None:
        """Looks, without waiting, whether the last save failed, and then saves again.

        Raises:
          CheckpointError: if it failed for good.
        """
        if self._writing and self._writing.end.done():
            self._settle()
        if self._reopening and self._reopening.done():
            reopening, self._reopening = self._reopening, None
            try:
                self._manager = reopening.result()
            except (ValueError, OSError) as cause:
                raise _unwritten(self.directory, cause) from cause
            self.save(step, state)

    def _settle(self) -> None:
        """Takes note of how a save that has ended went."""
        if not self._writing:
            return
        (step, end, began), self._writing = self._writing, None
        error = end.exception()
        if error is None:
            if self._failed_since is not None:
                say(f"Checkpoint {step} is written.")
            self._failed_since, self._pause = None, FIRST_PAUSE
            return
        if self._failed_since is None:
            self._failed_since = began
        passes = in_bucket(self.directory) and meaning(error) in PASSING
        late = time.monotonic() - self._failed_since > patience()
        if not isinstance(error, Exception):
            raise error
        if jax.process_count() > 1 or late or not passes:
            raise _unwritten(self.directory, error) from error
        say(
            f"Checkpoint {step} could not be written to {self.directory}: "
            f"{_reason(error)}; the state will be saved again."
        )
        self._upload = meaning(error) is Meaning.TOKEN
        self._reopening = self._thread.submit(self._reopen, step, self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _reopen(self, step: int, pause: float) -> ocp.CheckpointManager:
        """A manager without the save that failed, once the storage answers."""
        time.sleep(pause)
        with contextlib.suppress(Exception):  # the failure that is known
            self._manager.close()
        half = self.directory / str(step)
        if not (half / COMMIT).exists():  # else only the removal of another failed
            half.rmtree(missing_ok=True)
        return self._open(cleanup=False)

    def finish(self, step: int, state) -> None:
        """Saves the state, if it is not saved, and waits until it is.

        Raises:
          CheckpointError: if it could not be.
        """
        self.save(step, state)
        while self._writing or self._reopening:
            pending = [self._writing.end] if self._writing else []
            pending += [self._reopening] if self._reopening else []
            with said_if_slow(f"writing checkpoint {step}"):
                concurrent.futures.wait(pending, return_when="FIRST_COMPLETED")
            self.poll(step, state)

    def wait(self) -> None:
        """Waits until what is being written is, if it can be.

        Raises:
          CheckpointError: if it could not be.
        """
        if self._writing:
            concurrent.futures.wait([self._writing.end])
            self._settle()

    def close(self) -> None:
        """Raises as `wait`."""
        self.wait()
        self._thread.shutdown()
        self._manager.close()

    def restore(self, template, step: int):
        """The state of a step.

        Args:
          template: the state's tree of shapes, dtypes and shardings.

        Raises:
          CheckpointError: if it is missing, damaged or of another shape.
        """
        return _restore(self._manager, self.directory, step, template)


def newest(directory) -> int | None:
    """The step of the newest whole checkpoint of a run; None where there is none."""
    directory = epath.Path(directory)
    if not directory.exists():
        return None
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(directory, options=options) as manager:
        return manager.latest_step()


def restore_latest(directory, template):
    """The newest state of a run that may still be going on, and its step.

    Raises:
      ValueError: if there is none yet.
      CheckpointError: if it is damaged or of another shape.
    """
    directory = epath.Path(directory)
    options = ocp.CheckpointManagerOptions(read_only=True)
    if not directory.exists():
        raise ValueError(f"{directory.parent} holds no checkpoint yet.")
    with ocp.CheckpointManager(directory, options=options) as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"{directory.parent} holds no checkpoint yet.")
        if jax.process_count() > 1:  # a run that goes on may save one right now
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        return _restore(manager, directory, step, template), step


def _restore(manager, directory, step, template):
    try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        with said_if_slow(f"reading checkpoint {step} of {directory}"):
            return manager.restore(step, args=args)["state"]
    except Exception as cause:  # Orbax raises five unrelated types
        raise _unread(directory, step, cause) from cause


def template(shapes, placement):
    """The abstract state to restore into: shapes with their place on the mesh."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        placement,
    )
