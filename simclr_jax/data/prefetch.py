"""From the rows of this process to global arrays on the mesh."""

import collections
import concurrent.futures
from collections.abc import Generator, Iterable
from typing import Any

import jax
from jax.sharding import Mesh

from simclr_jax.sharding import by_batch


def feed(
    batches: Iterable[Any], mesh: Mesh, ahead: int = 2
) -> Generator[Any, None, None]:
    """Global batches, split by rows over the mesh.

    A separate thread makes them and sends them to the devices in advance, the first
    ones at once.

    Args:
      batches: trees of numpy arrays [rows of this process, ...].
      ahead: the number of batches that are made in advance.
    """
    sharding, local = by_batch(mesh), iter(batches)

    def send(x):
        return jax.make_array_from_process_local_data(sharding, x)

    def fetch():
        batch = next(local, None)
        return None if batch is None else jax.tree.map(send, batch)

    pool = concurrent.futures.ThreadPoolExecutor(1)
    pending = collections.deque(pool.submit(fetch) for _ in range(ahead))

    def batches():
        try:
            while (batch := pending.popleft().result()) is not None:
                pending.append(pool.submit(fetch))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    return batches()
