"""What PyTorch's libraries call the layers of our networks.

A naming takes a path inside a part of a network, such as layer1_0/conv1/kernel, to its
place there; None where there is no such layer. Namings know no file: they are read both
ways.

| naming | of |
|---|---|
| resnet | torchvision, timm, MoCo, SimSiam, DINO; tsimcne_resnet: its own shortcuts |
| sequential_resnet | lightly: torchvision's children in a Sequential |
| vit | timm, DINO, MoCo v3 |
| torchvision_vit | torchvision |
| linear | a classifier |
| mlp | a head that is a Sequential |
| prototypes | the last layer of DINO's head |
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from simclr_jax.zoo.name_map import Naming, Place

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def under(prefix: str, naming: Naming) -> Naming:
    """The same names with something before each, such as "module.encoder_q."."""

    def prefixed(path: str) -> Place | None:
        place = naming(path)
        if place is None:
            return None
        return place._replace(name=prefix + place.name)

    return prefixed


def _leaf(layer: str, leaf: str, kernel: str) -> Place | None:
    """The place of a leaf of a layer.

    layer: its name, with what stands between it and a leaf's.
    kernel: how kernels lie there, "conv" or "dense".
    """
    if leaf not in LEAVES:
        return None
    return Place(layer + LEAVES[leaf], kernel if leaf == "kernel" else "same")


# ResNets.


class Spot(NamedTuple):
    """A layer of a ResNet."""

    kind: str  # "conv" or "bn"
    number: int  # in its block, from 1; 0: of the shortcut
    group: int  # 1 to 4; 0: the stem
    block: int = 0


SPOT = re.compile(
    r"(?:layer(?P<group>[1-4])_(?P<block>\d+)/)?"
    r"(?:(?P<kind>conv|bn)(?P<number>[123])|shortcut_(?P<short>conv|bn))"
)


def _spot(layer: str) -> Spot | None:
    match = SPOT.fullmatch(layer)
    if match is None:
        return None
    kind, number = match["kind"] or match["short"], int(match["number"] or 0)
    if match["group"]:
        return Spot(kind, number, int(match["group"]), int(match["block"]))
    return Spot(kind, 1, 0) if number == 1 else None  # not the stem of ResNet-D


def _resnet(name: Callable[[Spot], str], path: str) -> Place | None:
    layer, _, leaf = path.rpartition("/")
    spot = _spot(layer)
    return None if spot is None else _leaf(f"{name(spot)}.", leaf, "conv")


def _inside(spot: Spot, shortcut: str) -> str:
    """In a block: conv2, or the shortcut's 0 and 1."""
    if spot.number:
        return f"{spot.kind}{spot.number}"
    return f"{shortcut}.{0 if spot.kind == 'conv' else 1}"


def _torchvision(spot: Spot, shortcut: str = "downsample") -> str:
    if not spot.group:
        return f"{spot.kind}1"
    return f"layer{spot.group}.{spot.block}.{_inside(spot, shortcut)}"


def _children(spot: Spot) -> str:
    """conv1, bn1, relu and maxpool come before the groups."""
    if not spot.group:
        return "0" if spot.kind == "conv" else "1"
    return f"{spot.group + 3}.{spot.block}.{_inside(spot, 'downsample')}"


resnet = partial(_resnet, _torchvision)
tsimcne_resnet = partial(_resnet, partial(_torchvision, shortcut="shortcut"))
sequential_resnet = partial(_resnet, _children)


# Vision transformers.


class Tongue(NamedTuple):
    """What a library calls the parts of a vision transformer."""

    arrays: dict[str, str]  # that are of no layer
    layers: dict[str, str]  # in a block, by their path in it
    block: str  # what comes before them, with the block's number in it


TIMM = Tongue(
    {"class_token": "cls_token", "positions": "pos_embed"},
    {
        "patch": "patch_embed.proj.",
        "norm": "norm.",
        "norm1": "norm1.",
        "attention/qkv": "attn.qkv.",
        "attention/out": "attn.proj.",
        "norm2": "norm2.",
        "mlp/dense1": "mlp.fc1.",
        "mlp/dense2": "mlp.fc2.",
    },
    "blocks.{}.",
)
TORCHVISION = Tongue(
    {"class_token": "class_token", "positions": "encoder.pos_embedding"},
    {
        "patch": "conv_proj.",
        "norm": "encoder.ln.",
        "norm1": "ln_1.",
        "attention/qkv": "self_attention.in_proj_",
        "attention/out": "self_attention.out_proj.",
        "norm2": "ln_2.",
        "mlp/dense1": "mlp.0.",
        "mlp/dense2": "mlp.3.",
    },
    "encoder.layers.encoder_layer_{}.",
)
IN_BLOCK = re.compile(r"block(\d+)/(.+)")


def _vit(tongue: Tongue, path: str) -> Place | None:
    if path in tongue.arrays:
        return Place(tongue.arrays[path])
    match = IN_BLOCK.fullmatch(path)
    number, within = match.groups() if match else (None, path)
    layer, _, leaf = within.rpartition("/")
    if layer not in tongue.layers or (number is None) != (layer in ("patch", "norm")):
        return None
    kernel = "conv" if layer == "patch" else "dense"
    place = _leaf(tongue.layers[layer], leaf, kernel)
    if place is None or number is None:
        return place
    return under(tongue.block.format(number), lambda _: place)(path)


vit = partial(_vit, TIMM)
torchvision_vit = partial(_vit, TORCHVISION)


# Heads.

MOST = 9  # layers of a head
# Where they are in a Sequential of Linear, batch norm and ReLU, and without the norm.
NORMED = {f"dense{i + 1}": 3 * i for i in range(MOST)}
NORMED |= {f"bn{i + 1}": 3 * i + 1 for i in range(MOST)}
BARE = {f"dense{i + 1}": 2 * i for i in range(MOST)}


def linear(path: str) -> Place | None:
    """A single Linear, such as a classifier: its paths are kernel and bias."""
    return _leaf("", path, "dense") if path in ("kernel", "bias") else None


def mlp(indices: Mapping[str, int | str]) -> Naming:
    """A head that is a Sequential there, from {our layer: its index or name there}."""

    def naming(path: str) -> Place | None:
        layer, _, leaf = path.rpartition("/")
        if layer not in indices:
            return None
        return _leaf(f"{indices[layer]}.", leaf, "dense")

    return naming


def prototypes(path: str) -> Place | None:
    """The weight-normalised last layer of DINO's head, its directions and lengths."""
    return {"v": Place("weight_v"), "g": Place("weight_g", "column")}.get(path)
