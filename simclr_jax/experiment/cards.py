"""The card of a run: what was measured beside what was published, and how alike.

It rests on what the work directory says of itself, config.json, data.json and
results.json, so whoever has that can make the card again.
"""

import hashlib
import json
import pathlib
import platform
from typing import Any

import flax
import jax
from etils import epath

from simclr_jax.experiment import build, config
from simclr_jax.reproduce.row import Row

ROOT = pathlib.Path(__file__).parents[2]
KEPT = pathlib.Path(__file__).parents[1] / "reproduce" / "cards"
# What leaves a run the same reproduction: another seed, where the state lies, what is
# judged on the way, and what a resumed run may change. Scores carry their own settings.
FREE = ("seed", "placement", *config.MAY_CHANGE)


def stages(row: Row, workdir: str) -> list[tuple[str, str]]:
    """(config, work directory) of the runs that a row takes, one after the other.

    The config is as `--config` has it, from the project's root; all but the first
    begin from the work directory before.
    """
    if row.stages == 1:
        return [(f"configs/{row.config}", workdir)]
    folders = [f"{workdir}/stage{n}" for n in range(1, row.stages + 1)]
    texts = [f"configs/{row.config}"]
    texts += [
        f"configs/{row.config}:stage={n},init_from={before}"
        for n, before in enumerate(folders[:-1], start=2)
    ]
    return list(zip(texts, folders, strict=True))


def effective(row: Row, text: str, changes: list[tuple[str, str]]):
    """The config that one of a row's runs comes to, with a user's changes.

    Raises:
      ValueError: as `config.read`.
    """
    own = [*row.changes.items(), *row.judged.items()]
    return config.read(f"{ROOT}/{text}", [*own, *changes])


# A card.


def make(row: Row, workdir: str, when: str) -> dict[str, Any]:
    """The card of a work directory, but for its own fingerprint.

    Args:
      row: what the run is said to reproduce.
      workdir: in which pretrain and evaluate have been; of all stages.
      when: whether the machine that writes this has also done it, "with the run" or
        "afterwards".

    Returns:
      row, published, measured in % (None: not run), difference (None where the two
      cannot be compared), refused (why not), reproduction (whether the recipe is the
      row's), departures (in what it is not), step, seeds, environment and fingerprints.

    Raises:
      ValueError: there is no run, or one of its files is damaged.
    """
    runs = stages(row, workdir)
    departures = []
    for text, folder in runs:
        departures += [
            f"{epath.Path(folder).name}, {line}" if row.stages > 1 else line
            for line in recipe(row, text, folder)
        ]
    text, folder = runs[-1]
    saved, data = build.read_saved(folder), build.read_saved(folder, "data.json")
    said = score(row, workdir)
    wanted = evaluation(row, config.plain(effective(row, text, [])), {})
    judged = evaluation(row, saved, said) if said else {}
    refused = config.differences(wanted, judged) if said else []
    if said:
        departures += _unfinished(saved, data, said)
    measured = round(100 * said["accuracy"], 2) if said else None
    alike = measured is not None and not refused
    return {
        "row": json.loads(json.dumps(about(row))),
        "published": row.published,
        "measured": measured,
        "difference": round(measured - row.published, 2) if alike else None,
        "refused": refused,
        "reproduction": not departures,
        "departures": departures,
        "step": said["step"] if said else None,
        "seed": saved["seed"],
        "environment": environment(when),
        "fingerprints": {
            "config": fingerprint([bare(build.read_saved(f)) for _, f in runs]),
            "data": fingerprint(data),
            "evaluation": fingerprint(judged),
            "score": fingerprint(said),
        },
    }


def about(row: Row) -> dict[str, Any]:
    """A row as JSON has it, but for what its card has elsewhere or nobody asks."""
    plain = row._asdict() | {"differs": [each._asdict() for each in row.differs]}
    return {key: x for key, x in plain.items() if key not in ("published", "planned")}


def recipe(row: Row, text: str, folder: str) -> list[str]:
    """In what a run departs from the row's own: lines that begin with the field."""
    saved, data = build.read_saved(folder), build.read_saved(folder, "data.json")
    own = config.plain(effective(row, text, []))
    for c in (saved, own):  # the folder may have been moved with those beside it
        c["init_from"] = epath.Path(c["init_from"]).name if c["init_from"] else ""
    lines = [
        line
        for line in config.differences(own, saved, FREE)
        if not _as_published(row, line)
    ]
    pictures = {"pictures": row.images}, {"pictures": data["pictures"]}
    lines += config.differences(*pictures)
    if (epath.Path(folder) / "import.json").exists():
        lines.append("import.json: the weights were trained elsewhere")
    return lines


def _as_published(row: Row, line: str) -> bool:
    """Whether a field departs from ours only to be as the paper has it."""
    known = {each.field: each.published for each in row.differs}
    field = line.partition(":")[0]
    return field in known and line.endswith(f", now {known[field]!r}")


def score(row: Row, workdir: str) -> dict[str, Any]:
    """The entry of results.json that the row asks for; {} if there is none."""
    _, folder = stages(row, workdir)[-1]
    if not (epath.Path(folder) / "results.json").exists():
        return {}
    found = build.read_saved(folder, "results.json")
    return found.get(row.protocol, {}).get(row.features, {})


def evaluation(row: Row, c: dict, said: dict) -> dict[str, Any]:
    """How the score of a run is made: as it says itself, or as its config has it."""
    data = c["data"]
    splits = f"{data['bank_split'] or data['split']}, {data['eval_split']}"
    settings = said["settings"] if said else c["evaluate"][row.protocol]
    return {
        f"evaluate.{row.protocol}": {k: settings[k] for k in settings if k != "seed"},
        "features": row.features,
        "data": said["data"] if said else f"{data['name']} ({splits})",
        "data.image_size": data["image_size"],
    }


def _unfinished(saved: dict, data: dict, said: dict) -> list[str]:
    """Whether the score is of an earlier step than the run's last."""
    total, _ = build.length(config.restored(saved), data["pictures"])
    return config.differences({"step": total}, {"step": said["step"]})


def bare(c: dict, inside: str = "") -> dict[str, Any]:
    """A plain config less what is free and the folder that the run began from."""
    kept = {}
    for key, x in c.items():
        path = f"{inside}{key}"
        if isinstance(x, dict):
            kept[key] = bare(x, f"{path}.")
        elif not path.startswith((*FREE, "init_from")):
            kept[key] = x
    return kept


def environment(when: str) -> dict[str, Any]:
    """What the card was written with."""
    devices = jax.devices()
    return {
        "written": when,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
    }


def fingerprint(said) -> str:
    """SHA-256 of what JSON makes of it, keys in order."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


# On disk, and for people.


def sealed(card: dict[str, Any]) -> dict[str, Any]:
    """The card with the fingerprint of all else on it."""
    return card | {"fingerprint": fingerprint(card)}


def write(card: dict[str, Any], workdir: str) -> None:
    """Writes card.json and card.md."""
    folder = epath.Path(workdir)
    (folder / "card.json").write_text(json.dumps(sealed(card), indent=2) + "\n")
    (folder / "card.md").write_text(report(card))


def broken(said: dict[str, Any]) -> list[str]:
    """Whether a card was changed after it was written."""
    rest = {key: x for key, x in said.items() if key != "fingerprint"}
    intact = "fingerprint" in said and said["fingerprint"] == fingerprint(rest)
    return [] if intact else ["fingerprint: the card was changed after it was written"]


def verify(said: dict[str, Any], row: Row, workdir: str) -> list[str]:
    """What on a card is not as its work directory has it now; [] is what we want."""
    now = make(row, workdir, said["environment"]["written"])
    elsewhere = ("environment", "fingerprint")
    old, new = (
        {key: x for key, x in each.items() if key not in elsewhere}
        for each in (said, now)
    )
    return broken(said) + config.differences(old, new)


def kept() -> dict[str, dict[str, Any]]:
    """The cards of runs that this project has made, by row."""
    return {path.stem: json.loads(path.read_text()) for path in KEPT.glob("*.json")}


def report(card: dict[str, Any]) -> str:
    """A card for people, in Markdown."""
    row, environment = card["row"], card["environment"]
    measured = "not run" if card["measured"] is None else f"{card['measured']} %"
    difference = card["difference"]
    if card["refused"]:
        compared = "not to be compared:\n\n" + _bullets(card["refused"])
    else:
        compared = "-" if difference is None else f"{difference:+.2f} points"
    recipe = "as the row says" if card["reproduction"] else "not a reproduction:\n\n"
    differs = [
        f"{each['field']}: published {each['published']}, here {each['ours']}; "
        f"{each['why']}"
        for each in row["differs"]
    ]
    told = ", ".join(f"{key} {x}" for key, x in environment.items())
    prints = [f"{key}: `{x}`" for key, x in card["fingerprints"].items()]
    return (
        f"# {row['name']}\n\n"
        f"{row['paper']}, {row['table']}: {row['model']}, {row['epochs']} epochs, "
        f"batch {row['batch']}, {row['protocol']} of {row['features']}.\n\n"
        f"- published: {card['published']} %{' (our own)' if row['own'] else ''}\n"
        f"- measured: {measured}, seed {card['seed']}\n"
        f"- difference: {compared}\n"
        f"- recipe: {recipe}{_bullets(card['departures'])}\n"
        f"- environment: {told}\n\n"
        f"Known differences from the published recipe:\n\n"
        f"{_bullets(differs) or '- none'}\n\n"
        f"SHA-256:\n\n{_bullets(prints)}\n"
    )


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
