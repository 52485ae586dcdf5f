"""The memory of the input pipeline over time, and the times of a step on the host.

python -m tests.benchmarks.steady DATA_DIR [MINUTES]

Memory: the pipelines of 224 pixels run for MINUTES each on `imagenet_like` in DATA_DIR,
each in a separate process; ten rows have the resident memory in MiB.

Times: the training step of `configs/quickstart.py` runs on the package's pictures, with
colours on the host or the device. For each step they are the wait for its batch, the
call that dispatches it, and the time of the device. Meanwhile threads of the host make
the next batches.
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
from tests.benchmarks.measure import machine

COLOURS = ("host", "device")
ENDLESS = 2**40
STEPS = 20


def main(folder: str, minutes: str = "5") -> None:
    print(machine("tensorflow", "jax"))
    print(f"\n| seconds | {' | '.join(COLOURS)} |\n|---|---|---|")
    context = multiprocessing.get_context("spawn")
    columns = []
    for colour in COLOURS:
        with context.Pool(1) as pool:
            columns.append(pool.apply(memory, (folder, colour, 60 * float(minutes))))
    for row in zip(*columns, strict=True):
        seconds = row[0][0]
        print(f"| {seconds:.0f} | {' | '.join(memory_cell(*x) for x in row)} |")
    print("\n| ms of a step, median (99th percentile) | host | device |\n|---|---|---|")
    times = [step_times(colour) for colour in COLOURS]
    for name in times[0]:
        print(f"| {name} | {' | '.join(time_cell(x[name]) for x in times)} |")


def memory_cell(_: float, images: int, mib: float) -> str:
    return f"{mib:.0f} MiB after {images:,} images"


def time_cell(seconds: np.ndarray) -> str:
    """The median and the 99th percentile, in ms."""
    middle, high = (1e3 * np.quantile(seconds, q) for q in (0.5, 0.99))
    return f"{middle:.2f} ({high:.2f})"


def memory(folder: str, colour: str, seconds: float) -> list[tuple[float, int, float]]:
    """(seconds, images, MiB), ten times."""
    source = open_source("imagenet_like", data_dir=folder, split="train")
    batches = train_batches(
        source,
        simclr(size=224),
        batch_size=64,
        seed=0,
        first_step=0,
        steps=ENDLESS,
        colour=colour,
    )
    next(batches)
    rows, images, start = [], 0, time.monotonic()
    for mark in range(1, 11):
        while time.monotonic() - start < mark * seconds / 10:
            next(batches)
            images += 64
        rows.append((mark * seconds / 10, images, resident()))
    return rows


def resident() -> float:
    """The resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def step_times(colour: str) -> dict[str, np.ndarray]:
    """Seconds of each step: for the batch, for the call, for the device."""
    c, mesh = config.load("configs/quickstart.py"), sharding.make_mesh()
    c.data.colour = colour
    source = open_source("cifar10_mini", split="train")
    with jax.set_mesh(mesh):
        run = build.assemble(c, mesh, images=len(source), classes=source.classes)
        step, state = build.train_step(c, run, mesh), run.create()
        batches = feed(
            train_batches(
                source, build.recipe(c), batch_size=c.data.batch_size, seed=0,
                first_step=0, steps=ENDLESS, colour=colour,
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
    names = ("waiting for the batch", "dispatching the step", "on the device")
    return dict(zip(names, np.array(times).T, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
