"""Trains the quickstart of every method in two seeds, and lists what the sentinel says.

  python -m tests.benchmarks.health DIR [NAME ...]

A healthy run must have no warning. A run has a work directory, DIR/CONFIG-SEED, with
its metrics and warnings; the same command resumes. NAMEs, such as byol_quickstart-1,
are all by default. Prints the last diagnostics and the warnings of each run.
"""

import json
import pathlib
import sys

from simclr_jax.experiment import config
from simclr_jax.experiment.training import pretrain

CONFIGS = (
    *("quickstart", "moco_quickstart", "mocov3_quickstart", "byol_quickstart"),
    *("simsiam_quickstart", "dino_quickstart", "tsimcne_quickstart"),
)
NAMES = [f"{name}-{seed}" for seed in range(2) for name in CONFIGS]


def main(folder: str, *names: str) -> None:
    for name in names or NAMES:
        workdir = pathlib.Path(folder, name)
        c = config.load(name.rpartition("-")[0])
        c.seed, c.evaluate.every = int(name.rpartition("-")[2]), 0
        pretrain(c, workdir)
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        measured = [json.loads(line) for line in lines if "h_rank" in line]
        warnings = workdir / "warnings.jsonl"
        print(name, json.dumps(measured[-1]))
        print(warnings.read_text() if warnings.exists() else "no warnings", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
