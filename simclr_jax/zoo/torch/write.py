"""PyTorch's state dicts in safetensors, as torchvision and timm name them.

They are written without PyTorch. The lines of Python that build the network and load
the file belong to the export: they are in its card, and the check runs them.
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from simclr_jax.zoo.name_map import Branch, Found, give, table
from simclr_jax.zoo.network import PARTS, Network, Written
from simclr_jax.zoo.torch import models as torch_models
from simclr_jax.zoo.torch.models import Model

PLAIN = """\
from safetensors.numpy import load_file

arrays = load_file({path})
"""
FILE, FOLDER = "path", 'path + "/model.safetensors"'
TORCHVISION = """\
import torch
import torchvision
from safetensors.torch import load_file

model = {builder}({words})
"""
TIMM = """\
import timm
import torch
from safetensors.torch import load_file

model = timm.create_model({builder!r}, {words})
"""
LOAD = """\
model.load_state_dict(load_file(path), strict=True)
"""
LOCAL_DIR = """\
import timm
import torch

model = timm.create_model("local-dir:" + path, pretrained=True)
"""
ENCODER = """\
model.eval()

def network(images):
    with torch.no_grad():
        h = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {"h": h.numpy()}
"""
HEADED = """\
model.eval()
seen = {{}}
model.{last}.register_forward_pre_hook(lambda _, x: seen.update(h=x[0]))

def network(images):
    with torch.no_grad():
        {said} = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {{"h": seen["h"].numpy(), "{said}": {said}.numpy()}}
"""
TRANSFORMERS = """\
import torch
from transformers import {auto}

model = {auto}.from_pretrained(path).eval()

def network(images):
    with torch.no_grad():
        said = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {{"{name}": said.{field}.numpy()}}
"""
NORMALISED = "It takes normalised pictures: (pixel / 255 - mean) / std, see below."
LICENCE = "other"  # as the hub calls one that it has no name for


def write_torchvision(network: Network, path: pathlib.Path) -> Written:
    """Writes PATH, safetensors under torchvision's names.

    Raises:
      ValueError: torchvision has no network like this one.
    """
    model = torch_models.torchvision(network)
    return _write(network, model, path, TORCHVISION, ("torchvision", "torch"))


def write_timm(network: Network, path: pathlib.Path) -> Written:
    """Writes PATH, safetensors under timm's names.

    Raises:
      ValueError: timm has no network like this one.
    """
    model = torch_models.timm(network)
    return _write(network, model, path, TIMM, ("timm", "torch"))


def _write(network: Network, model: Model, path, build: str, packages) -> Written:
    """build: the lines that make the model, with {builder} and {words} open."""
    arrays = state_dict(network, model)
    save_file(arrays, path, _metadata(network, model))
    words = ", ".join(f"{key}={said!r}" for key, said in model.words.items())
    changes = "".join(f"{line}\n" for line in model.changes)
    return Written(
        build.format(builder=model.builder, words=words)
        + changes
        + LOAD
        + _call(network, model),
        (*packages, "safetensors"),
        (NORMALISED, *_evenness(network, model)),
        arrays,
        PLAIN.format(path=FILE),
    )


def state_dict(network: Network, model: Model) -> dict[str, np.ndarray]:
    """The arrays by their names there, all that a strict load asks for."""
    ours = dict(network.arrays)
    for path, scale in network.arrays.items():
        if path.endswith("/scale"):  # ours may scale without shifting, theirs does both
            ours.setdefault(f"{path.removesuffix('scale')}bias", np.zeros_like(scale))
    branch = Branch("params", "batch_stats", model.parts)
    found = Found("", [], {}, [branch])
    arrays = give(table(found, ours), ours)
    means = [name for name in arrays if name.endswith("running_mean")]
    counts = [name.replace("running_mean", "num_batches_tracked") for name in means]
    return arrays | {name: np.zeros((), np.int64) for name in counts}


def _metadata(network: Network, model: Model) -> dict[str, str]:
    said = {
        "encoder": network.name,
        "part": network.part,
        "model": model.builder,
        "arguments": json.dumps(model.words),
        "mean": json.dumps(network.mean),
        "std": json.dumps(network.std),
        "image_size": str(network.side),
    }
    for name in ("pool", "shortcut", "stem"):  # which no array tells, nor the heads
        if hasattr(network.encoder, name):
            said[name] = getattr(network.encoder, name)
    if hasattr(network.encoder, "heads"):
        said["num_heads"] = str(network.encoder.heads)
    return {"format": "pt", **said}


def _call(network: Network, model: Model) -> str:
    """The lines that ask the model."""
    if network.part == "encoder":
        return ENCODER
    return HEADED.format(last=model.last, said=PARTS[network.part][1])


def _evenness(network: Network, model: Model) -> tuple[str, ...]:
    if getattr(network.encoder, "pool", "") != "same" or (
        network.encoder.stem != "imagenet"
    ):
        return ()
    kind = "even" if any("ceil_mode" in line for line in model.changes) else "odd"
    return (f"Its max-pool is SimCLR's for sides whose half (rounded up) is {kind}.",)


def write_huggingface(network: Network, path: pathlib.Path) -> Written:
    """Writes the folder PATH: config.json and model.safetensors; the card is README.md.

    timm (`local-dir:PATH`) and transformers load it from disk.

    Raises:
      ValueError: timm has no network like this one, or only after a change of modules,
        which the folder's config cannot tell.
    """
    model = torch_models.timm(network)
    if model.changes:
        changed = ", ".join(line for line in model.changes if line.startswith("model."))
        raise ValueError(
            "A Hugging Face folder names one of timm's networks, and this one differs: "
            f"{changed}. Take timm, whose card carries these lines, or savedmodel, "
            "onnx or stablehlo."
        )
    arrays = state_dict(network, model)
    licence = network.licence
    stated = f"license_name: {json.dumps(licence)}\n" if licence else ""
    path.mkdir()
    settings = json.dumps(_settings(network, model), indent=2)
    (path / "config.json").write_text(settings + "\n")
    save_file(arrays, path / "model.safetensors", _metadata(network, model))
    return Written(
        LOCAL_DIR + _call(network, model),
        ("timm", "torch", "safetensors"),
        (NORMALISED,),
        arrays,
        PLAIN.format(path=FOLDER),
        f"---\nlicense: {LICENCE}\n{stated}library_name: timm\n"
        "tags:\n- image-feature-extraction\n- timm\n---\n\n",
        (_also(network),),
    )


def _also(network: Network) -> Written:
    """transformers, whose classifiers do not tell h."""
    classifies = network.part == "encoder+classifier"
    name = "logits" if classifies else "h"
    load = TRANSFORMERS.format(
        auto="AutoModelForImageClassification" if classifies else "AutoModel",
        name=name,
        field="logits" if classifies else "pooler_output",
    )
    packages = "transformers", "timm", "torch", "safetensors"
    return Written(load, packages, says=(name,))


def _settings(network: Network, model: Model) -> dict:
    """config.json, as timm and the wrapper in transformers read it."""
    words = dict(model.words)
    classes = words.pop("num_classes")
    vit = model.last == "head"
    return {
        "architecture": model.builder,
        "num_classes": classes,
        "num_features": torch_models.width(network.encoder),
        "global_pool": "token" if vit else "avg",
        "model_args": words,
        "pretrained_cfg": {
            "input_size": [3, network.side, network.side],
            "fixed_input_size": vit,
            "interpolation": "bicubic",
            "crop_pct": 0.875 if network.side > 32 else 1.0,
            "mean": list(network.mean),
            "std": list(network.std),
            "num_classes": classes,
            "first_conv": "patch_embed.proj" if vit else "conv1",
            "classifier": model.last,
            "license": network.licence or LICENCE,
        },
    }
