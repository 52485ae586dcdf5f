"""Does a recipe keep its pace at another batch? BYOL at 64, 256 and 1024, by the image.

python -m tests.benchmarks.batches DIR [--config.seed=1 ...]

Each batch is tried as it is and transferred from 256, the recipe's. All runs see
76,800 of the package's pictures. AdamW's rate goes with the square root of the batch.
Prints a table of the loss (the mean since the row before) and of the kNN accuracy of h.
The same command goes on where it was stopped.
"""

import json
import pathlib
import subprocess
import sys

EVERY = 15_360  # images between two rows
RUNS = [(256, 0), (1024, 0), (1024, 256), (64, 0), (64, 256)]  # batch, transferred from


def main(folder: str, *changes: str) -> None:
    rows: dict[int, list[str]] = {}
    for batch, whence in RUNS:
        workdir = pathlib.Path(folder) / f"{batch}-{whence}"
        train(workdir, batch, whence, changes)
        for seen, row in by_images(workdir, batch):
            rows.setdefault(seen, []).append(row)
    names = [f"{b} from {w}" if w else f"{b}" for b, w in RUNS]
    print(f"| images | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for seen, row in rows.items():
        print(f"| {seen:,} | {' | '.join(row)} |")


def train(workdir, batch, whence, changes):
    settings = {
        **{"data.batch_size": batch, "transfer_from": whence, "optim.length": "byol"},
        **{"optim.lr_scaling": "sqrt", "optim.lr": 0.0003125, "epochs": 15.36},
        **{"log_every": 2048 // batch, "evaluate.every": EVERY // batch},
    }
    words = [f"--config.{key}={said}" for key, said in settings.items()]
    door = [sys.executable, "-m", "simclr_jax", "pretrain", f"--workdir={workdir}"]
    config = "--config=configs/byol_quickstart.py"
    subprocess.run([*door, config, *words, *changes], check=True)


def by_images(workdir, batch):
    """(images seen, "loss / accuracy") at each judgement."""
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
