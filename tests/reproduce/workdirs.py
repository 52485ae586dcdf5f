"""Work directories of finished runs of a row, as far as a card reads them."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from simclr_jax.experiment import config
from simclr_jax.experiment.reproduction import row_config
from simclr_jax.reproduce.rows import ROWS, Row, runs

QUICK, DINO, MAP = (
    ROWS[name] for name in ("quickstart", "dino_vit_b16_knn", "tsimcne_quickstart")
)
STEPS = {  # of the last run
    "quickstart": 570,
    "dino_vit_b16_knn": 500_400,
    "dino_vit_b16_linear": 500_400,
    "tsimcne_quickstart": 552,
}


def save(folder: pathlib.Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def alter(path: pathlib.Path, change: Callable[[Any], Any]) -> None:
    """Applies `change` to the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def finish(
    workdir: pathlib.Path,
    row: Row,
    accuracy: float = 0.4521,
    changes: Sequence[tuple[str, str]] = (),
) -> pathlib.Path:
    """Writes what pretrain and evaluate leave; returns the last run's folder."""
    for text, name in runs(row, str(workdir)):
        c, folder = (
            config.plain(row_config(row, text, list(changes))),
            pathlib.Path(name),
        )
        save(folder, "config.json", c)
        data = {"pictures": row.images, "classes": 10, "pictures read together": 1}
        save(folder, "data.json", data)
    bank = c["data"]["bank_split"] or c["data"]["split"]
    score = {
        "accuracy": accuracy,
        "count": 1000,
        "step": STEPS[row.name],
        "settings": c["evaluate"][row.protocol],
        "data": f"{c['data']['name']} ({bank}, {c['data']['eval_split']})",
    }
    save(folder, "results.json", {row.protocol: {row.features: score}})
    return folder
