"""Trains BYOL at batches of 64, 256 and 1024, with and without batch scaling.

python -m tests.benchmarks.batches DIR [--config.seed=1 ...]

Each batch has the recipe's settings as they are, and scaled from its batch of 256. All
runs see 76,800 of the package's pictures. AdamW's rate is proportional to the square
root of the batch. Prints a table, by images seen, of the loss (the mean since the row
before) and of the kNN accuracy of h. The same command resumes an interrupted run.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

EVERY = 15_360  # images between two rows
RUNS = [(256, 0), (1024, 0), (1024, 256), (64, 0), (64, 256)]  # batch, scaled from


def main(folder: str, *changes: str) -> None:
    rows: dict[int, list[str]] = {}
    for batch, base in RUNS:
        workdir = pathlib.Path(folder) / f"{batch}-{base}"
        train(workdir, batch, base, changes)
        for seen, row in by_images(workdir, batch):
            rows.setdefault(seen, []).append(row)
    names = [f"{n} from {base}" if base else f"{n}" for n, base in RUNS]
    print(f"| images | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for seen, row in rows.items():
        print(f"| {seen:,} | {' | '.join(row)} |")


def train(workdir: pathlib.Path, batch: int, base: int, changes: Sequence[str]) -> None:
    """Runs `pretrain` on a batch, with settings scaled from `base` if it is not 0."""
    settings = {
        **{"data.batch_size": batch, "recipe_batch_size": base, "optim.length": "byol"},
        **{"optim.lr_scaling": "sqrt", "optim.lr": 0.0003125, "epochs": 15.36},
        **{"log_every": 2048 // batch, "evaluate.every": EVERY // batch},
    }
    args = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "simclr_jax", "pretrain", f"--workdir={workdir}"]
    config = "--config=configs/byol_quickstart.py"
    subprocess.run([*command, config, *args, *changes], check=True)


def by_images(workdir: pathlib.Path, batch: int) -> Iterator[tuple[int, str]]:
    """(images seen, "loss / accuracy") at each evaluation."""
    losses = []
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        losses.append(line["loss"])
        if "knn_accuracy" in line:
            mean = sum(losses) / len(losses)
            yield line["step"] * batch, f"{mean:.3f} / {100 * line['knn_accuracy']:.1f}"
            losses = []


if __name__ == "__main__":
    main(*sys.argv[1:])
