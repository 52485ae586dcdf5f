"""State dicts of torchvision and timm in safetensors, written without PyTorch.

The export's card shows the Python code that builds the network and loads the file; the
verification runs it.
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from simclr_jax.storage import files
from simclr_jax.zoo import name_map
from simclr_jax.zoo.catalog import PARTS
from simclr_jax.zoo.name_map import Branch, ForeignCheckpoint
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork
from simclr_jax.zoo.torch import models as torch_models
from simclr_jax.zoo.torch.models import Model

LOAD_ARRAYS = """\
from safetensors.numpy import load_file

arrays = load_file({path})
"""
FILE, FOLDER = "path", 'path + "/model.safetensors"'
TORCHVISION = """\
import torch
import torchvision
from safetensors.torch import load_file

model = {builder}({arguments})
"""
TIMM = """\
import timm
import torch
from safetensors.torch import load_file

model = timm.create_model({builder!r}, {arguments})
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
        {output} = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {{"h": seen["h"].numpy(), "{output}": {output}.numpy()}}
"""
TRANSFORMERS = """\
import torch
from transformers import {auto}

model = {auto}.from_pretrained(path).eval()

def network(images):
    with torch.no_grad():
        outputs = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {{"{name}": outputs.{field}.numpy()}}
"""
NORMALISED = "Its input is normalised: (pixel / 255 - mean) / std, see above."
LICENCE = "other"  # the hub's name for licences that it does not list


def write_torchvision(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes PATH, safetensors under torchvision's names.

    Raises:
      ValueError: torchvision has no such network.
    """
    model = torch_models.torchvision(network)
    return _write(network, model, path, TORCHVISION, ("torchvision", "torch"))


def write_timm(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes PATH, safetensors under timm's names.

    Raises:
      ValueError: timm has no such network.
    """
    model = torch_models.timm(network)
    return _write(network, model, path, TIMM, ("timm", "torch"))


def _write(
    network: ExportedNetwork,
    model: Model,
    path: pathlib.Path,
    build: str,
    packages: tuple[str, ...],
) -> ExportedFile:
    """`build` is the code that makes the model, with {builder} and {arguments}."""
    arrays = state_dict(network, model)
    save_file(arrays, path, _metadata(network, model))
    arguments = ", ".join(f"{key}={x!r}" for key, x in model.arguments.items())
    changes = "".join(f"{line}\n" for line in model.changes)
    return ExportedFile(
        build.format(builder=model.builder, arguments=arguments)
        + changes
        + LOAD
        + _call(network, model),
        (*packages, "safetensors"),
        (NORMALISED, *_pool_limits(network, model)),
        arrays,
        LOAD_ARRAYS.format(path=FILE),
    )


def state_dict(network: ExportedNetwork, model: Model) -> dict[str, np.ndarray]:
    """The arrays by PyTorch's names, complete for a strict load."""
    ours = dict(network.arrays)
    for path, scale in network.arrays.items():
        if path.endswith("/scale"):  # PyTorch's norms have a shift beside each scale
            ours.setdefault(f"{path.removesuffix('scale')}bias", np.zeros_like(scale))
    branch = Branch("params", "batch_stats", model.parts)
    entries = name_map.build(ForeignCheckpoint("", [], {}, [branch]), ours)
    arrays = name_map.from_flax(entries, ours)
    means = [name for name in arrays if name.endswith("running_mean")]
    counts = [name.replace("running_mean", "num_batches_tracked") for name in means]
    return arrays | {name: np.zeros((), np.int64) for name in counts}


def _metadata(network: ExportedNetwork, model: Model) -> dict[str, str]:
    content = {
        "encoder": network.encoder_name,
        "part": network.part,
        "model": model.builder,
        "arguments": json.dumps(model.arguments),
        "mean": json.dumps(network.mean),
        "std": json.dumps(network.std),
        "image_size": str(network.image_size),
    }
    fields = {"pool": "pool_padding", "shortcut": "shortcut", "stem": "stem"}
    for key, field in fields.items():  # settings that no array implies
        if hasattr(network.encoder, field):
            content[key] = getattr(network.encoder, field)
    if hasattr(network.encoder, "heads"):
        content["num_heads"] = str(network.encoder.heads)
    return {"format": "pt", **content}


def _call(network: ExportedNetwork, model: Model) -> str:
    """The lines that define `network`."""
    if network.part == "encoder":
        return ENCODER
    return HEADED.format(last=model.last, output=PARTS[network.part][1])


def _pool_limits(network: ExportedNetwork, model: Model) -> tuple[str, ...]:
    if getattr(network.encoder, "pool_padding", "") != "same" or (
        network.encoder.stem != "imagenet"
    ):
        return ()
    parity = "even" if any("ceil_mode" in line for line in model.changes) else "odd"
    return (f"Its max-pool is SimCLR's for sides whose half (rounded up) is {parity}.",)


def write_huggingface(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes the folder PATH: config.json and model.safetensors; the card is README.md.

    timm (`local-dir:PATH`) and transformers load it from disk.

    Raises:
      ValueError: timm has no such network, or only with changed modules, which the
        folder's config cannot describe.
    """
    model = torch_models.timm(network)
    if model.changes:
        changed = ", ".join(line for line in model.changes if line.startswith("model."))
        raise ValueError(
            "A Hugging Face folder names one of timm's networks, and this one differs: "
            f"{changed}. Use timm, whose card has these lines, or savedmodel, onnx or "
            "stablehlo."
        )
    arrays = state_dict(network, model)
    licence = network.licence
    license_name = f"license_name: {json.dumps(licence)}\n" if licence else ""
    path.mkdir()
    config = json.dumps(_config_json(network, model), indent=2)
    files.write(str(path.absolute() / "config.json"), config + "\n")
    save_file(arrays, path / "model.safetensors", _metadata(network, model))
    return ExportedFile(
        LOCAL_DIR + _call(network, model),
        ("timm", "torch", "safetensors"),
        (NORMALISED,),
        arrays,
        LOAD_ARRAYS.format(path=FOLDER),
        f"---\nlicense: {LICENCE}\n{license_name}library_name: timm\n"
        "tags:\n- image-feature-extraction\n- timm\n---\n\n",
        (_transformers(network),),
    )


def _transformers(network: ExportedNetwork) -> ExportedFile:
    """The lines for transformers, whose classifiers do not return h."""
    classifier = network.part == "encoder+classifier"
    name = "logits" if classifier else "h"
    load = TRANSFORMERS.format(
        auto="AutoModelForImageClassification" if classifier else "AutoModel",
        name=name,
        field="logits" if classifier else "pooler_output",
    )
    packages = "transformers", "timm", "torch", "safetensors"
    return ExportedFile(load, packages, outputs=(name,))


def _config_json(network: ExportedNetwork, model: Model) -> dict:
    """config.json, as timm and the wrapper in transformers read it."""
    arguments = dict(model.arguments)
    classes = arguments.pop("num_classes")
    vit = model.last == "head"
    return {
        "architecture": model.builder,
        "num_classes": classes,
        "num_features": torch_models.width(network.encoder),
        "global_pool": "token" if vit else "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, network.image_size, network.image_size],
            "fixed_input_size": vit,
            "interpolation": "bicubic",
            "crop_pct": 0.875 if network.image_size > 32 else 1.0,
            "mean": list(network.mean),
            "std": list(network.std),
            "num_classes": classes,
            "first_conv": "patch_embed.proj" if vit else "conv1",
            "classifier": model.last,
            "license": network.licence or LICENCE,
        },
    }
