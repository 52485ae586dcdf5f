"""What the input costs the host, and how many cores a step needs: measured on the spot.

python -m simclr_jax data bench --config configs/NAME.py
    [--step_ms MS] [--seconds S] [--config.a.b=value ...]

The config's pictures go through the config's pipeline for some seconds a stage. Times
are the processor's, of all threads together, and so hold beside other work; a core is
what the operating system calls one. What comes out is numpy batches: to send them to
a device is not part of it.
"""

import itertools
import time
from typing import NamedTuple

import jax

from simclr_jax.cli import common
from simclr_jax.data.pipeline import decoded_shapes, train_batches
from simclr_jax.data.recipes import expand
from simclr_jax.data.sampler import Order
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, config

EXAMPLE = "python -m simclr_jax data bench --config configs/quickstart.py"

PIXELS = 2**23  # of all views of a measured batch, at most: part of a second
WARM = 2  # batches that are not counted: the programs are built with them
ENDLESS = 2**40  # steps


class Delivered(NamedTuple):
    """What a pipeline does, by the image, with all its views."""

    images_per_core_second: float
    bytes_per_image_on_the_wire: float  # pixels and draws, to the device
    bytes_read_per_image: float  # encoded; 0 where all are kept in memory, decoded


def main(argv: list[str]) -> None:
    """Measures as the command line says; see common.run_and_exit for the exit codes."""
    c, asked = read(argv)
    with common.usage_errors():
        source = open_source(c.data.name, data_dir=c.data.data_dir, split=c.data.split)
        words = {"batch_size": c.data.batch_size, "colour": c.data.colour}
        words |= {"seconds": asked.seconds}
        done = measure(source, build.recipe(c), **words)
        spent = stages(source, build.recipe(c), done, **words)
    print(f"{source.name}: {len(source)} pictures")
    print(report(spent, done, c.data.batch_size, asked.step_ms))


def read(argv: list[str]):
    """The config that a command line means, and what it asks for.

    Raises:
      UsageError: with the nearest right spelling of what is wrong.
      SystemExit: for words that are not understood at all; the message is printed.
    """
    parser = common.Parser(
        prog="simclr_jax data bench", description=__doc__, example=EXAMPLE
    )
    parser.add_argument("--config", required=True, help="FILE.py[:key=value,...]")
    parser.add_argument("--step_ms", type=float, default=100.0, help="of a step")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each stage")
    asked, changes = parser.parse_with_changes(argv)
    with common.usage_errors():
        return config.read(asked.config, changes), asked


def measure(
    source, views, *, batch_size: int, colour: str, seconds: float = 5.0
) -> Delivered:
    """Runs the training pipeline for a while.

    Args:
      source: a `sources.Source`.
      views: of `view.View`, the recipe's.
      batch_size: of the run; of a large one, or one beyond the source, a part is made.
      colour: as in `pipeline.train_batches`.
      seconds: how long, after the start.

    Raises:
      ValueError: as `pipeline.train_batches`.
    """
    n, counted = part(views, batch_size, len(source)), _Counted(source)
    words = {"batch_size": n, "seed": 0, "start_step": 0, "steps": ENDLESS}
    batches = train_batches(counted, views, colour=colour, **words)
    first = next(batches)
    counted.bytes = counted.images = 0
    images, spent = spend(batches, n, seconds)
    wire = sum(x.nbytes for x in jax.tree.leaves(first)) / n
    return Delivered(images / spent, wire, counted.bytes / max(counted.images, 1))


def part(views, batch_size: int, pictures: int) -> int:
    """How many pictures a measured batch has."""
    pixels = sum(view.size**2 for view in expand(views))
    return max(1, min(batch_size, pictures, PIXELS // pixels))


def stages(
    source, views, whole: Delivered, *, batch_size: int, colour: str, seconds: float
) -> dict[str, float]:
    """Milliseconds of a core for each image, stage by stage.

    Each is the difference of two pipelines of which one goes further; the last goes as
    far as `whole`, which `measure` found.
    """
    total = 1e3 / whole.images_per_core_second
    if not whole.bytes_read_per_image:
        return {"gather, draw": total}
    n = part(views, batch_size, len(source))
    order = Order(len(source), n, 0, block=source.block)
    upto = {
        "read": (source.read(order.indices(step)[0]) for step in itertools.count()),
        "decode": decoded_shapes(source, batch_size=n, seed=0, steps=ENDLESS),
    }
    ends = [0.0]
    for batches in upto.values():
        images, spent = spend(batches, n, seconds)
        ends.append(1e3 * spent / images)
    last = "cut, colour" if colour == "host" else "cut"
    each = [b - a for a, b in itertools.pairwise([*ends, total])]
    return dict(zip([*upto, last], each, strict=True))


def report(spent: dict[str, float], done: Delivered, batch: int, step_ms: float) -> str:
    """What was found, for people."""
    total = 1e3 / done.images_per_core_second
    lines = [f"{'':14}{'ms an image':>12}{'images/s a core':>18}"]
    for name, ms in (*spent.items(), ("all", total)):
        lines.append(f"{name:14}{ms:12.4f}{1e3 / max(ms, 1e-9):18,.0f}")
    cores = batch * total / step_ms
    return "\n".join(
        [
            *lines,
            f"read           {done.bytes_read_per_image:,.0f} bytes an image",
            f"to the device  {done.bytes_per_image_on_the_wire:,.0f} bytes an image",
            f"cores          {cores:.2f} for a batch of {batch} every {step_ms:g} ms",
        ]
    )


def spend(batches, n, seconds):
    """Draws batches for a while.

    Args:
      batches: a generator, which is closed in the end.
      n: images of a batch.
      seconds: how long, once the first batches have come.

    Returns:
      How many images came, and the processor's seconds that they took.
    """
    for _ in range(WARM):
        next(batches)
    images = 0
    begun, end = time.process_time(), time.monotonic() + seconds
    while not images or time.monotonic() < end:
        next(batches)
        images += n
    spent = time.process_time() - begun
    batches.close()  # and with it the pipeline's threads
    return images, spent


class _Counted:
    """A source that counts what it is asked for."""

    def __init__(self, source):
        self._source, self.bytes, self.images = source, 0, 0

    def __len__(self):
        return len(self._source)

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, indices):
        batch = self._source.read(indices)
        self.bytes += sum(map(len, batch["image"]))
        self.images += len(indices)
        return batch


if __name__ == "__main__":
    common.run_and_exit(main)
