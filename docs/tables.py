"""Writes the tables of README.md and docs/ from their data.

    python docs/tables.py           # or: make tables
    python docs/tables.py --check   # only exits with 1 if a page is out of date

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. TABLES has its file
and its columns: a heading and a template of a cell, in which {field} is a field of a
line. A cell with an empty field is "-".
"""

import argparse
import csv
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
REPRODUCE = ROOT / "simclr_jax" / "reproduce"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Line = dict[str, str]


class Table(NamedTuple):
    """Lines of data and the columns that show them: heading -> template of a cell."""

    lines: Callable[[], list[Line]]
    columns: dict[str, str]


def read_csv(path: pathlib.Path) -> list[Line]:
    """The lines of a CSV file, by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def results(name: str) -> Callable[[], list[Line]]:
    """Reads docs/results/NAME.csv."""
    return lambda: read_csv(RESULTS / f"{name}.csv")


def plans() -> list[Line]:
    """The compiled training steps, which `reproduce` reads as well."""
    return read_csv(REPRODUCE / "plans.csv")


def quickstart() -> list[Line]:
    """The scores of quickstart.json, which is the results.json of the quickstart."""
    scores = json.loads((RESULTS / "quickstart.json").read_text())
    names = {
        "untrained_h": "`h`, untrained",
        "h": "`h`, pretrained for 30 epochs",
        "z": "`z`, its projection",
    }
    return [
        {"features": text}
        | {
            protocol: f"{100 * scores[protocol][name]['accuracy']:.1f}"
            for protocol in ("knn", "linear")
        }
        for name, text in names.items()
    ]


def methods() -> list[Line]:
    """Each method with its published row and its quickstart, measured here."""
    rows = {line["name"]: line for line in read_csv(REPRODUCE / "rows.csv")}
    measured = {
        line["config"]: line
        for line in results("accuracies")()
        if (line["seed"], line["python"]) == ("0", "3.12")
    }
    for line in results("methods")():
        for name, lines, file in (
            (line["row"], rows, "simclr_jax/reproduce/rows.csv"),
            (line["quickstart"], measured, "accuracies.csv (seed 0, Python 3.12)"),
        ):
            if name not in lines:
                sys.exit(f"methods.csv names {name}, which is not in {file}")
    return [
        measured[line["quickstart"]] | rows[line["row"]] | line
        | {"config": rows[line["row"]]["config"].replace(".py", "")}
        for line in results("methods")()
    ]  # fmt: skip


def baselines() -> list[Line]:
    """The quickstarts of SimCLR and of both baselines, measured here."""
    names = ("quickstart", "supervised_quickstart", "autoencoder_quickstart")
    lines = {x["config"]: x for x in reversed(results("accuracies")())}  # the first
    return [lines[name] for name in names if name in lines]


def factors() -> list[Line]:
    """A line for each factor: its scores by feature, means and ranges over seeds."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = {}
    for x in results("factors")():
        line = scores.setdefault((x["factor"], x["probe"]), {})
        column = f"{x['config']}_{x['feature']}"
        line.setdefault(column, []).append(float(x["score"]))
    return [
        {"factor": factor, "probe": probe}
        | {name: mean_and_range(line.get(name, [])) for name in FACTOR_COLUMNS}
        for (factor, probe), line in scores.items()
    ]


def mean_and_range(values: list[float]) -> str:
    """ "42.0 (41.5 to 42.5)" of several numbers, "42.0" of one, "" of none."""
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.1f}"
    ends = f" ({min(values):.1f} to {max(values):.1f})"
    return mean + (ends if len(values) > 1 else "")


FACTOR_COLUMNS = (  # CONFIG_FEATURE
    *("quickstart_h", "quickstart_head1", "quickstart_z"),
    *("supervised_quickstart_h", "autoencoder_quickstart_h"),
)
STEP = "{roof_ms} to {estimate_ms}"
TABLES = {
    "quickstart": Table(
        quickstart,
        {
            "accuracy on 1,000 test images, %": "{features}",
            "kNN": "{knn}",
            "linear (quick)": "{linear}",
        },
    ),
    "methods": Table(
        methods,
        {
            "method": "{method}",
            "paper": "[{title}]({link})",
            "config": "`{config}`",
            "published, %": "{published} ({model}, {epochs} epochs, {protocol})",
            "quickstart here, %": "{h_linear} (untrained {untrained_h_linear})",
        },
    ),
    "plans": Table(
        plans,
        {
            "config": "`{config}`",
            "batch": "{batch}",
            "topology": "{topology}",
            "GiB a chip": "{gib_per_chip}",
            "a step, ms": STEP,
            "the run, hours": "{roof_hours} to {estimate_hours}",
        },
    ),
    "limited_memory": Table(
        results("limited_memory"),
        {
            "config": "`{config}`",
            "with": "`{settings}`",
            "batch": "{batch}",
            "topology": "{topology}",
            "GiB a chip": "{gib_per_chip}",
            "a step, ms": STEP,
            "the run, chip-hours": "{roof_chip_hours} to {estimate_chip_hours}",
        },
    ),
    "step_variants": Table(
        results("step_variants"),
        {
            "": "{variant}",
            "GiB a chip": "{gib_per_chip}",
            "a step, ms": STEP,
            "sums over the chips": "{sums}, {sums_mb} MB, {sums_ms} ms",
        },
    ),
    "input": Table(
        results("input"), {"pipeline": "{pipeline}", "ms an image": "{ms_per_image}"}
    ),
    "processors": Table(
        results("processors"),
        {
            "a step": "{network}",
            "": "{program}",
            "ms": "{wall_ms}",
            "ratio": "{wall_ratio}",
            "CPU ms": "{cpu_ms}",
            "CPU ratio": "{cpu_ratio}",
        },
    ),
    "start": Table(
        results("start"),
        {
            "start of the quickstart, to the second step": "{start}",
            "seconds of a core": "{cpu_seconds}",
            "seconds": "{wall_seconds}",
        },
    ),
    "import_parity": Table(
        results("import_parity"),
        {"`--from`": "{format}", "reads": "{reads}", "forward parity": "{difference}"},
    ),
    "export": Table(
        results("export"),
        {
            "`--to`": "{format}",
            "ResNet-50": "{resnet50}",
            "ViT-S/16": "{vit_s16}",
            "run by": "{runtime}",
            "limits": "{limits}",
        },
    ),
    "batch_scaling": Table(
        results("batch_scaling"),
        {
            "images": "{images_seen}",
            "256": "{loss_256} / {knn_256}",
            "1024": "{loss_1024} / {knn_1024}",
            "1024 from 256": "{loss_1024_scaled} / {knn_1024_scaled}",
            "64": "{loss_64} / {knn_64}",
            "64 from 256": "{loss_64_scaled} / {knn_64_scaled}",
        },
    ),
    "accuracies": Table(
        results("accuracies"),
        {
            "config": "`{config}`",
            "seed": "{seed}",
            "Python": "{python}",
            "images seen": "{epochs} x {images}",
            "`h0` kNN / linear": "{untrained_h_knn} / {untrained_h_linear}",
            "`h` kNN / linear": "{h_knn} / {h_linear}",
            "`z` kNN / linear": "{z_knn} / {z_linear}",
        },
    ),
    "baselines": Table(
        baselines,
        {
            "config": "`{config}`",
            "kNN of `h`, %": "{h_knn} (untrained {untrained_h_knn})",
            "linear of `h`, %": "{h_linear} (untrained {untrained_h_linear})",
        },
    ),
    "factors": Table(
        factors,
        {
            "factor": "{factor}",
            "probe": "{probe}",
            "`h`": "{quickstart_h}",
            "first layer of the head": "{quickstart_head1}",
            "`z`": "{quickstart_z}",
            "`h`, supervised": "{supervised_quickstart_h}",
            "`h`, autoencoder": "{autoencoder_quickstart_h}",
        },
    ),
    "bucket_requests": Table(
        results("bucket_requests"),
        {"": "{event}", "requests": "{requests}", "bytes": "{bytes}"},
    ),
}


def cell(template: str, line: Line) -> str:
    """The text of a cell; "-" if one of its fields is empty."""
    fields = re.findall(r"\{(\w+)\}", template)
    return template.format(**line) if all(line[x] for x in fields) else "-"


def render(name: str) -> str:
    """A table in Markdown.

    Raises:
      KeyError: no table has this name.
    """
    table = TABLES[name]
    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [[cell(x, line) for x in table.columns.values()] for line in table.lines()]
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "".join(lines).replace("|  |", "| |")


def update(text: str) -> str:
    """A page with all of its tables written from their data."""
    return MARKED.sub(lambda match: match[1] + render(match[2]) + match[3], text)


def pages() -> Iterator[pathlib.Path]:
    """README.md and the pages in docs/."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    changed = [path for path in pages() if update(path.read_text()) != path.read_text()]
    for path in changed:
        name = path.relative_to(ROOT)
        if check:
            print(f"{name}: tables differ from their data; run make tables")
        else:
            path.write_text(update(path.read_text()))
            print(f"{name}: tables written")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
