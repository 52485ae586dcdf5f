"""How fast the whole quickstart trains, beside lightly's SimCLR on the same pictures.

python -m tests.benchmarks.lightly_run [--torch PYTHON] [--rounds 3] [--epochs 8]
    [--threads 1] [--workers 2]

PYTHON is an interpreter with torch, torchvision and lightly; by default the one that
runs this, which has the project's packages. Linux only, in about ten minutes.

Ours is the training door with configs/quickstart.py as it stands, but for the epochs:
it decodes, crops and colours, trains network and probe, logs and saves. lightly's is
its transform, with the quickstart's strengths, its NT-Xent and PyTorch's loader, whose
workers stay, around the network and AdamW of torch_simclr.py in the faster
layout of memory, without a probe, a log or a checkpoint; its pictures lie decoded in
memory. They take turns on the same cores, with the Makefile's settings of the C
library. With --threads 2 PyTorch was three times slower beside other work, as its
threads wait for each other by spinning; on an idle machine it may be the better one.

It prints images a second of the clock from the second epoch on, so without compilation;
those of the whole process, start and all, which says little of a few epochs; and those
for each CPU second of the epochs that a run has more than one of a single epoch, which
hang less on what else is running. Ratios are ours to lightly's.
"""

import argparse
import datetime
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

from tests.benchmarks.step import machine, tunables

DOOR = ["-m", "simclr_jax", "pretrain", "--config=configs/quickstart.py"]
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.lightly_run")
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    for name, number in {"epochs": 8, "threads": 1, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    a = parser.parse_args()
    print(f"{datetime.date.today()}, {machine()}")
    print("| images a second | training | whole process | a CPU second |")
    print("|---|---|---|---|")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        decode(f"{folder}/pictures.npy")

        def ours(epochs: int) -> Run:
            workdir = pathlib.Path(tempfile.mkdtemp(dir=folder))
            words = [*DOOR, f"--workdir={workdir}", f"--config.epochs={epochs}"]
            _, clock, cpu = timed([sys.executable, *words])
            lines = (workdir / "metrics.jsonl").read_text().splitlines()
            speeds = [json.loads(line)["images_per_second"] for line in lines]
            return Run(statistics.harmonic_mean(speeds[1:] or speeds), clock, cpu)

        def lightlys(epochs: int) -> Run:
            words = [
                a.torch,
                "-m",
                "tests.benchmarks.lightly_run",
                f"{folder}/pictures.npy",
            ]
            said, clock, cpu = timed(
                [*words, *map(str, (epochs, a.threads, a.workers))]
            )
            return Run(float(said.split()[-1]), clock, cpu)

        sides = {"ours": ours, "lightly": lightlys}
        single = {name: side(1) for name, side in sides.items()}
        for _ in range(a.rounds):
            rounds.append({})
            for name, side in sides.items():
                rounds[-1][name] = rates(side(a.epochs), single[name], a.epochs)
                print(row(name, rounds[-1][name], ".0f"), flush=True)
    ratios = [
        [x / y for x, y in zip(r["ours"], r["lightly"], strict=True)] for r in rounds
    ]
    middle = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(row("ratio, median", middle, ".2f"))


class Run(NamedTuple):
    training: float  # images a second from the second epoch on
    clock: float  # seconds of the whole process
    cpu: float  # the same, of all processors


def rates(run: Run, single: Run, epochs: int) -> list[float]:
    """The columns of the table."""
    images = (5000 // BATCH) * BATCH
    more = (epochs - 1) * images / (run.cpu - single.cpu)
    return [run.training, epochs * images / run.clock, more]


def row(name: str, x: list[float], form: str) -> str:
    return f"| {' | '.join([name, *(format(y, form) for y in x)])} |"


def timed(words: list[str]) -> tuple[str, float, float]:
    """What a run says, its seconds of the clock and of the processors."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | tunables() | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    clock, after = (
        time.monotonic() - began,
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, clock, cpu


def decode(path: str) -> None:
    """Writes the package's pictures, uint8 [5000, 32, 32, 3]."""
    import numpy as np

    from simclr_jax.data import tfdata
    from simclr_jax.data.sources import open_source

    source = open_source("cifar10_mini", split="train")
    np.save(path, tfdata.pictures(source, range(len(source))))


def lightly_run(path: str, epochs: int, threads: int, workers: int) -> None:
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
    model = torch_simclr.SimCLR().to(memory_format=torch.channels_last)
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
        lightly_run(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main()
