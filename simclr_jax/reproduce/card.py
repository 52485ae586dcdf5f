"""card.json and card.md of a run: their fingerprint, files and text.

`experiment/cards.py` makes the content of a card from a work directory.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from simclr_jax import fingerprint

COMMITTED = pathlib.Path(__file__).parent / "cards"


def sealed(card: dict[str, Any]) -> dict[str, Any]:
    """The card with the fingerprint of all its other fields."""
    return card | {"fingerprint": fingerprint.of_json(card)}


def is_intact(card: dict[str, Any]) -> bool:
    """Whether a card's fingerprint is that of its other fields."""
    rest = {key: value for key, value in card.items() if key != "fingerprint"}
    return card.get("fingerprint") == fingerprint.of_json(rest)


def write(card: dict[str, Any], workdir: str) -> None:
    """Writes card.json, with its fingerprint, and card.md into a work directory."""
    folder = epath.Path(workdir)
    (folder / "card.json").write_text(json.dumps(sealed(card), indent=2) + "\n")
    (folder / "card.md").write_text(report(card))


def committed() -> dict[str, dict[str, Any]]:
    """The cards of this project's own runs, by the name of the row."""
    return {
        path.stem: json.loads(path.read_text()) for path in COMMITTED.glob("*.json")
    }


def report(card: dict[str, Any]) -> str:
    """The card in Markdown."""
    row = card["row"]
    measured = "not run" if card["measured"] is None else f"{card['measured']} %"
    environment = ", ".join(f"{key} {x}" for key, x in card["environment"].items())
    hashes = [f"{key}: `{digest}`" for key, digest in card["fingerprints"].items()]
    return (
        f"# {row['name']}\n\n"
        f"{row['paper']}, {row['table']}: {row['model']}, {row['epochs']} epochs, "
        f"batch {row['batch']}, {row['protocol']} of {row['features']}.\n\n"
        f"- published: {card['published']} %{' (our own)' if row['own'] else ''}\n"
        f"- measured: {measured}, seed {card['seed']}\n"
        f"- difference: {_difference(card)}\n"
        f"- recipe: {_recipe(card)}\n"
        f"- environment: {environment}\n"
        f"{_migration(card)}\n"
        f"Known differences from the published recipe:\n\n"
        f"{_differences(row['differs'])}\n\n"
        f"SHA-256:\n\n{_bullets(hashes)}\n"
    )


def _migration(card: dict[str, Any]) -> str:
    return f"- migrated: {card['migrated']}\n" if "migrated" in card else ""


def _difference(card: dict[str, Any]) -> str:
    if card["refused"]:
        return f"not comparable:\n\n{_bullets(card['refused'])}"
    difference = card["difference"]
    return "-" if difference is None else f"{difference:+.2f} points"


def _recipe(card: dict[str, Any]) -> str:
    if card["reproduction"]:
        return "the row's"
    return f"not the row's:\n\n{_bullets(card['departures'])}"


def _differences(differences: Sequence[dict[str, str]]) -> str:
    lines = [
        f"{x['field']}: published {x['published']}, here {x['ours']}; {x['why']}"
        for x in differences
    ]
    return _bullets(lines) or "- none"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
