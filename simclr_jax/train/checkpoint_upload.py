"""Writes a checkpoint to the local disk and uploads it, for a single process.

TensorStore uses an access token until it expires, even if it was revoked;
google-cloud-storage requests a new one.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable

import orbax.checkpoint as ocp

from simclr_jax.storage import bucket
from simclr_jax.storage.bucket import COMMIT


def start_upload(
    directory: str,
    step: int,
    args: ocp.args.CheckpointArgs,
    before_commit: Callable[[], None],
) -> Callable[[], None]:
    """Starts to write a checkpoint on the local disk.

    Args:
      directory: of all checkpoints, in a bucket.
      args: Orbax's arguments: the items to save.
      before_commit: called after the upload, before the checkpoint is marked as
        complete.

    Returns:
      a function that waits until it is written, uploads it and removes the local copy.
      It raises OSError or ValueError.
    """
    scratch = tempfile.TemporaryDirectory(prefix="simclr_jax_checkpoint_")
    manager = ocp.CheckpointManager(scratch.name)
    manager.save(step, args=args, force=True)

    def finish() -> None:
        with scratch:
            with contextlib.closing(manager):
                manager.wait_until_finished()
            source, target = (
                pathlib.Path(scratch.name, str(step)),
                f"{directory}/{step}",
            )
            bucket.upload(source, target)
            before_commit()
            items = [item.name for item in source.iterdir() if item.is_dir()]
            for folder in (*(f"{target}/{item}" for item in items), target):
                bucket.write(f"{folder}/{COMMIT}", "uploaded by simclr_jax")

    return finish
