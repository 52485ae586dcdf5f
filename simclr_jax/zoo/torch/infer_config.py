"""Infers config settings and namings from the arrays of a PyTorch file."""

import itertools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simclr_jax.models.resnet import BLOCKS, BOTTLENECK
from simclr_jax.zoo.name_map import Branch, Entry, Naming, abbreviate
from simclr_jax.zoo.torch.names import NORMED, PLAIN, linear, mlp, resnet, under, vit

Arrays = dict[str, np.ndarray]
Changes = list[tuple[str, str]]  # of a config

VITS = {  # (width, blocks): our name
    (128, 4): "vit_mini",
    (192, 12): "vit_ti",
    (384, 12): "vit_s",
    (768, 12): "vit_b",
}
FLOAT32 = [("encoder.dtype", "float32")]  # as the published weights were trained
IMAGENET_PIXELS = [
    ("encoder.mean", "(0.485, 0.456, 0.406)"),
    ("encoder.std", "(0.229, 0.224, 0.225)"),
]
TORCH_RESNET = [  # of torchvision's ResNet, for configs with another ResNet
    ("encoder.padding", "even"),
    ("encoder.pool_padding", "torch"),
    ("encoder.shortcut", "needed"),
]
IGNORED = (  # regular expressions of arrays that are never imported
    r"(.*\.)?num_batches_tracked",
    r"(optimizer|optimizer_states|lr_schedulers|scaler|fp16_scaler|loops|callbacks)\..*",
    r"best_acc1",
)


def state_dict(arrays: Arrays) -> Arrays:
    """The arrays without the prefixes of containers in their names."""
    return {
        re.sub(r"^(state_dict\.|model_sd\.)?(module\.)?", "", name): x
        for name, x in arrays.items()
    }


def require(arrays: Arrays, key: str | Entry | None) -> np.ndarray:
    """An array that every file of the format has, by its name or entry.

    Raises:
      ValueError: it is missing.
    """
    name = key.name if isinstance(key, Entry) else key
    if name is None or name not in arrays:
        raise ValueError(
            f"Files of this format have an array {name}, and this one does not: it "
            f"has {abbreviate(sorted(arrays), 6)}. Is it of another format?"
        )
    return arrays[name]


def _has(arrays: Arrays, entry: Entry | None) -> bool:
    return entry is not None and entry.name in arrays


def _count(exists: Callable[[int], bool]) -> int:
    """The number of consecutive indices from 0 on that exist."""
    return next(i for i in itertools.count() if not exists(i))


def encoder(arrays: Arrays, root: str = "") -> tuple[Naming, Changes]:
    """The encoder whose names begin with `root`: timm's ViT or torchvision's ResNet.

    Returns:
      its naming, with the root, and the changes of a config that build it.

    Raises:
      ValueError: it is neither, or its size is not one of ours.
    """
    if f"{root}patch_embed.proj.weight" in arrays:
        naming = under(root, vit)
        return naming, vit_changes(arrays, naming)
    naming = under(root, resnet)
    return naming, resnet_changes(arrays, naming)


def resnet_changes(arrays: Arrays, naming: Naming) -> Changes:
    """The changes of a config that build this ResNet.

    Raises:
      ValueError: it is not a ResNet, or its size is not one of ours.
    """
    first = require(arrays, naming("conv1/kernel"))  # [C, 3, K, K]
    deep = _has(arrays, naming("layer1_0/conv3/kernel"))

    def blocks(group: int) -> int:
        return _count(lambda b: _has(arrays, naming(f"layer{group}_{b}/conv1/kernel")))

    counts = tuple(map(blocks, (1, 2, 3, 4)))
    depths = [d for d, n in BLOCKS.items() if n == counts and (d >= BOTTLENECK) == deep]
    if first.ndim != 4 or first.shape[2] not in (3, 7) or not depths:
        raise ValueError(
            f"{counts} blocks of {3 if deep else 2} convolutions after a first one of "
            f"{first.shape}: no ResNet of this size is implemented."
        )
    large = first.shape[2] == 7
    return [
        ("encoder.name", f"resnet{depths[0]}"),
        ("encoder.width", str(len(first) // 64)),
        ("encoder.stem", "imagenet" if large else "cifar"),
        ("data.image_size", "224" if large else "32"),
    ]


def vit_changes(arrays: Arrays, naming: Naming) -> Changes:
    """The changes of a config that build this ViT.

    The number of attention heads cannot be inferred from any shape; it depends on the
    format.

    Raises:
      ValueError: it is not a ViT, or its size is not one of ours.
    """
    kernel = require(arrays, naming("patch/kernel"))  # [D, 3, P, P]
    positions = require(arrays, naming("positions"))  # [1, 1 + T, D]
    size = len(kernel), _count(lambda i: _has(arrays, naming(f"block{i}/norm1/scale")))
    if size not in VITS or kernel.ndim != 4 or positions.ndim != 3:
        sizes = ", ".join(f"{dim} and {depth}" for dim, depth in VITS)
        raise ValueError(
            f"A ViT of width {size[0]} with {size[1]} blocks is not implemented; there "
            f"are: {sizes}."
        )
    side, patch = math.isqrt(positions.shape[1] - 1), kernel.shape[2]
    return [
        ("encoder.name", VITS[size]),
        ("encoder.patch", str(patch)),
        ("data.image_size", str(side * patch)),
    ]


class Head(NamedTuple):
    """A Sequential of Linear, optional batch norm, ReLU, and so on."""

    naming: Naming  # with its root
    normed: bool
    widths: list[int]  # of the Linears


def head(arrays: Arrays, root: str) -> Head:
    """The head whose names begin with `root`.

    Raises:
      ValueError: there is none.
    """
    require(arrays, f"{root}0.weight")
    normed = f"{root}1.running_mean" in arrays
    step = 3 if normed else 2
    depth = _count(lambda i: f"{root}{step * i}.weight" in arrays)
    widths = [len(arrays[f"{root}{step * i}.weight"]) for i in range(depth)]
    return Head(under(root, mlp(NORMED if normed else PLAIN)), normed, widths)


def classifier(arrays: Arrays, root: str) -> dict[str, Naming]:
    """{"probe": naming} of the classifier whose names begin with `root`, or {}."""
    return {"probe": under(root, linear)} if f"{root}weight" in arrays else {}


def method(**settings: int) -> Changes:
    """Changes of the config's method section."""
    return [(f"method.{key}", str(value)) for key, value in settings.items()]


def online(**parts: Naming) -> Branch:
    """The online branch with these parts."""
    return Branch("params", "model_state/online", parts)


def target(**parts: Naming) -> Branch:
    """The target branch with these parts."""
    return Branch("target_params", "model_state/target", parts)
