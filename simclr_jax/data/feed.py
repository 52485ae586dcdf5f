"""From the rows of this process to global arrays on the mesh."""

import collections
import itertools

import jax

from simclr_jax.sharding import by_batch


def feed(batches, mesh, ahead: int = 2):
    """Yields global batches, split by rows over the mesh, `ahead` of them in flight.

    Args:
      batches: iterator of trees of numpy arrays [rows of this process, ...].
    """
    place = by_batch(mesh)
    queue = collections.deque()

    def put(batch):
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(place, x), batch
        )

    batches = iter(batches)
    queue.extend(put(batch) for batch in itertools.islice(batches, ahead))
    while queue:
        yield queue.popleft()
        queue.extend(put(batch) for batch in itertools.islice(batches, 1))
