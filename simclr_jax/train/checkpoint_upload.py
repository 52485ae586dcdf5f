"""A checkpoint in a bucket by way of this machine's disk, without TensorStore's client.

TensorStore keeps a token until its time is over, also one that is not accepted any
more; google-cloud-storage asks for another. For a single process.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable

import orbax.checkpoint as ocp

from simclr_jax.storage import bucket
from simclr_jax.storage.bucket import COMMIT


def start_upload(
    directory: str, step: int, args, before_commit: Callable[[], None]
) -> Callable[[], None]:
    """Starts to write a checkpoint on this machine.

    Args:
      directory: of all checkpoints, in a bucket.
      args: Orbax's, what to save.
      before_commit: called when all is written but does not count yet.

    Returns:
      what waits until it is written, sends it, and leaves nothing behind. It raises
      OSError or ValueError.
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
                bucket.write(f"{folder}/{COMMIT}", "sent from another disk")

    return finish
