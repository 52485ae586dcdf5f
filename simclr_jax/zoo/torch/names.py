"""The names of our networks' layers in PyTorch's libraries.

A naming maps a path inside a part of a network, such as layer1_0/conv1/kernel, to its
entry there, or to None where there is no such layer. Namings do not depend on a file
and are used in both directions.

| naming | of |
|---|---|
| resnet | torchvision, timm, MoCo, SimSiam, DINO |
| tsimcne_resnet | t-SimCNE, with its own name for shortcuts |
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

from simclr_jax.zoo.name_map import Entry, Naming

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def under(prefix: str, naming: Naming) -> Naming:
    """The naming with a prefix before each name, such as "module.encoder_q."."""

    def prefixed(path: str) -> Entry | None:
        entry = naming(path)
        if entry is None:
            return None
        return entry._replace(name=prefix + entry.name)

    return prefixed


def _leaf(layer: str, leaf: str, transform: str) -> Entry | None:
    """The entry of one array of a layer.

    Args:
      layer: its foreign name, with the separator at the end.
      transform: of kernels, "conv" or "dense".
    """
    if leaf not in LEAVES:
        return None
    return Entry(layer + LEAVES[leaf], transform if leaf == "kernel" else "identity")


# ResNets.


class Layer(NamedTuple):
    """A layer of a ResNet."""

    layer_type: str  # "conv" or "bn"
    number: int  # in its block, from 1; 0: of the shortcut
    group: int  # 1 to 4; 0: the stem
    block: int = 0


LAYER = re.compile(
    r"(?:layer(?P<group>[1-4])_(?P<block>\d+)/)?"
    r"(?:(?P<type>conv|bn)(?P<number>[123])|shortcut_(?P<shortcut>conv|bn))"
)


def _parse(path: str) -> Layer | None:
    match = LAYER.fullmatch(path)
    if match is None:
        return None
    layer_type = match["type"] or match["shortcut"]
    number = int(match["number"] or 0)
    if match["group"]:
        return Layer(layer_type, number, int(match["group"]), int(match["block"]))
    # ResNet-D's stem, with more layers, is not supported.
    return Layer(layer_type, 1, 0) if number == 1 else None


def _resnet(name: Callable[[Layer], str], path: str) -> Entry | None:
    layer_path, _, leaf = path.rpartition("/")
    layer = _parse(layer_path)
    return None if layer is None else _leaf(f"{name(layer)}.", leaf, "conv")


def _in_block(layer: Layer, shortcut: str) -> str:
    """A layer's name in its block: such as conv2, or index 0 or 1 in the shortcut."""
    if layer.number:
        return f"{layer.layer_type}{layer.number}"
    return f"{shortcut}.{0 if layer.layer_type == 'conv' else 1}"


def _torchvision(layer: Layer, shortcut: str = "downsample") -> str:
    if not layer.group:
        return f"{layer.layer_type}1"
    return f"layer{layer.group}.{layer.block}.{_in_block(layer, shortcut)}"


def _children(layer: Layer) -> str:
    """A layer's index: conv1, bn1, relu and maxpool come before the groups."""
    if not layer.group:
        return "0" if layer.layer_type == "conv" else "1"
    return f"{layer.group + 3}.{layer.block}.{_in_block(layer, 'downsample')}"


resnet = partial(_resnet, _torchvision)
tsimcne_resnet = partial(_resnet, partial(_torchvision, shortcut="shortcut"))
sequential_resnet = partial(_resnet, _children)


# Vision transformers.


class ViTNames(NamedTuple):
    """A library's names for the parts of a vision transformer."""

    arrays: dict[str, str]  # outside of layers
    layers: dict[str, str]  # by their path, without the block
    block: str  # prefix of a block, by its number


TIMM = ViTNames(
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
TORCHVISION = ViTNames(
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


def _vit(names: ViTNames, path: str) -> Entry | None:
    if path in names.arrays:
        return Entry(names.arrays[path])
    match = IN_BLOCK.fullmatch(path)
    number, inner = match.groups() if match else (None, path)
    layer, _, leaf = inner.rpartition("/")
    if layer not in names.layers or (number is None) != (layer in ("patch", "norm")):
        return None
    transform = "conv" if layer == "patch" else "dense"
    entry = _leaf(names.layers[layer], leaf, transform)
    if entry is None or number is None:
        return entry
    return entry._replace(name=names.block.format(number) + entry.name)


vit = partial(_vit, TIMM)
torchvision_vit = partial(_vit, TORCHVISION)


# Heads.

MAX_LAYERS = 9  # of a head
# Indices in a Sequential of Linear, batch norm and ReLU, and without the batch norm.
NORMED = {f"dense{i + 1}": 3 * i for i in range(MAX_LAYERS)}
NORMED |= {f"bn{i + 1}": 3 * i + 1 for i in range(MAX_LAYERS)}
PLAIN = {f"dense{i + 1}": 2 * i for i in range(MAX_LAYERS)}


def linear(path: str) -> Entry | None:
    """A single Linear, such as a classifier: its paths are kernel and bias."""
    return _leaf("", path, "dense") if path in ("kernel", "bias") else None


def mlp(indices: Mapping[str, int | str]) -> Naming:
    """A Sequential, from {our layer: its index or name in the Sequential}."""

    def naming(path: str) -> Entry | None:
        layer, _, leaf = path.rpartition("/")
        if layer not in indices:
            return None
        return _leaf(f"{indices[layer]}.", leaf, "dense")

    return naming


def prototypes(path: str) -> Entry | None:
    """The weight-normalised last layer of DINO's head: its directions and lengths."""
    return {"v": Entry("weight_v"), "g": Entry("weight_g", "column")}.get(path)
