"""From the rows of this process to global arrays on the mesh."""

import collections
import concurrent.futures

import jax

from simclr_jax.sharding import by_batch


def feed(batches, mesh, ahead: int = 2):
    """Yields global batches, split by rows over the mesh, `ahead` of them in flight.

    A thread of its own makes and sends them: a step waits for neither.

    Args:
      batches: iterator of trees of numpy arrays [rows of this process, ...].
    """
    place, batches = by_batch(mesh), iter(batches)

    def send(x):
        return jax.make_array_from_process_local_data(place, x)

    def fetch():
        batch = next(batches, None)
        return None if batch is None else jax.tree.map(send, batch)

    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        coming = collections.deque(pool.submit(fetch) for _ in range(ahead))
        while (batch := coming.popleft().result()) is not None:
            coming.append(pool.submit(fetch))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
