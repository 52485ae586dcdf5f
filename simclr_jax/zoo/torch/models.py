"""The Python code that builds our encoders in torchvision and timm.

A network that they cannot build is refused. Some are built with changed modules, such
as a stem for small images; SimCLR's max-pool, padded as in TensorFlow, is PyTorch's
with ceil_mode=True where the side is even.
"""

from typing import Any, NamedTuple

import numpy as np

from simclr_jax.models.resnet import BOTTLENECK
from simclr_jax.zoo.name_map import Naming
from simclr_jax.zoo.network import ExportedNetwork
from simclr_jax.zoo.torch import names as torch_names

TORCHVISION_DEPTHS = (18, 34, 50, 101, 152)
TIMM_DEPTHS = (*TORCHVISION_DEPTHS, 200)
CHANNELS = 64  # of the first group of a ResNet of width 1
TIMM_VITS = {  # width: name, depth, heads; the narrowest is used for other widths
    192: ("vit_tiny_patch16_224", 12, 3),
    384: ("vit_small_patch16_224", 12, 6),
    768: ("vit_base_patch16_224", 12, 12),
}
INSTEAD = "Use savedmodel, onnx or stablehlo, or numpy for the arrays only."


class Model(NamedTuple):
    """A network of a torch library."""

    builder: str  # a function of torchvision, or timm's name of the architecture
    arguments: dict[str, Any]  # its keyword arguments
    changes: tuple[str, ...]  # lines that change modules of `model`
    last: str  # the module whose input is h: fc, head, heads
    parts: dict[str, Naming]  # of encoder, projector, probe


def torchvision(network: ExportedNetwork) -> Model:
    """The network in torchvision.

    Raises:
      ValueError: torchvision has no such network.
    """
    encoder, classes = network.encoder, _num_classes(network)
    if not _is_vit(encoder):
        changes = _resnet("torchvision", network, TORCHVISION_DEPTHS)
        builder = f"torchvision.models.resnet{encoder.depth}"
        arguments = {"num_classes": classes} if classes else {}
        return _with_head(
            network, builder, arguments, changes, "fc", torch_names.resnet
        )
    arguments = {
        "image_size": network.image_size,
        "patch_size": encoder.patch_side,
        "num_layers": encoder.depth,
        "num_heads": encoder.heads,
        "hidden_dim": encoder.dim,
        "mlp_dim": 4 * encoder.dim,
        **({"num_classes": classes} if classes else {}),
    }
    return _with_head(
        network,
        "torchvision.models.VisionTransformer",
        arguments,
        [],
        "heads.head" if network.part != "encoder" else "heads",
        torch_names.torchvision_vit,
    )


def timm(network: ExportedNetwork) -> Model:
    """The network in timm.

    Raises:
      ValueError: timm has no such network.
    """
    encoder, arguments = network.encoder, {"num_classes": _num_classes(network)}
    if not _is_vit(encoder):
        changes = _resnet("timm", network, TIMM_DEPTHS)
        name = f"resnet{encoder.depth}"
        return _with_head(network, name, arguments, changes, "fc", torch_names.resnet)
    default = TIMM_VITS[min(TIMM_VITS)]
    name, depth, heads = TIMM_VITS.get(encoder.dim, default)
    sizes = {  # ours and timm's default
        "img_size": (network.image_size, 224),
        "patch_size": (encoder.patch_side, 16),
        "embed_dim": (encoder.dim, encoder.dim if encoder.dim in TIMM_VITS else 192),
        "depth": (encoder.depth, depth),
        "num_heads": (encoder.heads, heads),
    }
    arguments |= {key: x for key, (x, usual) in sizes.items() if x != usual}
    return _with_head(network, name, arguments, [], "head", torch_names.vit)


def _is_vit(encoder: Any) -> bool:
    return hasattr(encoder, "patch_side")


def width(encoder: Any) -> int:
    """F, the width of h."""
    if _is_vit(encoder):
        return encoder.dim
    return encoder.channels * (32 if encoder.depth >= BOTTLENECK else 8)


def _num_classes(network: ExportedNetwork) -> int:
    """C, of the exported classifier; 0 without one."""
    if network.part != "encoder+classifier":
        return 0
    return network.arrays["params/probe/bias"].size


def _resnet(
    library: str, network: ExportedNetwork, depths: tuple[int, ...]
) -> list[str]:
    """The lines that turn the library's ResNet into ours.

    Raises:
      ValueError: there are none.
    """
    encoder = network.encoder
    reasons = {
        f"a depth of {encoder.depth} (but {', '.join(map(str, depths))})": (
            encoder.depth not in depths
        ),
        f"a first group of {encoder.channels} channels (but {CHANNELS})": (
            encoder.channels != CHANNELS
        ),
        f"selective kernels, sk_ratio = {encoder.sk_ratio}": bool(encoder.sk_ratio),
        "convolutions padded as XLA's SAME, padding = 'same'": encoder.padding
        == "same",
    }
    unsupported = [reason for reason, applies in reasons.items() if applies]
    if unsupported:
        raise ValueError(
            f"{library} builds no ResNet with {' and '.join(unsupported)}. {INSTEAD}"
        )
    return [*_stem(encoder, network.image_size), *_shortcut(encoder)]


def _stem(encoder: Any, side: int) -> list[str]:
    if encoder.stem != "imagenet":
        stride = 2 if encoder.stem == "small" else 1
        kernel = f"3, {CHANNELS}, 3, {stride}, 1, bias=False"
        return [
            f"model.conv1 = torch.nn.Conv2d({kernel})",
            "model.maxpool = torch.nn.Identity()",
        ]
    even = -(-side // 2) % 2 == 0  # the side after the first convolution
    if encoder.pool_padding == "same" and even:
        return ["model.maxpool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)"]
    return []


def _shortcut(encoder: Any) -> list[str]:
    """The projection shortcut of our first group's basic blocks, which theirs lack."""
    if encoder.shortcut == "needed" or encoder.depth >= BOTTLENECK:
        return []
    return [
        "model.layer1[0].downsample = torch.nn.Sequential(",
        f"    torch.nn.Conv2d({CHANNELS}, {CHANNELS}, 1, bias=False),",
        f"    torch.nn.BatchNorm2d({CHANNELS}),",
        ")",
    ]


def _with_head(
    network: ExportedNetwork,
    builder: str,
    arguments: dict[str, Any],
    changes: list[str],
    last: str,
    naming: Naming,
) -> Model:
    """The model, with the last module replaced by that of the exported part."""
    parts = {"encoder": naming}
    if network.part == "encoder+classifier":
        parts["probe"] = torch_names.under(f"{last}.", torch_names.linear)
    elif network.part == "encoder+head":
        lines, indices = _head(network.arrays)
        changes = [*changes, f"model.{last} = torch.nn.Sequential(", *lines, ")"]
        parts["projector"] = torch_names.under(f"{last}.", torch_names.mlp(indices))
    elif builder.startswith("torchvision"):
        changes = [*changes, f"model.{last} = torch.nn.Identity()"]
    return Model(builder, arguments, tuple(changes), last, parts)


def _head(arrays: dict[str, np.ndarray]) -> tuple[list[str], dict[str, int]]:
    """The modules of an MLP head as lines, and the index of each of our layers."""
    lines, indices, i = [], {}, 1
    while f"params/projector/dense{i}/kernel" in arrays:
        if lines:
            lines.append("torch.nn.ReLU()")
        wide, out = arrays[f"params/projector/dense{i}/kernel"].shape
        bias = f"params/projector/dense{i}/bias" in arrays
        indices[f"dense{i}"] = len(lines)
        lines.append(f"torch.nn.Linear({wide}, {out}, bias={bias})")
        if f"batch_stats/projector/bn{i}/mean" in arrays:
            affine = f"params/projector/bn{i}/scale" in arrays
            indices[f"bn{i}"] = len(lines)
            lines.append(f"torch.nn.BatchNorm1d({out}, affine={affine})")
        i += 1
    return [f"    {line}," for line in lines], indices
