"""Errors of writing and reading checkpoints."""

import os

from simclr_jax.storage.errors import Category, classify, reason
from simclr_jax.storage.paths import in_bucket


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read.

    Attributes:
      path: of the directory of checkpoints.
      step: of the checkpoint.
      reason: a short description of the cause.
    """

    def __init__(
        self, operation: str, path: str, step: int, reason: str, advice: str = ""
    ):
        """
        Args:
          operation: "written" or "read".
          advice: sentences that follow the message.
        """
        text = f"Checkpoint {step} of {path} could not be {operation}: {reason}."
        super().__init__(f"{text} {advice}".strip())
        self.path, self.step, self.reason = path, step, reason


class CheckpointUnavailable(CheckpointError):
    """The storage failed; a later attempt may succeed."""


def not_written(directory: os.PathLike, step: int, cause: Exception) -> CheckpointError:
    """The error for a checkpoint that could not be written."""
    path, why = os.fspath(directory), describe(cause)
    remote = in_bucket(path)
    full = "No space left" in str(cause) or "RESOURCE_EXHAUSTED" in str(cause)
    if full and not remote:
        why = "no space left on the device"
    storage_failed = remote and classify(cause) is not Category.OTHER
    error = CheckpointUnavailable if storage_failed else CheckpointError
    advice = "Earlier ones are unchanged; the same command resumes from the last."
    return error("written", path, step, why, advice)


def not_read(directory: os.PathLike, step: int, cause: Exception) -> CheckpointError:
    """The error for a checkpoint that could not be read."""
    path, why = os.fspath(directory), describe(cause)
    if in_bucket(path) and classify(cause) not in (Category.OTHER, Category.MISSING):
        return CheckpointUnavailable("read", path, step, why)
    advice = (
        f"If it is damaged, remove {path}/{step}: the one before it is then the newest."
    )
    return CheckpointError("read", path, step, why, advice)


def describe(cause: Exception) -> str:
    """A short description of an error; long messages are shortened in the middle."""
    if classify(cause) is not Category.OTHER:
        return reason(cause)
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) < 600 else f"{text[:200]} ... {text[-300:]}"
