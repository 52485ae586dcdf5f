"""The card beside an export: what it is, what it takes, and how well it was checked."""

import hashlib
import importlib.metadata
import inspect
import json
import platform

import numpy as np
from etils import epath

from simclr_jax.zoo.network import INPUTS, Network, Written
from simclr_jax.zoo.verification.verify import Verdict, pictures

SHOWN = 8  # numbers of h of each of the three pictures
PACKAGES = ("jax", "flax", "numpy")
LICENCE = (
    "not stated; the terms of the pictures, and of weights that the run began with, "
    "apply"
)


def contents(
    to: str,
    network: Network,
    written: Written,
    verdict: Verdict,
    expected: dict[str, np.ndarray],
    run: dict,
) -> dict:
    """The card as JSON keeps it.

    Args:
      to: the format.
      expected: what the Flax network says of the three pictures.
      run: what the work directory says of itself, see `of_run`.
    """
    side = network.side
    return {
        "format": to,
        "part": network.part,
        "encoder": network.name,
        "outputs": {name: y.shape[1] for name, y in expected.items()},
        "input": {
            "shape": ["any number", side, side, 3],
            "kind": network.input,
            "values": INPUTS[network.input],
            "mean": list(network.mean),
            "std": list(network.std),
        },
        "load": [written.load, *(other.load for other in written.also)],
        "limits": list(written.limits),
        "verified": {
            "by": verdict.by,
            "absent": list(verdict.absent),
            "largest difference": verdict.difference,
            "batches": list(verdict.sizes),
        },
        "pictures": {
            "drawn by": inspect.getsource(pictures),
            "h": expected["h"][:, :SHOWN].astype(float).round(6).tolist(),
        },
        **run,
        "licence": network.licence or LICENCE,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def of_run(workdir: epath.Path, branch: str, step: int) -> dict:
    """What a work directory says of itself: training, data, scores, where it is from.

    Fingerprints are the SHA-256 of its files.
    """
    names = ("config", "data", "results", "import")
    files = {name: workdir / f"{name}.json" for name in names}
    there = {name: file.read_bytes() for name, file in files.items() if file.exists()}
    said = {name: json.loads(text) for name, text in there.items()}
    return {
        "training": {"branch": branch, "step": step, "config": said["config"]},
        "data": said["data"],
        "scores": said.get("results", {}),
        "imported": said.get("import", {}),
        "fingerprints": {
            f"{name}.json": hashlib.sha256(text).hexdigest()
            for name, text in there.items()
        },
    }


def _trained(card: dict) -> str:
    """By whom: here, or wherever the file that was imported came from."""
    training, came = card["training"], card["imported"]
    if came:
        return f"others: {came['source']} ({came['format']}, SHA-256 {came['sha256']})"
    return f"{training['config']['method']['name']}, step {training['step']}"


def _pictures(card: dict) -> str:
    """What it was trained on."""
    data = card["training"]["config"]["data"]["name"]
    return "see there" if card["imported"] else f"{data}, {card['data']['pictures']}"


def text(card: dict, name: str) -> str:
    """The card in Markdown.

    name: of the export.
    """
    training = card["training"]
    taken, outputs = card["input"], card["outputs"]
    rows = [
        ("computes", ", ".join(f"{k} [N, {width}]" for k, width in outputs.items())),
        ("of pictures", f"[N, {', '.join(map(str, taken['shape'][1:]))}]"),
        ("as", taken["values"]),
        ("mean, deviation", f"{taken['mean']}, {taken['std']}"),
        ("trained by", _trained(card)),
        ("branch", training["branch"]),
        ("pictures", _pictures(card)),
        ("checked", checked(card["verified"])),
        ("licence", card["licence"]),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    loads = "\nor\n\n".join(
        f'```python\npath = "{name}"\n{lines}```\n' for lines in card["load"]
    )
    limits = "\n".join(f"- {limit}" for limit in card["limits"])
    numbers = "\n".join(" ".join(f"{x:.5f}" for x in h) for h in card["pictures"]["h"])
    return f"""\
# {card["encoder"]}: {card["part"]}, as {card["format"]}

| | |
|-|-|
{table}

## Load it

{loads}
{limits}

## What it says

The first {SHOWN} numbers of h of three pictures:

```python
{card["pictures"]["drawn by"]}```

```
{numbers}
```

## Scores

{_scores(card["scores"])}
All of the training's config, fingerprints and versions are in the card's JSON.
"""


def _scores(results: dict) -> str:
    """A row for every protocol and feature; what the JSON of results has besides."""
    rows = [
        f"| {protocol} | {name} | {said['step']} | {100 * said['accuracy']:.1f} % | "
        f"{said['data']} |"
        for protocol, scores in results.items()
        for name, said in scores.items()
    ]
    if not rows:
        return "None were measured.\n"
    head = "| protocol | of | step | accuracy | data |\n|-|-|-|-|-|\n"
    return head + "\n".join(rows) + "\n"


def checked(verified: dict) -> str:
    """How the export was checked, in a line."""
    by = ", ".join(f"{name} {version}" for name, version in verified["by"].items())
    absent = ", ".join(verified["absent"])
    missing = f"; not run by {absent}: not installed" if absent else ""
    if not verified["batches"]:
        return f"read back by {by}: the same arrays{missing}"
    sizes = ", ".join(map(str, verified["batches"]))
    return (
        f"run by {by} on batches of {sizes}: the largest difference to the Flax "
        f"network is {verified['largest difference']:.1e} of the largest value{missing}"
    )
