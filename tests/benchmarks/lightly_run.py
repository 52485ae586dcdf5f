"""Images a second of the whole quickstart, beside lightly's SimCLR.

python -m tests.benchmarks.lightly_run [--torch PYTHON] [--rounds 3] [--epochs 8]
    [--threads 1] [--workers 2]

PYTHON is an interpreter with torch, torchvision and lightly; by default the one that
runs this, which has the project's packages. Linux only, in about ten minutes.

Ours is `pretrain` with configs/quickstart.py and other epochs: it decodes, crops and
colours, trains network and probe, logs and saves. lightly's is its transform with the
quickstart's strengths, its NT-Xent and PyTorch's loader with persistent workers, around
the network and AdamW of torch_simclr.py in the faster layout of memory, without a
probe, a log or a checkpoint; its pictures are decoded in memory. They run in turn on
the same cores, with the Makefile's settings of the C library. With --threads 2 PyTorch
was three times slower beside other work, as its threads wait for each other by
spinning; on an idle machine it may be faster.

It prints images a second of wall time from the second epoch on, that is without
compilation; of the whole process; and of CPU time, where the time of a run of one epoch
is subtracted, which depends less on other work. Ratios are ours to lightly's.
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

PRETRAIN = ["-m", "simclr_jax", "pretrain", "--config=configs/quickstart.py"]
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
            args = [f"--workdir={workdir}", f"--config.epochs={epochs}"]
            _, clock, cpu = timed([sys.executable, *PRETRAIN, *args])
            lines = (workdir / "metrics.jsonl").read_text().splitlines()
            speeds = [json.loads(line)["images_per_second"] for line in lines]
            return Run(statistics.harmonic_mean(speeds[1:] or speeds), clock, cpu)

        def lightly(epochs: int) -> Run:
            command = [a.torch, "-m", "tests.benchmarks.lightly_run"]
            numbers = map(str, (epochs, a.threads, a.workers))
            out, clock, cpu = timed([*command, f"{folder}/pictures.npy", *numbers])
            return Run(float(out.split()[-1]), clock, cpu)

        sides = {"ours": ours, "lightly": lightly}
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
    clock: float  # wall seconds of the whole process
    cpu: float  # CPU seconds of the whole process


def rates(run: Run, single: Run, epochs: int) -> list[float]:
    """The columns of the table: images a second."""
    images = (5000 // BATCH) * BATCH
    by_cpu = (epochs - 1) * images / (run.cpu - single.cpu)
    return [run.training, epochs * images / run.clock, by_cpu]


def row(name: str, x: list[float], form: str) -> str:
    return f"| {' | '.join([name, *(format(y, form) for y in x)])} |"


def timed(command: list[str]) -> tuple[str, float, float]:
    """The output of a command, its wall seconds and its CPU seconds."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | tunables() | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    clock = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.stdout, clock, cpu


def decode(path: str) -> None:
    """Writes the package's pictures, uint8 [5000, 32, 32, 3]."""
    import numpy as np

    from simclr_jax.data import tfdata
    from simclr_jax.data.sources import open_source

    source = open_source("cifar10_mini", split="train")
    np.save(path, tfdata.read_pictures(source, range(len(source))))


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
