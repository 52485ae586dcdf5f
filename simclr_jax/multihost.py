"""Coordination of the processes of a run: running in order, and checking storage."""

import contextlib
import itertools
import os
import zlib
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

PATIENCE = 24 * 3600  # seconds to wait; a data set may be downloaded and prepared

_barriers = itertools.count()  # the same number in every process


class StorageNotShared(ValueError):
    """The processes of a run read different content under the same path."""


@contextlib.contextmanager
def process_0_first() -> Iterator[None]:
    """Process 0 runs the body before the others do, so that they read what it wrote.

    If it fails there, the others still run the body and get the same error. They wait
    in the coordination service, as a collective would time out after half a minute.
    """
    barrier = f"simclr_jax barrier {next(_barriers)}"

    def wait() -> None:
        ocp.multihost.get_barrier_sync_fn()(key=barrier, timeout_ms=1000 * PATIENCE)

    several, first = jax.process_count() > 1, jax.process_index() == 0
    if several and not first:
        wait()
    try:
        yield
    finally:
        if several and first:
            wait()


def check_shared(content: str, path: str | os.PathLike) -> None:
    """Checks that all processes have read the same content under a path.

    Raises:
      StorageNotShared: in every process, if they do not.
    """
    if jax.process_count() == 1:
        return
    checksum = np.uint32(zlib.crc32(content.encode()))
    if len(np.unique(multihost_utils.process_allgather(checksum))) > 1:
        raise StorageNotShared(
            f"The processes do not see the same under {path}. A run in several "
            "processes needs a work directory that all of them share, on a common "
            "file system or in a bucket."
        )
