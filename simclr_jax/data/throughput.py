"""Measures how many images per second the input pipeline delivers, and its stages.

Times are CPU seconds of all threads of the process, so that other work on the machine
changes them little; a core is a logical CPU of the operating system. The pipelines end
in numpy batches; sending these to a device is not included.
"""

import itertools
import time
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax.data.pipeline import decoded_shapes, train_batches
from simclr_jax.data.recipes import expand
from simclr_jax.data.sampler import Sampler
from simclr_jax.data.sources import Source
from simclr_jax.data.view import View

PIXELS = 2**23  # largest measured batch, in pixels of all views: under a second
WARM_UP = 2  # batches before the measurement, during which functions are traced
ENDLESS = 2**40  # steps


class Throughput(NamedTuple):
    """What a pipeline delivers; an image includes all its views."""

    images_per_core_second: float
    bytes_per_image_sent: float  # to the device: pixels and draws
    bytes_per_image_read: float  # encoded; 0 if all are kept in memory, decoded


def measure(
    source: Source,
    views: tuple[View, ...],
    *,
    batch_size: int,
    colour: str,
    seconds: float = 5.0,
) -> Throughput:
    """Measures the training pipeline for some seconds.

    Args:
      source: the pictures.
      views: of a recipe.
      batch_size: of the run; see `measured_batch`.
      colour: as in `pipeline.train_batches`.
      seconds: how long, after the warm-up.

    Raises:
      ValueError: as `pipeline.train_batches`.
    """
    n, counted = measured_batch(views, batch_size, len(source)), _Counted(source)
    batches = train_batches(
        counted, views, batch_size=n, seed=0, first_step=0, steps=ENDLESS, colour=colour
    )
    first = next(batches)
    counted.bytes = counted.images = 0
    images, cpu = consume(batches, n, seconds)
    sent = sum(x.nbytes for x in jax.tree.leaves(first)) / n
    return Throughput(images / cpu, sent, counted.bytes / max(counted.images, 1))


def measured_batch(views: tuple[View, ...], batch_size: int, images: int) -> int:
    """Images of a measured batch: the run's, or fewer if it is large.

    Args:
      views: of a recipe.
      batch_size: of the run.
      images: of the source.
    """
    pixels = sum(view.size**2 for view in expand(views))
    return max(1, min(batch_size, images, PIXELS // pixels))


def stages(
    source: Source,
    views: tuple[View, ...],
    whole: Throughput,
    *,
    batch_size: int,
    colour: str,
    seconds: float,
) -> dict[str, float]:
    """CPU milliseconds for each image, by stage.

    The time of a stage is the difference of two pipelines, of which one ends a stage
    later. The last pipeline is `whole`, as returned by `measure`; the other arguments
    are as for `measure`.
    """
    total = 1e3 / whole.images_per_core_second
    if not whole.bytes_per_image_read:
        return {"gather, draw" if colour == "device" else "gather, crop, colour": total}
    n = measured_batch(views, batch_size, len(source))
    pipelines = {
        "read": _read(source, n),
        "decode": decoded_shapes(source, batch_size=n, seed=0, steps=ENDLESS),
    }
    times = [0.0]
    for batches in pipelines.values():
        images, cpu = consume(batches, n, seconds)
        times.append(1e3 * cpu / images)
    last = "crop, colour" if colour == "host" else "crop"
    durations = [b - a for a, b in itertools.pairwise([*times, total])]
    return dict(zip([*pipelines, last], durations, strict=True))


def _read(source: Source, batch_size: int) -> Iterator[dict[str, Any]]:
    """The encoded pictures of a run, batch by batch."""
    sampler = Sampler(len(source), batch_size, 0, block=source.block)
    return (source.read(sampler.indices(step)[0]) for step in itertools.count())


def consume(
    batches: Iterator[Any], batch_size: int, seconds: float
) -> tuple[int, float]:
    """Takes batches for some seconds.

    Args:
      batches: an iterator; a generator is closed afterwards.
      batch_size: images of a batch.
      seconds: how long, after the warm-up.

    Returns:
      the number of images, and the CPU seconds that they took.
    """
    for _ in range(WARM_UP):
        next(batches)
    images = 0
    start, end = time.process_time(), time.monotonic() + seconds
    while not images or time.monotonic() < end:
        next(batches)
        images += batch_size
    cpu = time.process_time() - start
    if isinstance(batches, Generator):
        batches.close()  # stops the threads of the pipeline
    return images, cpu


class _Counted:
    """A source that counts the images that are read and their encoded bytes."""

    def __init__(self, source: Source):
        self._source, self.bytes, self.images = source, 0, 0
        self.name, self.block = source.name, source.block
        self.classes, self.class_names = source.classes, source.class_names
        self.describe = source.describe

    def __len__(self):
        return len(self._source)

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        batch = self._source.read(indices)
        self.bytes += sum(map(len, batch["image"]))
        self.images += len(indices)
        return batch
