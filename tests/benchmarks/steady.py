"""Does the input's memory stay as it is, and does a step ever wait for its batch?

python -m tests.benchmarks.steady DATA_DIR [MINUTES]

Memory: the pipelines of 224 pixels run for MINUTES each on `imagenet_like` in DATA_DIR,
in a process of their own; ten rows say what the process holds (resident, MiB).

Waiting: the training step of `configs/quickstart.py` runs on the package's pictures, by
either colour. Each step is timed by itself: the wait for its batch, the call that hands
it to the device, in which Python runs, and the device's own time. What the host does
for the next batches happens meanwhile, in threads.
"""

import multiprocessing
import os
import sys
import time

import jax
import numpy as np

from simclr_jax import sharding
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.prefetch import feed
from simclr_jax.data.recipes import simclr
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, config
from tests.benchmarks.input import machine

COLOURS = ("host", "device")
ENDLESS = 2**40
STEPS = 20


def main(folder: str, minutes: str = "5") -> None:
    print(f"{machine()}\n\n| seconds | {' | '.join(COLOURS)} |\n|---|---|---|")
    fresh = multiprocessing.get_context("spawn")
    columns = []
    for colour in COLOURS:
        with fresh.Pool(1) as pool:
            columns.append(pool.apply(memory, (folder, colour, 60 * float(minutes))))
    for (seconds, *_), *held in zip(columns[0], *columns, strict=True):
        print(f"| {seconds:.0f} | {' | '.join(told(*row) for row in held)} |")
    print("\n| ms of a step, median (99th percentile) | host | device |\n|---|---|---|")
    rows = [waits(colour) for colour in COLOURS]
    for name in rows[0]:
        print(f"| {name} | {' | '.join(spread(row[name]) for row in rows)} |")


def told(_, images, mib):
    return f"{mib:.0f} MiB after {images:,} images"


def spread(seconds):
    middle, high = (1e3 * np.quantile(seconds, q) for q in (0.5, 0.99))
    return f"{middle:.2f} ({high:.2f})"


def memory(folder, colour, seconds):
    """(seconds, images, MiB), ten times."""
    source = open_source("imagenet_like", data_dir=folder, split="train")
    batches = train_batches(
        source, simclr(size=224), batch_size=64, seed=0, start_step=0, steps=ENDLESS,
        colour=colour,
    )  # fmt: skip
    next(batches)
    found, images, begun = [], 0, time.monotonic()
    for mark in range(1, 11):
        while time.monotonic() - begun < mark * seconds / 10:
            next(batches)
            images += 64
        found.append((mark * seconds / 10, images, resident()))
    return found


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def waits(colour):
    """Seconds of every step: for the batch, for the call, for the device."""
    c, mesh = config.load("configs/quickstart.py"), sharding.make_mesh()
    c.data.colour = colour
    source = open_source("cifar10_mini", split="train")
    with jax.set_mesh(mesh):
        job = build.assemble(c, mesh, images=len(source), classes=source.classes)
        step, state = build.train_step(c, job, mesh), job.create()
        batches = feed(
            train_batches(
                source, build.recipe(c), batch_size=c.data.batch_size, seed=0,
                start_step=0, steps=ENDLESS, colour=colour,
            ),
            mesh,
        )  # fmt: skip
        state, metrics = step(state, next(batches))
        times = []
        for _ in range(STEPS):
            jax.block_until_ready(metrics)
            marks = [time.perf_counter()]
            batch = next(batches)
            marks.append(time.perf_counter())
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, batch)
            marks.append(time.perf_counter())
            jax.block_until_ready(metrics)
            marks.append(time.perf_counter())
            times.append(np.diff(marks))
        batches.close()
    names = ("waiting for the batch", "handing over the step", "on the device")
    return dict(zip(names, np.array(times).T, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
