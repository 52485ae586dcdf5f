"""Results of the protocol `factors` as text."""

from collections.abc import Mapping
from typing import Any

METRICS = {"r2": "R2", "balanced_accuracy": "balanced accuracy"}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Results of the protocol by feature as text, in %, a column for each."""
    first = next(iter(results.values()))
    train, test = first["pictures"]

    def line(title: str, cells: list[str]) -> str:
        return f"{title:36}" + "".join(f"{cell:>13}" for cell in cells)

    lines = [
        f"linear probes on views of {train} pictures, scores on views of {test}, in %",
        line("", list(results)),
    ]
    if "accuracy" in first:
        cells = [f"{100 * result['accuracy']:.1f}" for result in results.values()]
        lines.append(line("class, accuracy (linear, quick)", cells))
    for name, score in first["factors"].items():
        chance = f" (chance {100 * score['chance']:.0f})" if score["chance"] else ""
        cells = [f"{100 * x['factors'][name]['score']:.1f}" for x in results.values()]
        lines.append(line(f"{name}, {METRICS[score['metric']]}{chance}", cells))
    if first["left_out"]:
        names = ", ".join(first["left_out"])
        lines.append(f"left out, as the recipe does not vary them: {names}")
    return "\n".join(lines)
