"""What the arrays of a PyTorch file tell of the network that they are of."""

import itertools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simclr_jax.models.resnet import BLOCKS, BOTTLENECK
from simclr_jax.zoo.name_map import Branch, Naming, Place, listed
from simclr_jax.zoo.torch.names import BARE, NORMED, linear, mlp, resnet, under, vit

Arrays = dict[str, np.ndarray]
Changes = list[tuple[str, str]]  # of a config

VITS = {  # (width, blocks): ours
    (128, 4): "vit_mini",
    (192, 12): "vit_ti",
    (384, 12): "vit_s",
    (768, 12): "vit_b",
}
FULL = [("encoder.dtype", "float32")]  # as the published weights were trained
PIXELS = [
    ("encoder.mean", "(0.485, 0.456, 0.406)"),
    ("encoder.std", "(0.229, 0.224, 0.225)"),
]
TORCH = [  # torchvision's ResNet, by a config that has another
    ("encoder.pad", "even"),
    ("encoder.pool", "torch"),
    ("encoder.shortcut", "needed"),
]
SPARE = (  # of no use here, whoever saved them
    r"(.*\.)?num_batches_tracked",
    r"(optimizer|optimizer_states|lr_schedulers|scaler|fp16_scaler|loops|callbacks)\..*",
    r"best_acc1",
)


def network(arrays: Arrays) -> Arrays:
    """The arrays without what containers put before their names."""
    return {
        re.sub(r"^(state_dict\.|model_sd\.)?(module\.)?", "", name): x
        for name, x in arrays.items()
    }


def need(arrays: Arrays, place: str | Place | None) -> np.ndarray:
    """An array without which nothing can be told.

    Raises:
      ValueError: it is not there.
    """
    name = place.name if isinstance(place, Place) else place
    if name is None or name not in arrays:
        raise ValueError(
            f"Files of this format hold {name}, and this one does not: it holds "
            f"{listed(sorted(arrays), 6)}. Is it of another format?"
        )
    return arrays[name]


def _has(arrays: Arrays, place: Place | None) -> bool:
    return place is not None and place.name in arrays


def _count(has: Callable[[int], bool]) -> int:
    """How many there are, from 0 on."""
    return next(i for i in itertools.count() if not has(i))


def encoder(arrays: Arrays, root: str = "") -> tuple[Naming, Changes]:
    """What lies behind a root: a ViT with timm's names, or torchvision's ResNet.

    Returns:
      its naming, with the root, and the changes of a config that make it.

    Raises:
      ValueError: it is neither, or of no size that there is here.
    """
    if f"{root}patch_embed.proj.weight" in arrays:
        naming = under(root, vit)
        return naming, vit_changes(arrays, naming)
    naming = under(root, resnet)
    return naming, resnet_changes(arrays, naming)


def resnet_changes(arrays: Arrays, naming: Naming) -> Changes:
    """The changes of a config that make this ResNet.

    Raises:
      ValueError: it is none, or none that there is here.
    """
    first = need(arrays, naming("conv1/kernel"))  # [C, 3, K, K]
    deep = _has(arrays, naming("layer1_0/conv3/kernel"))

    def blocks(group: int) -> int:
        return _count(lambda b: _has(arrays, naming(f"layer{group}_{b}/conv1/kernel")))

    counts = tuple(map(blocks, (1, 2, 3, 4)))
    fit = [d for d, n in BLOCKS.items() if n == counts and (d >= BOTTLENECK) == deep]
    if first.ndim != 4 or first.shape[2] not in (3, 7) or not fit:
        raise ValueError(
            f"{counts} blocks of {3 if deep else 2} convolutions behind a first one of "
            f"{first.shape} are no ResNet that there is here."
        )
    large = first.shape[2] == 7
    return [
        ("encoder.name", f"resnet{fit[0]}"),
        ("encoder.width", str(len(first) // 64)),
        ("encoder.stem", "imagenet" if large else "cifar"),
        ("data.image_size", "224" if large else "32"),
    ]


def vit_changes(arrays: Arrays, naming: Naming) -> Changes:
    """The changes of a config that make this ViT.

    How many heads it has no shape tells: that is for the format to know.

    Raises:
      ValueError: it is none, or of no size that there is here.
    """
    kernel = need(arrays, naming("patch/kernel"))  # [D, 3, P, P]
    positions = need(arrays, naming("positions"))  # [1, 1 + T, D]
    size = len(kernel), _count(lambda i: _has(arrays, naming(f"block{i}/norm1/scale")))
    if size not in VITS or kernel.ndim != 4 or positions.ndim != 3:
        known = ", ".join(f"{dim} and {depth}" for dim, depth in VITS)
        raise ValueError(
            f"A ViT of width {size[0]} with {size[1]} blocks is none that there is "
            f"here: {known}."
        )
    side, patch = math.isqrt(positions.shape[1] - 1), kernel.shape[2]
    return [
        ("encoder.name", VITS[size]),
        ("encoder.patch", str(patch)),
        ("data.image_size", str(side * patch)),
    ]


class Head(NamedTuple):
    """A Sequential of Linear, batch norm or not, ReLU, and so on."""

    naming: Naming  # with its root
    normed: bool
    widths: list[int]  # of the Linears


def head(arrays: Arrays, root: str) -> Head:
    """The head behind a root.

    Raises:
      ValueError: there is none.
    """
    need(arrays, f"{root}0.weight")
    normed = f"{root}1.running_mean" in arrays
    step = 3 if normed else 2
    depth = _count(lambda i: f"{root}{step * i}.weight" in arrays)
    widths = [len(arrays[f"{root}{step * i}.weight"]) for i in range(depth)]
    return Head(under(root, mlp(NORMED if normed else BARE)), normed, widths)


def classifier(arrays: Arrays, root: str) -> dict[str, Naming]:
    """{"probe": its naming}, if there is one behind the root."""
    return {"probe": under(root, linear)} if f"{root}weight" in arrays else {}


def method(**settings: int) -> Changes:
    """Changes of the method's section."""
    return [(f"method.{key}", str(value)) for key, value in settings.items()]


def online(**parts: Naming) -> Branch:
    return Branch("params", "model_state/online", parts)


def target(**parts: Naming) -> Branch:
    return Branch("target_params", "model_state/target", parts)
