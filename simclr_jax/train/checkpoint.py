"""Saving the state with Orbax in the background, and restoring it."""

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from simclr_jax.storage.bucket import COMMIT
from simclr_jax.storage.errors import Category, classify
from simclr_jax.storage.paths import in_bucket
from simclr_jax.storage.retry import report_if_slow, retry_seconds, say
from simclr_jax.train.checkpoint_errors import describe, not_written
from simclr_jax.train.checkpoint_reader import restore
from simclr_jax.train.checkpoint_upload import start_upload

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds from a failed save to the next
TEMPORARY = (Category.TRANSIENT, Category.TOKEN)


class Save(NamedTuple):
    """A save that is running in the background."""

    step: int
    end: concurrent.futures.Future
    start: float  # time.monotonic()


class Checkpoints:
    """The checkpoints of one run: the last few, and every n-th permanently.

    After a temporary failure the state of a later step is saved instead, until saves
    have failed for `storage.retry.retry_seconds()`. Several processes would have to
    agree on that step, so with several processes any failure is raised.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        every: int,
        keep: int = 3,
        keep_every: int = 0,
        metadata: dict | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        """
        Args:
          directory: an absolute path.
          every: steps between two saves.
          keep: number of the newest checkpoints to keep.
          keep_every: checkpoints whose step this divides are kept permanently; 0 for
            none.
          metadata: saved beside the state, as JSON.
          before_commit: called by process 0, in the background, after a checkpoint is
            written and before it is marked as complete.
        """
        self.directory = epath.Path(directory)
        self._every, self._metadata = every, metadata or {}
        self._keep, self._keep_every = keep, keep_every
        self._before_commit = before_commit
        self._manager = self._open(cleanup=True)
        # Waits for Orbax's threads, so that the loop does not.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: Save | None = None
        self._reopening: concurrent.futures.Future | None = None
        self._upload = False  # whether the next save uses `checkpoint_upload`
        self._failed_since: float | None = None
        self._pause = FIRST_PAUSE

    def _open(self, *, cleanup: bool) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            keep_period=self._keep_every or None,
            cleanup_tmp_directories=cleanup,
            async_options=ocp.AsyncOptions(
                timeout_secs=max(1200, int(2 * retry_seconds())),
                post_finalization_callback=self._before_commit,
            ),
            # `save` knows which steps exist; listing them again would make the loop
            # wait for the storage.
            file_options=ocp.options.FileOptions(skip_sync_file_validations=True),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, complete or being written."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the state of this step is to be saved."""
        return step % self._every == 0

    def preempted(self, step: int) -> bool:
        """Whether any process of a multi-process run was asked to stop."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: Any) -> None:
        """Starts to write the state, unless it is saved already or `poll` will save it.

        Waits for a previous save that is still running, with a message.

        Raises:
          CheckpointError: this or the previous save failed and is not retried.
        """
        writing = self._writing
        if writing and writing.step == step and not writing.end.done():
            return
        if writing:
            activity = f"writing checkpoint {writing.step}; step {step} waits for it"
            with report_if_slow(activity, after=1.0):
                self.wait()
        if self._reopening or step == self.latest:
            return
        start = time.monotonic()
        try:
            finish = self._start(step, state)
        except (ValueError, OSError) as cause:
            raise not_written(self.directory, step, cause) from cause
        self._writing = Save(step, self._thread.submit(finish), start)

    def _start(self, step: int, state: Any) -> Callable[[], None]:
        """Starts to write; returns a function that waits for the end."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(self._metadata)
        )
        if not self._upload:
            self._manager.save(step, args=args, force=True)
            return self._manager.wait_until_finished
        self._upload = False
        finish = start_upload(str(self.directory), step, args, self._before_commit)

        def finish_and_reload() -> None:
            finish()
            self._manager.reload()

        return finish_and_reload

    def poll(self, step: int, state: Any) -> None:
        """Saves again if the last save failed, without waiting; raises as `save`."""
        if self._writing and self._writing.end.done():
            self._settle()
        if self._reopening and self._reopening.done():
            reopening, self._reopening = self._reopening, None
            try:
                self._manager = reopening.result()
            except (ValueError, OSError) as cause:
                raise not_written(self.directory, step, cause) from cause
            self.save(step, state)

    def _settle(self) -> None:
        """Handles the result of a save that has ended."""
        if not self._writing:
            return
        (step, end, start), self._writing = self._writing, None
        error = end.exception()
        if error is None:
            if self._failed_since is not None:
                say(f"Checkpoint {step} is written.")
            self._failed_since, self._pause = None, FIRST_PAUSE
            return
        if self._failed_since is None:
            self._failed_since = start
        temporary = in_bucket(self.directory) and classify(error) in TEMPORARY
        timed_out = time.monotonic() - self._failed_since > retry_seconds()
        if not isinstance(error, Exception):
            raise error
        if jax.process_count() > 1 or timed_out or not temporary:
            raise not_written(self.directory, step, error) from error
        say(
            f"Checkpoint {step} could not be written to {self.directory}: "
            f"{describe(error)}; the state will be saved again."
        )
        self._upload = classify(error) is Category.TOKEN
        self._reopening = self._thread.submit(self._reopen, step, self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _reopen(self, step: int, pause: float) -> ocp.CheckpointManager:
        """Waits, removes the failed save and returns a new manager."""
        time.sleep(pause)
        with contextlib.suppress(Exception):  # the error that `_settle` has handled
            self._manager.close()
        partial = self.directory / str(step)
        if not (partial / COMMIT).exists():  # else only removing an old one failed
            partial.rmtree(missing_ok=True)
        return self._open(cleanup=False)

    def finish(self, step: int, state: Any) -> None:
        """Saves the state, unless it is saved already, and waits until it is written.

        Raises:
          CheckpointError: it could not be written.
        """
        self.save(step, state)
        while self._writing or self._reopening:
            pending = [self._writing.end] if self._writing else []
            pending += [self._reopening] if self._reopening else []
            with report_if_slow(f"writing checkpoint {step}"):
                concurrent.futures.wait(pending, return_when="FIRST_COMPLETED")
            self.poll(step, state)

    def wait(self) -> None:
        """Waits for the end of a running save.

        Raises:
          CheckpointError: it failed and is not retried.
        """
        if self._writing:
            concurrent.futures.wait([self._writing.end])
            self._settle()

    def close(self) -> None:
        """Waits for a running save and frees the threads; raises as `wait`."""
        self.wait()
        self._thread.shutdown()
        self._manager.close()

    def restore(self, template: Any, step: int) -> Any:
        """Reads the state of a step.

        Args:
          template: the state's tree of shapes, dtypes and shardings, see `template`.

        Raises:
          CheckpointError: it is missing, damaged or of other shapes.
        """
        return restore(self._manager, self.directory, step, template)
