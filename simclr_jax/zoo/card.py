"""The card of an export: its contents, its inputs and outputs, and how it was checked.

The keys of the JSON are a file format and must not be renamed.
"""

import importlib.metadata
import inspect
import json
import platform

import numpy as np
from etils import epath

from simclr_jax import fingerprint
from simclr_jax.zoo import preprocessing
from simclr_jax.zoo.catalog import INPUTS
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork
from simclr_jax.zoo.verification.verify import Verification, sample_images

SHOWN = 8  # number of features of h shown for each sample image
PACKAGES = ("jax", "flax", "numpy")
LICENCE = (
    "not stated; the terms of the training images, and of any weights that the run "
    "was initialised from, apply"
)


def contents(
    format: str,
    network: ExportedNetwork,
    file: ExportedFile,
    verification: Verification,
    expected: dict[str, np.ndarray],
    run: dict,
) -> dict:
    """The card as a JSON object.

    Args:
      format: one of `catalog.WRITERS`.
      expected: outputs of the Flax network for the sample images.
      run: metadata of the work directory, see `of_run`.
    """
    return {
        "format": format,
        "part": network.part,
        "encoder": network.encoder_name,
        "outputs": {name: y.shape[1] for name, y in expected.items()},
        "input": _input(network),
        "preprocessing": preprocessing.described(network.image_size),
        "load": [file.load, *(other.load for other in file.alternatives)],
        "limits": list(file.limits),
        "verified": {
            "by": verification.versions,
            "absent": list(verification.not_installed),
            "largest difference": verification.difference,
            "batches": list(verification.batch_sizes),
        },
        "pictures": {
            "drawn by": inspect.getsource(sample_images),
            "h": expected["h"][:, :SHOWN].astype(float).round(6).tolist(),
        },
        **run,
        "licence": network.licence or LICENCE,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _input(network: ExportedNetwork) -> dict:
    return {
        "shape": ["any number", network.image_size, network.image_size, 3],
        "kind": network.input,
        "values": INPUTS[network.input],
        "mean": list(network.mean),
        "std": list(network.std),
    }


def of_run(workdir: epath.Path, branch: str, step: int) -> dict:
    """Metadata of a work directory: training, data, scores and origin.

    Its fingerprints are those of the JSON files in it.
    """
    names = ("config", "data", "results", "import")
    paths = {name: workdir / f"{name}.json" for name in names}
    data = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    content = {name: json.loads(text) for name, text in data.items()}
    return {
        "training": {"branch": branch, "step": step, "config": content["config"]},
        "data": content["data"],
        "scores": content.get("results", {}),
        "imported": content.get("import", {}),
        "fingerprints": {
            f"{name}.json": fingerprint.of_bytes(text) for name, text in data.items()
        },
    }


def text(card: dict, name: str) -> str:
    """The card in Markdown; `name` is that of the exported file or folder."""
    table = "\n".join(f"| {key} | {value} |" for key, value in _facts(card).items())
    loads = "\nor\n\n".join(
        f'```python\npath = "{name}"\n{lines}```\n' for lines in card["load"]
    )
    limits = "\n".join(f"- {limit}" for limit in card["limits"])
    h = "\n".join(" ".join(f"{x:.5f}" for x in row) for row in card["pictures"]["h"])
    return f"""\
# {card["encoder"]}: {card["part"]}, as {card["format"]}

| | |
|-|-|
{table}

## Load it

{loads}
{limits}

## Preprocess pictures

{_preprocessing(card)}
## Sample outputs

The first {SHOWN} features of h for three sample images:

```python
{card["pictures"]["drawn by"]}```

```
{h}
```

## Scores

{_scores(card["scores"])}
The JSON file of the card has the training config, fingerprints and versions.
"""


SCALED = {  # input: the network's input from uint8 images
    "uint8": "images",
    "float": "images / np.float32(255)",
    "normalised": "((images / 255 - mean) / std).astype(np.float32)",
}
USE = """\
files = ["picture.jpg"]
size, mean, std = {size}, {mean}, {std}
pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
images = np.stack([preprocess(picture, size) for picture in pictures])
x = {scaled}
"""


def _preprocessing(card: dict) -> str:
    """The code from picture files to the network's input, and to its outputs."""
    images, steps = card["input"], card["preprocessing"]
    size, crop = steps["resize"][0], steps["central crop"]
    cropped = (
        f"cropped to the central {crop:g} of the shorter side" if crop else "whole"
    )
    use = USE.format(
        size=size,
        mean=images["mean"],
        std=images["std"],
        scaled=SCALED[images["kind"]],
    )
    if any("def network" in lines for lines in card["load"]):
        use += "outputs = network(x)\n"
    return f"""\
As evaluation does: {cropped}, then resized to {size} x {size} pixels,
{steps["interpolation"]}.

```python
import numpy as np
from PIL import Image

{steps["code"]}

{use}```
"""


def _facts(card: dict) -> dict[str, str]:
    """The rows of the card's table."""
    images = card["input"]
    return {
        "computes": ", ".join(f"{k} [N, {d}]" for k, d in card["outputs"].items()),
        "from images": f"[N, {', '.join(map(str, images['shape'][1:]))}]",
        "values": images["values"],
        "mean, standard deviation": f"{images['mean']}, {images['std']}",
        "trained by": _trained_by(card),
        "branch": card["training"]["branch"],
        "training images": _training_images(card),
        "verification": verification_line(card["verified"]),
        "licence": card["licence"],
    }


def _trained_by(card: dict) -> str:
    """The method and step of the run, or the file that it was imported from."""
    training, origin = card["training"], card["imported"]
    if origin:
        source, sha256 = origin["source"], origin["sha256"]
        return f"others: {source} ({origin['format']}, SHA-256 {sha256})"
    return f"{training['config']['method']['name']}, step {training['step']}"


def _training_images(card: dict) -> str:
    """The name and size of the training set, where the run was trained on it."""
    if card["imported"]:
        return "see the imported file"
    name = card["training"]["config"]["data"]["name"]
    return f"{name}, {card['data']['pictures']}"


def _scores(results: dict) -> str:
    """A table with a row for every protocol and feature in results.json."""
    rows = [
        f"| {protocol} | {feature} | {score['step']} | "
        f"{100 * score['accuracy']:.1f} % | {score['data']} |"
        for protocol, scores in results.items()
        for feature, score in scores.items()
    ]
    if not rows:
        return "None were measured.\n"
    head = "| protocol | of | step | accuracy | data |\n|-|-|-|-|-|\n"
    return head + "\n".join(rows) + "\n"


def verification_line(verified: dict) -> str:
    """How the export was checked, in a line, from the card's entry "verified"."""
    by = ", ".join(f"{name} {version}" for name, version in verified["by"].items())
    not_installed = ", ".join(verified["absent"])
    missing = f"; not run by {not_installed}: not installed" if not_installed else ""
    if not verified["batches"]:
        return f"read back by {by}: the same arrays{missing}"
    sizes = ", ".join(map(str, verified["batches"]))
    return (
        f"run by {by} on batches of {sizes}: the largest difference from the Flax "
        f"network is {verified['largest difference']:.1e} of the largest value{missing}"
    )
