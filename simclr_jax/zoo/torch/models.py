"""How torchvision and timm build our encoders, in lines of Python.

What they cannot build is refused. What they build after a change of a module or two,
such as a stem for small pictures, is built so; SimCLR's max-pool, padded as TensorFlow
does it, is PyTorch's with ceil_mode=True where the side is even.
"""

from typing import Any, NamedTuple

import numpy as np

from simclr_jax.models.resnet import BOTTLENECK
from simclr_jax.zoo.name_map import Naming
from simclr_jax.zoo.network import Network
from simclr_jax.zoo.torch import names as torch_names

TORCHVISION_DEPTHS = (18, 34, 50, 101, 152)
TIMM_DEPTHS = (*TORCHVISION_DEPTHS, 200)
CHANNELS = 64  # of the first group of a ResNet of width 1
TIMM_VITS = {  # width: name, depth, heads; the narrowest stands in for other sizes
    192: ("vit_tiny_patch16_224", 12, 3),
    384: ("vit_small_patch16_224", 12, 6),
    768: ("vit_base_patch16_224", 12, 12),
}
INSTEAD = (
    "Take savedmodel, onnx or stablehlo, which hold the network as it is, or numpy for "
    "its arrays."
)


class Model(NamedTuple):
    """A network of a torch library."""

    builder: str  # a function there; with timm, its name of the architecture
    words: dict[str, Any]  # its keywords
    changes: tuple[str, ...]  # lines that change modules of `model`
    last: str  # the module that takes h: fc, head, heads
    parts: dict[str, Naming]  # encoder, projector, probe: names


def torchvision(network: Network) -> Model:
    """The network in torchvision.

    Raises:
      ValueError: there is none like it.
    """
    encoder, heads = network.encoder, _outputs(network)
    if not _is_vit(encoder):
        changes = _resnet("torchvision", network, TORCHVISION_DEPTHS)
        builder = f"torchvision.models.resnet{encoder.depth}"
        words = {"num_classes": heads} if heads else {}
        return _headed(network, builder, words, changes, "fc", torch_names.resnet)
    words = {
        "image_size": network.side,
        "patch_size": encoder.patch_side,
        "num_layers": encoder.depth,
        "num_heads": encoder.heads,
        "hidden_dim": encoder.dim,
        "mlp_dim": 4 * encoder.dim,
        **({"num_classes": heads} if heads else {}),
    }
    return _headed(
        network,
        "torchvision.models.VisionTransformer",
        words,
        [],
        "heads.head" if network.part != "encoder" else "heads",
        torch_names.torchvision_vit,
    )


def timm(network: Network) -> Model:
    """The network in timm.

    Raises:
      ValueError: there is none like it.
    """
    encoder, words = network.encoder, {"num_classes": _outputs(network)}
    if not _is_vit(encoder):
        changes = _resnet("timm", network, TIMM_DEPTHS)
        name = f"resnet{encoder.depth}"
        return _headed(network, name, words, changes, "fc", torch_names.resnet)
    usual = TIMM_VITS[min(TIMM_VITS)]
    name, depth, heads = TIMM_VITS.get(encoder.dim, usual)
    ours = {
        "img_size": (network.side, 224),
        "patch_size": (encoder.patch_side, 16),
        "embed_dim": (encoder.dim, encoder.dim if encoder.dim in TIMM_VITS else 192),
        "depth": (encoder.depth, depth),
        "num_heads": (encoder.heads, heads),
    }
    words |= {key: own for key, (own, theirs) in ours.items() if own != theirs}
    return _headed(network, name, words, [], "head", torch_names.vit)


def _is_vit(encoder) -> bool:
    return hasattr(encoder, "patch_side")


def width(encoder) -> int:
    """F, of h."""
    if _is_vit(encoder):
        return encoder.dim
    return encoder.channels * (32 if encoder.depth >= BOTTLENECK else 8)


def _outputs(network: Network) -> int:
    """How many classes the classifier tells apart; 0: none."""
    if network.part != "encoder+classifier":
        return 0
    return network.arrays["params/probe/bias"].size


def _resnet(library: str, network: Network, depths: tuple[int, ...]) -> list[str]:
    """The changes that make the library's ResNet ours.

    Raises:
      ValueError: nothing makes it ours.
    """
    encoder = network.encoder
    reasons = {
        f"a depth of {encoder.depth} (there: {', '.join(map(str, depths))})": (
            encoder.depth not in depths
        ),
        f"a first group of {encoder.channels} channels (there: {CHANNELS})": (
            encoder.channels != CHANNELS
        ),
        f"selective kernels, sk_ratio = {encoder.sk_ratio}": bool(encoder.sk_ratio),
        "convolutions padded as XLA's SAME, pad = 'same'": encoder.pad == "same",
    }
    wrong = [reason for reason, found in reasons.items() if found]
    if wrong:
        raise ValueError(
            f"{library} builds no ResNet with {' and '.join(wrong)}. {INSTEAD}"
        )
    return [*_stem(encoder, network.side), *_shortcut(encoder)]


def _stem(encoder, side: int) -> list[str]:
    if encoder.stem != "imagenet":
        stride = 2 if encoder.stem == "small" else 1
        kernel = f"3, {CHANNELS}, 3, {stride}, 1, bias=False"
        return [
            f"model.conv1 = torch.nn.Conv2d({kernel})",
            "model.maxpool = torch.nn.Identity()",
        ]
    even = -(-side // 2) % 2 == 0  # what the first convolution leaves
    if encoder.pool == "same" and even:
        return ["model.maxpool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)"]
    return []


def _shortcut(encoder) -> list[str]:
    """Basic blocks do without a projection in the first group, if they can."""
    if encoder.shortcut == "needed" or encoder.depth >= BOTTLENECK:
        return []
    return [
        "model.layer1[0].downsample = torch.nn.Sequential(",
        f"    torch.nn.Conv2d({CHANNELS}, {CHANNELS}, 1, bias=False),",
        f"    torch.nn.BatchNorm2d({CHANNELS}),",
        ")",
    ]


def _headed(network: Network, builder, words, changes, last, naming) -> Model:
    """The model with the part's last module in the place of the library's."""
    parts = {"encoder": naming}
    if network.part == "encoder+classifier":
        parts["probe"] = torch_names.under(f"{last}.", torch_names.linear)
    elif network.part == "encoder+head":
        lines, indices = _head(network.arrays)
        changes = [*changes, f"model.{last} = torch.nn.Sequential(", *lines, ")"]
        parts["projector"] = torch_names.under(f"{last}.", torch_names.mlp(indices))
    elif builder.startswith("torchvision"):
        changes = [*changes, f"model.{last} = torch.nn.Identity()"]
    return Model(builder, words, tuple(changes), last, parts)


def _head(arrays: dict[str, np.ndarray]) -> tuple[list[str], dict[str, int]]:
    """Lines of the modules of an MLP head, and which of them each of our layers is."""
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
