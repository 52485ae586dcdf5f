"""Saving and restoring the state with Orbax, in the background."""

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; says which and why."""


def _unwritten(directory, cause: Exception) -> CheckpointError:
    """The error for a checkpoint that could not be written."""
    reason = _reason(cause)
    if "RESOURCE_EXHAUSTED" in str(cause) or "No space left" in str(cause):
        reason = "no space left on the device"
    return CheckpointError(
        f"A checkpoint could not be written to {directory}: {reason}. Those written "
        "before are untouched; the same command goes on from the last of them."
    )


def _unread(directory, step: int, cause: Exception) -> CheckpointError:
    """The error for a checkpoint that could not be read."""
    return CheckpointError(
        f"Checkpoint {step} of {directory} could not be read: {_reason(cause)}. If it "
        f"is damaged, remove {directory / str(step)}: the one before it is then the "
        "newest."
    )


def _reason(cause: Exception) -> str:
    """The first and the last words of an error; the middle of Orbax's is its stack."""
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) < 600 else f"{text[:200]} ... {text[-300:]}"


class Checkpoints:
    """The checkpoints of one run: the last few, and every n-th for good."""

    def __init__(
        self,
        directory,
        *,
        every: int,
        keep: int = 3,
        keep_every: int = 0,
        about: dict | None = None,
    ):
        """
        Args:
          every: steps between two saves.
          keep: how many of the last to keep.
          keep_every: checkpoints whose step this divides stay for good; 0: none do.
          about: what a reader of a checkpoint should know; saved beside the state.
        """
        self.directory, self._every, self._about = directory, every, about or {}
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the state of this step is one to save."""
        return step % self._every == 0

    def save(self, step: int, state) -> None:
        """Starts to write the state, unless it is saved already; returns at once.

        Raises:
          CheckpointError: if this or the previous save failed.
        """
        if step == self.latest:
            return
        try:
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(self._about)
            )
            self._manager.save(step, args=args, force=True)
        except (ValueError, OSError) as cause:
            raise _unwritten(self.directory, cause) from cause

    def preempted(self, step: int) -> bool:
        """Whether any process of a multi-process run was told to stop."""
        return self._manager.reached_preemption(step)

    def restore(self, template, step: int):
        """The state of a step.

        Args:
          template: the state's tree of shapes, dtypes and shardings.

        Raises:
          CheckpointError: if it is missing, damaged or of another shape.
        """
        return _restore(self._manager, self.directory, step, template)

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
          CheckpointError: if it could not be.
        """
        try:
            self._manager.wait_until_finished()
        except (ValueError, OSError) as cause:
            raise _unwritten(self.directory, cause) from cause

    def close(self) -> None:
        self.wait()
        self._manager.close()


def newest(directory) -> int | None:
    """The step of the newest whole checkpoint of a run; None where there is none."""
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
