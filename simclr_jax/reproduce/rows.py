"""A table of published numbers, each with our config that reproduces it.

| file | one line for each |
|---|---|
| `rows.csv` | published number, with its paper, table, model and our config |
| `differences.csv` | difference of our recipes from published ones, by its id |
| `plans.csv` | step that `simclr-jax plan` compiled, with its times |

| rows | source |
|---|---|
| `simclr_E_B[_sqrt]` | SimCLR, table B.1: epochs, batch, linear or square-root rate |
| `simclr_1000_Wx`, `simclr_v2_*` | SimCLR, table 6; SimCLR v2, README of the weights |
| `simclr_100_strength_*` | SimCLR, table 1; without blur |
| `simclr_100_temperature_*` | SimCLR, table 5 |
| `byol_*` | BYOL, linear evaluation, and its ablations at 300 epochs |
| `moco_*`, `mocov3_*`, `simsiam_*`, `dino_*` | papers and READMEs of their projects |
| `*_cifar10` | the papers where they have such numbers, else solo-learn's README |
| `*_quickstart`, `*_laptop` | measured by this project, not published in a paper |

A row has been run here only if `cards/` has a card of it.
"""

import csv
import math
import pathlib
import re
from typing import Any, NamedTuple

FOLDER = pathlib.Path(__file__).parent


class Difference(NamedTuple):
    """A difference of our recipe from the one that the number was published for."""

    field: str  # of the config, or a description where the config has none
    published: str
    ours: str
    why: str


class Plan(NamedTuple):
    """The compiled training step of a config on a topology; not measured."""

    config: str  # NAME[:key=value,...], in configs/
    batch: int
    topology: str  # KIND:SIDExSIDE, such as v5e:8x8
    gib_per_chip: float  # memory that the compiler allocates
    roof_ms: float  # of a step, see plan/cost.py
    estimate_ms: float
    roof_hours: float  # of the whole run
    estimate_hours: float
    jax: str  # versions that compiled it
    libtpu: str

    @property
    def chips(self) -> int:
        """The number of chips of the topology."""
        sides = self.topology.partition(":")[2]
        return math.prod(map(int, re.findall(r"\d+", sides)))


class Row(NamedTuple):
    """A published number and the run that reproduces it."""

    name: str
    paper: str
    table: str
    model: str
    epochs: int  # of all stages
    batch: int
    published: float  # top-1 in %
    config: str  # in configs/, FILE.py[:key=value,...]
    changes: dict[str, str]  # of the config, by key
    protocol: str  # of the evaluation
    features: str  # that are evaluated
    evaluation: dict[str, str]  # changes of the protocol's settings, by config key
    differences: tuple[Difference, ...]
    images: int  # of the training split
    stages: int  # number of runs; each starts from the previous one
    steps: int  # of all stages
    plan: Plan | None  # the first in PLANS whose step is that of this row
    internal: bool  # measured by this project, not published in a paper


def _read(name: str) -> list[dict[str, str]]:
    """The lines of a table of this package, by column."""
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _pairs(text: str) -> dict[str, str]:
    """`key=value key=value` as a dictionary."""
    return dict(pair.split("=", 1) for pair in text.split())


def _row(line: dict[str, str]) -> Row:
    """A line of rows.csv with the differences and the plan that it refers to.

    Raises:
      KeyError: an unknown id of a difference.
      StopIteration: an unknown config of a plan.
    """
    return Row(
        name=line["name"],
        paper=line["paper"],
        table=line["table"],
        model=line["model"],
        epochs=int(line["epochs"]),
        batch=int(line["batch"]),
        published=float(line["published"]),
        config=line["config"],
        changes=_pairs(line["changes"]),
        protocol=line["protocol"],
        features=line["features"],
        evaluation=_pairs(line["evaluation"]),
        differences=tuple(DIFFERENCES[key] for key in line["differences"].split()),
        images=int(line["images"]),
        stages=int(line["stages"]),
        steps=int(line["steps"]),
        plan=next(plan for plan in PLANS if plan.config == line["plan"])
        if line["plan"]
        else None,
        internal=line["internal"] == "yes",
    )


DIFFERENCES = {line.pop("id"): Difference(**line) for line in _read("differences.csv")}
PLANS = tuple(
    Plan(
        line["config"],
        int(line["batch"]),
        line["topology"],
        float(line["gib_per_chip"]),
        float(line["roof_ms"]),
        float(line["estimate_ms"]),
        float(line["roof_hours"]),
        float(line["estimate_hours"]),
        line["jax"],
        line["libtpu"],
    )
    for line in _read("plans.csv")
)
ROWS = {line["name"]: _row(line) for line in _read("rows.csv")}


def runs(row: Row, workdir: str) -> list[tuple[str, str]]:
    """The runs of a row, in order, as pairs of a config and a work directory.

    A config is an argument of `--config`, NAME[:key=value,...]. All runs but the first
    start from the work directory of the previous one.
    """
    config = row.config.replace(".py", "", 1)
    if row.stages == 1:
        return [(config, workdir)]
    folders = [f"{workdir}/stage{n}" for n in range(1, row.stages + 1)]
    configs = [config]
    configs += [
        f"{config}:stage={n},init_from={previous}"
        for n, previous in enumerate(folders[:-1], start=2)
    ]
    return list(zip(configs, folders, strict=True))


def chip_hours(row: Row) -> tuple[float, float] | None:
    """The chip-hours of all steps of a row: the plan's lower bound and its estimate.

    Returns None for a row without a plan.
    """
    if row.plan is None:
        return None
    hours = row.steps * row.plan.chips / 3.6e6
    return row.plan.roof_ms * hours, row.plan.estimate_ms * hours


def entry(row: Row) -> dict[str, Any]:
    """A row as it is stored in card.json."""
    return {
        "name": row.name,
        "paper": row.paper,
        "table": row.table,
        "model": row.model,
        "epochs": row.epochs,
        "batch": row.batch,
        "config": row.config,
        "changes": row.changes,
        "protocol": row.protocol,
        "features": row.features,
        "judged": row.evaluation,
        "differs": [difference._asdict() for difference in row.differences],
        "images": row.images,
        "stages": row.stages,
        "own": row.internal,
    }
