"""The card of a run: its score, the published one, and differences of the recipes.

It is computed only from config.json, data.json and results.json of the work directory,
so that it can be recreated from them.
"""

import json
import platform
from typing import Any

import flax
import jax
from etils import epath

from simclr_jax import fingerprint
from simclr_jax.experiment import build, config
from simclr_jax.experiment.old_configs import protocol_defaults, without_added
from simclr_jax.experiment.reproduction import row_config
from simclr_jax.experiment.workdir import read_saved
from simclr_jax.reproduce.card import is_intact
from simclr_jax.reproduce.rows import ROWS, Row, entry, runs
from simclr_jax.suggest import check_name

# Fields that may differ in a reproduction: the seed, how the state is sharded, and what
# a resumed run may change. The settings of an evaluation are stored with its score.
FREE = ("seed", "placement", *config.MAY_CHANGE)


def make(row: Row, workdir: str, written: str) -> dict[str, Any]:
    """The card of a work directory, without its own fingerprint.

    Args:
      row: the row that the run reproduces.
      workdir: the folder of all stages, after pretrain and evaluate.
      written: "with the run" if this machine also did the run, else "afterwards".

    Returns:
      row, published, measured in % (None: not run), difference (None if the two are
      not comparable), refused (why they are not), reproduction (whether the recipe is
      the row's), departures (its differences from the row's), step, seed, environment
      and fingerprints.

    Raises:
      ValueError: there is no run, or one of its files is damaged.
    """
    text, folder = runs(row, workdir)[-1]
    saved, score = read_saved(folder), read_score(row, workdir)
    settings = evaluation(row, saved, score) if score else {}
    published = evaluation(row, config.plain(row_config(row, text, [])), {})
    refused = config.differences(published, settings) if score else []
    departed = all_departures(row, workdir)
    measured = round(100 * score["accuracy"], 2) if score else None
    comparable = measured is not None and not refused
    return {
        "row": json.loads(json.dumps(entry(row))),
        "published": row.published,
        "measured": measured,
        "difference": round(measured - row.published, 2) if comparable else None,
        "refused": refused,
        "reproduction": not departed,
        "departures": departed,
        "step": score["step"] if score else None,
        "seed": saved["seed"],
        "environment": environment(written),
        "fingerprints": {
            "config": fingerprint_of_recipe(
                [read_saved(folder) for _, folder in runs(row, workdir)]
            ),
            "data": fingerprint.of_json(read_saved(folder, "data.json")),
            "evaluation": fingerprint.of_json(settings),
            "score": fingerprint.of_json(score),
        },
    }


def verify(card: dict[str, Any], row: Row, workdir: str) -> list[str]:
    """The fields of a card that differ from the current state of its work directory.

    Returns:
      lines that begin with the field; [] if all agree.

    Raises:
      ValueError: as in `make`.
    """
    current = make(row, workdir, card["environment"]["written"])
    ignored = ("environment", "fingerprint", "migrated")
    old, new = (
        {key: value for key, value in fields.items() if key not in ignored}
        for fields in (card, current)
    )
    lines = config.differences(old, new)
    if not is_intact(card):
        lines.insert(0, "fingerprint: the card was changed after it was written")
    return lines


def read(workdir: str) -> dict[str, Any]:
    """The card in a work directory.

    Raises:
      ValueError: it is not there, or not a card of one of the rows.
    """
    card = read_saved(workdir, "card.json")
    path = epath.Path(workdir) / "card.json"
    if not {"row", "environment"} <= card.keys():
        raise ValueError(
            f"{path} is not a card. Remove it, and --card DIR writes a new one."
        )
    check_name(card["row"]["name"], ROWS, str(path))
    return card


def find_row(workdir: str) -> str:
    """The name of the row that a run without a card reproduces.

    Raises:
      ValueError: not exactly one row matches.
    """
    departed = {}
    for name, row in ROWS.items():
        folders = [epath.Path(folder) for _, folder in runs(row, workdir)]
        if all((folder / "config.json").exists() for folder in folders):
            departed[name] = sum(len(departures(row, *x)) for x in runs(row, workdir))
    if not departed:
        raise ValueError(f"{workdir} is no work directory: it has no config.json.")
    exact = [name for name, number in departed.items() if not number]
    scored = [name for name in exact if read_score(ROWS[name], workdir)]
    names = scored or exact
    if len(names) == 1:
        return names[0]
    nearest = min(departed, key=lambda name: departed[name])
    hint = f"It may be {', '.join(names)}" if names else f"The nearest is {nearest}"
    raise ValueError(f"{workdir} does not match one row. {hint}. Use ROW --card DIR.")


# Differences from the row's recipe.


def all_departures(row: Row, workdir: str) -> list[str]:
    """Differences of a row's runs and score from the row: a line for each field."""
    lines = []
    for text, folder in runs(row, workdir):
        stage = f"{epath.Path(folder).name}, " if row.stages > 1 else ""
        lines += [f"{stage}{line}" for line in departures(row, text, folder)]
    score = read_score(row, workdir)
    if score:  # it may have been measured before the last step
        _, folder = runs(row, workdir)[-1]
        saved = config.restored(read_saved(folder))
        images = read_saved(folder, "data.json")["pictures"]
        total, _ = build.length(saved, images)
        lines += config.differences({"step": total}, {"step": score["step"]})
    return lines


def departures(row: Row, text: str, folder: str) -> list[str]:
    """Differences of one run from the row: lines that begin with the field.

    Args:
      row: the row.
      text: the config of the run, as returned by `runs`.
      folder: its work directory.
    """
    saved, data = read_saved(folder), read_saved(folder, "data.json")
    original = config.plain(row_config(row, text, []))
    for c in (saved, original):  # all stages may have been moved together
        c["init_from"] = epath.Path(c["init_from"]).name if c["init_from"] else ""
    lines = [
        line
        for line in config.differences(original, saved, FREE)
        if not _is_published(row, line)
    ]
    lines += config.differences(
        {"pictures": row.images}, {"pictures": data["pictures"]}
    )
    if (epath.Path(folder) / "import.json").exists():
        lines.append("import.json: the weights were trained elsewhere")
    return lines


def _is_published(row: Row, line: str) -> bool:
    """Whether a field differs from our config because it has the published value."""
    published = {x.field: x.published for x in row.differences}
    field = line.partition(":")[0]
    return field in published and line.endswith(f", now {published[field]!r}")


def fingerprint_of_recipe(configs: list[dict[str, Any]]) -> str:
    """Of the plain configs of a row's runs, without the fields in `FREE`.

    Keys that were added later count only if they change the recipe.
    """
    return fingerprint.of_json([_fixed(without_added(c)) for c in configs])


def _fixed(c: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A plain config without the fields in `FREE` and init_from."""
    fixed = {}
    for key, value in c.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            fixed[key] = _fixed(value, f"{path}.")
        elif not path.startswith((*FREE, "init_from")):
            fixed[key] = value
    return fixed


# The score.


def read_score(row: Row, workdir: str) -> dict[str, Any]:
    """The entry of results.json that the row's number is compared with, or {}."""
    _, folder = runs(row, workdir)[-1]
    if not (epath.Path(folder) / "results.json").exists():
        return {}
    results = read_saved(folder, "results.json")
    return results.get(row.protocol, {}).get(row.features, {})


def evaluation(row: Row, c: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation that decide whether two scores are comparable.

    Args:
      row: the row.
      c: a plain config; its settings are used if there is no score.
      score: as returned by `read_score`.
    """
    data = c["data"]
    splits = f"{data['bank_split'] or data['split']}, {data['eval_split']}"
    settings = c["evaluate"][row.protocol]
    if score:  # an older one may lack settings
        settings = protocol_defaults()[row.protocol] | score["settings"]
    return {
        f"evaluate.{row.protocol}": {
            key: value for key, value in settings.items() if key != "seed"
        },
        "features": row.features,
        "data": score["data"] if score else f"{data['name']} ({splits})",
        "data.image_size": data["image_size"],
    }


def environment(written: str) -> dict[str, Any]:
    """Versions and devices of this process, which writes the card."""
    devices = jax.devices()
    return {
        "written": written,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
    }
