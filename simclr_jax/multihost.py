"""The processes of one run: who goes first, and what all of them must see alike."""

import contextlib
import itertools
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

PATIENCE = 24 * 3600  # seconds; a data set may have to be downloaded and prepared

_turns = itertools.count()  # counted alike in every process


@contextlib.contextmanager
def first_goes_first():
    """Inside, process 0 is done before the others begin: they find what it made.

    If it fails the others begin all the same, and meet what it met. They wait at the
    coordination service, where a collective would give up after half a minute.
    """
    turn = f"simclr_jax turn {next(_turns)}"

    def wait():
        ocp.multihost.get_barrier_sync_fn()(key=turn, timeout_ms=1000 * PATIENCE)

    several, first = jax.process_count() > 1, jax.process_index() == 0
    if several and not first:
        wait()
    try:
        yield
    finally:
        if several and first:
            wait()


def agree(seen: str, where) -> None:
    """Makes sure that all processes read the same under a path.

    Raises:
      ValueError: in every process, if they do not: they do not share the storage.
    """
    if jax.process_count() == 1:
        return
    mine = np.uint32(zlib.crc32(seen.encode()))
    if len(np.unique(multihost_utils.process_allgather(mine))) > 1:
        raise ValueError(
            f"The processes do not see the same under {where}. A run in several "
            "processes needs a work directory that all of them share, on a common "
            "file system or in a bucket."
        )
