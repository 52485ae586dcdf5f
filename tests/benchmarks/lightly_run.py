"""A run of the quickstart beside lightly's SimCLR, from start to exit.

python -m tests.benchmarks.lightly_run --torch PYTHON [--epochs 10] [--rounds 3]
    [--cores 0,1] [--threads 2] [--workers 2]

PYTHON is an interpreter with torch, torchvision and lightly. Linux only, in about ten
minutes.

Ours is `pretrain` with configs/quickstart.py and other epochs: it decodes, crops and
colours, trains network and probe, logs, evaluates by kNN and saves. lightly's is its
transform with the quickstart's strengths, its NT-Xent and PyTorch's loader with
persistent workers, around the network and AdamW of torch_simclr.py in the faster layout
of memory, without a probe, a log, an evaluation or a checkpoint; its pictures are
decoded in memory. They run in turn on the same cores, with the environment of
`measure.environment`. First ours runs once with an empty compilation cache of its own,
which the later runs read; then both run for one epoch.

It prints images a second: in the steady state by wall time, from the second epoch on
and without ours' evaluation; in the steady state by CPU time, where the run of one
epoch is subtracted; of the whole process, by wall and by CPU time. Ratios are ours to
lightly's.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from tests.benchmarks.measure import environment, machine, median_ratio

PRETRAIN = ["-m", "simclr_jax", "pretrain", "--config=configs/quickstart.py"]
BATCH = 256
STEPS = 5000 // BATCH  # of an epoch
COLUMNS = ("steady", "steady, a CPU second", "process", "process, a CPU second")
SIDES = ("ours", "lightly")


class Run(NamedTuple):
    steady: float  # images a wall second from the second epoch on
    wall: float  # seconds of the whole process
    cpu: float  # CPU seconds of the whole process


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.lightly_run")
    parser.add_argument("--torch", required=True)
    parser.add_argument("--cores", default="0,1")
    for name, number in {"epochs": 10, "rounds": 3, "threads": 2, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    a = parser.parse_args()
    os.sched_setaffinity(0, map(int, a.cores.split(",")))
    print(f"{machine('jax')}; {a}")
    with tempfile.TemporaryDirectory() as folder:
        decode(f"{folder}/pictures.npy")

        def run(side: str, epochs: int) -> Run:
            return (
                ours(folder, epochs) if side == "ours" else lightly(folder, epochs, a)
            )

        cold = run("ours", a.epochs)
        print(f"nothing compiled, ours: {cold.wall:.1f} s, {cold.cpu:.1f} CPU s")
        single = {side: run(side, 1) for side in SIDES}
        for side, x in single.items():
            print(f"one epoch, {side}: {x.wall:.1f} s, {x.cpu:.1f} CPU s")
        print(f"| images a second | {' | '.join(COLUMNS)} |\n|{'---|' * 5}")
        rounds = []
        for _ in range(a.rounds):
            rounds.append({})
            for side in SIDES:
                speed = speeds(run(side, a.epochs), single[side], a.epochs)
                rounds[-1][side] = speed
                cells = " | ".join(f"{x:.0f}" for x in speed.values())
                print(f"| {side} | {cells} |", flush=True)
    ratios = [
        median_ratio([{s: r[s][column] for s in SIDES} for r in rounds], *SIDES)
        for column in COLUMNS
    ]
    print(f"| ratio, median | {' | '.join(f'{x:.2f}' for x in ratios)} |")


def speeds(run: Run, single: Run, epochs: int) -> dict[str, float]:
    """Images a second, by column."""
    images = STEPS * BATCH
    cpu = (epochs - 1) * images / (run.cpu - single.cpu)
    process = [epochs * images / seconds for seconds in (run.wall, run.cpu)]
    return dict(zip(COLUMNS, [run.steady, cpu, *process], strict=True))


def ours(folder: str, epochs: int) -> Run:
    """`pretrain`, which evaluates as often as the quickstart, but at least once."""
    workdir = pathlib.Path(tempfile.mkdtemp(dir=folder))
    settings = {"epochs": epochs, "evaluate.every": min(10, epochs) * STEPS}
    args = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, *PRETRAIN, f"--workdir={workdir}", *args]
    cache = {"XDG_CACHE_HOME": f"{folder}/cache"}
    _, wall, cpu = timed(command, environment() | cache)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    by_epoch = [json.loads(line)["images_per_second"] for line in lines]
    return Run(statistics.harmonic_mean(by_epoch[1:] or by_epoch), wall, cpu)


def lightly(folder: str, epochs: int, a: argparse.Namespace) -> Run:
    """`train_with_lightly` in a process of its own."""
    numbers = map(str, (epochs, a.threads, a.workers))
    command = [a.torch, "-m", "tests.benchmarks.lightly_run"]
    command += [f"{folder}/pictures.npy", *numbers]
    out, wall, cpu = timed(command, environment(a.threads))
    return Run(float(out.split()[-1]), wall, cpu)


def timed(command: list[str], env: dict[str, str]) -> tuple[str, float, float]:
    """The output of a command, its wall seconds and its CPU seconds."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.stdout, wall, cpu


def decode(path: str) -> None:
    """Writes the package's pictures, uint8 [5000, 32, 32, 3]."""
    import numpy as np

    from simclr_jax.data import tfdata
    from simclr_jax.data.sources import open_source

    source = open_source("cifar10_mini", split="train")
    np.save(path, tfdata.read_pictures(source, range(len(source))))


def train_with_lightly(path: str, epochs: int, threads: int, workers: int) -> None:
    """Prints images a second from the second epoch on."""
    import numpy as np
    import torch
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    from tests.benchmarks import torch_simclr

    transform = SimCLRTransform(
        input_size=32, cj_strength=0.3, gaussian_blur=0.0, normalize=None
    )

    class Pictures(torch.utils.data.Dataset):
        arrays = np.load(path)

        def __len__(self):
            return len(self.arrays)

        def __getitem__(self, i):
            return transform(Image.fromarray(self.arrays[i]))

    torch.set_num_threads(threads)
    model = torch_simclr.SimCLR(torch_simclr.NETWORKS["quickstart"])
    model = model.to(memory_format=torch.channels_last)
    optimiser = torch_simclr.adamw(model, 1e-4)
    for group in optimiser.param_groups:
        group["lr"] = 0.005
    criterion = NTXentLoss(temperature=0.2)
    loader = torch.utils.data.DataLoader(
        Pictures(),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    ends = [time.monotonic()]
    for epoch in range(epochs):
        for views in loader:
            x = torch.cat(views).contiguous(memory_format=torch.channels_last)
            loss = criterion(*model(x)[1].chunk(2))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
        ends.append(time.monotonic())
    counted = ends[1:] if epochs > 1 else ends
    images = (len(counted) - 1) * len(loader) * BATCH
    print(images / (counted[-1] - counted[0]))


if __name__ == "__main__":
    if sys.argv[4:] and sys.argv[1].endswith(".npy"):
        train_with_lightly(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main()
