"""Reading the state of a run that Orbax has saved."""

import logging
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint._src.path import gcs_utils

import simclr_jax.storage.gcs_path  # noqa: F401, paths that Orbax uses in buckets
from simclr_jax.storage import client
from simclr_jax.storage.retry import report_if_slow
from simclr_jax.train.checkpoint_errors import not_read

# Orbax's own client needs a project, does not retry and raises other errors.
gcs_utils.get_bucket = client.get_bucket


def _reader(directory: epath.Path) -> ocp.CheckpointManager:
    """A manager that only reads, without its warning that it does."""
    options = ocp.CheckpointManagerOptions(
        read_only=True, save_interval_steps=0, create=False
    )
    log = logging.getLogger("absl")
    log.addFilter(_is_other)
    try:
        return ocp.CheckpointManager(directory, options=options)
    finally:
        log.removeFilter(_is_other)


def _is_other(record: logging.LogRecord) -> bool:
    return "directory is read only" not in record.getMessage()


def newest(directory: str | os.PathLike) -> int | None:
    """The step of the newest complete checkpoint of a run; None without one."""
    directory = epath.Path(directory)
    if not directory.exists():
        return None
    with _reader(directory) as manager:
        return manager.latest_step()


def restore_latest(directory: str | os.PathLike, template: Any) -> tuple[Any, int]:
    """Reads the newest state of a run that may still be running, and its step.

    Args:
      template: the state's tree of shapes, dtypes and shardings, see `template`.

    Raises:
      ValueError: there is no checkpoint yet.
      CheckpointError: it is damaged or of other shapes.
    """
    directory = epath.Path(directory)
    if not directory.exists():
        raise ValueError(f"{directory.parent} holds no checkpoint yet.")
    with _reader(directory) as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"{directory.parent} holds no checkpoint yet.")
        if jax.process_count() > 1:  # the run may add a checkpoint in the meantime
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        return restore(manager, directory, step, template), step


def restore(
    manager: ocp.CheckpointManager, directory: epath.Path, step: int, template: Any
) -> Any:
    """Reads the state of a step.

    Raises:
      CheckpointError: it is missing, damaged or of other shapes.
    """
    try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        with report_if_slow(f"reading checkpoint {step} of {directory}"):
            return manager.restore(step, args=args)["state"]
    except Exception as cause:  # Orbax raises five unrelated types
        raise not_read(directory, step, cause) from cause


def template(shapes: Any, shardings: Any) -> Any:
    """The abstract state to restore: shapes and dtypes with their shardings.

    Args:
      shapes: a tree of arrays or of jax.ShapeDtypeStructs.
      shardings: the tree of their shardings.
    """
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )
