"""Imports the checkpoints of torchvision, timm, lightly and solo-learn."""

import json
import pathlib
import re
from typing import Any

from simclr_jax.zoo.name_map import ForeignCheckpoint, Naming, abbreviate
from simclr_jax.zoo.torch.fold_heads import Siamese, siamese_checkpoint
from simclr_jax.zoo.torch.infer_config import (
    FLOAT32,
    IGNORED,
    IMAGENET_PIXELS,
    TORCH_RESNET,
    Arrays,
    Changes,
    classifier,
    encoder,
    online,
    resnet_changes,
    state_dict,
    vit_changes,
)
from simclr_jax.zoo.torch.names import resnet, sequential_resnet, torchvision_vit, under
from simclr_jax.zoo.torch.read import metadata, read

CONFIG_KEYS = {  # metadata of our own exports: its key in a config
    **{key: f"encoder.{key}" for key in ("mean", "std", "shortcut", "stem")},
    "pool": "encoder.pool_padding",
    "num_heads": "encoder.heads",
    "image_size": "data.image_size",
}
SIZES = ("num_classes", "img_size", "patch_size", "embed_dim", "depth", "num_heads")
# timm's networks that their arrays identify, with attention heads of width 64. Others
# are not supported: resnetaa50, for one, computes another function of the same arrays.
ARCHITECTURE = r"resnet\d+|(vit|deit)_(tiny|small|base|large)_patch\d+_\d+"
ARGUMENTS = {  # of timm's models: supported values; None: any value
    **dict.fromkeys(SIZES),
    "in_chans": [3],
    "global_pool": ["avg", "token"],
}
LIGHTLY_NAMES = {  # root in the file: names of the online network and of the target
    "query_backbone.": ("query_{}.", "{}."),
    "teacher_backbone.": ("{}.", "teacher_{}."),
    "backbone_momentum.": ("{}.", "{}_momentum."),
}
SMALL_STEM = (
    "The first convolution is 3x3; its stride of 1, the absence of a max-pool and "
    "images of 32 pixels are assumed: the arrays do not determine them."
)


def torchvision(path: str) -> ForeignCheckpoint:
    """torchvision's ResNets and ViTs, with or without their classifier.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays = {
        re.sub(r"(encoder_layer_\d+\.mlp)\.linear_([12])\.", _mlp_index, name): x
        for name, x in state_dict(read(path)).items()
    }
    settings = _own_settings(path)
    if "conv_proj.weight" in arrays:
        naming, top = torchvision_vit, "heads.head."
        changes = vit_changes(arrays, naming)
    else:
        naming, top = resnet, "fc."
        changes = resnet_changes(arrays, naming)
    return _supervised(arrays, naming, changes, top, settings)


def _mlp_index(match: re.Match) -> str:
    """Replaces the older layer names of published files by the current ones."""
    return f"{match[1]}.{0 if match[2] == '1' else 3}."


def timm(path: str) -> ForeignCheckpoint:
    """timm's plain ResNets and ViTs, with or without their classifier.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays, settings = state_dict(read(path)), _own_settings(path)
    checkpoint = _timm(arrays, settings)
    if settings:
        return checkpoint
    note = (
        "Pixels are normalised by ImageNet's mean and std. timm's models differ in "
        "these: if the model's card has others, give --config.encoder.mean and "
        "--config.encoder.std."
    )
    return checkpoint._replace(notes=(*checkpoint.notes, note))


def huggingface(path: str) -> ForeignCheckpoint:
    """A Hugging Face folder with a model of timm: config.json and weights.

    Raises:
      ValueError: as in `timm`; config.json is of another library, or describes a
        network that the arrays do not identify.
    """
    folder = pathlib.Path(path)
    content = _config_json(folder / "config.json")
    arguments = _model_arguments(content, path)
    pixels = content.get("pretrained_cfg", content)
    settings = [
        (CONFIG_KEYS[key], repr(tuple(pixels[key])))
        for key in ("mean", "std")
        if key in pixels
    ]
    if "num_heads" in arguments:
        settings.append((CONFIG_KEYS["num_heads"], str(arguments["num_heads"])))
    new, old = folder / "model.safetensors", folder / "pytorch_model.bin"
    file = str(old if old.exists() and not new.exists() else new)
    return _timm(state_dict(read(file)), _own_settings(file) or settings)


def _model_arguments(content: dict[str, Any], path: str) -> dict[str, Any]:
    """The arguments of timm's model; raises a ValueError for unsupported ones."""
    arguments = {"global_pool": content.get("global_pool", "avg")}
    arguments |= content.get("model_args", {})
    others = [
        f"{name} = {x!r}"
        for name, x in arguments.items()
        if name not in ARGUMENTS or x not in (ARGUMENTS[name] or [x])
    ]
    if others:
        raise ValueError(
            f"{path}/config.json: {abbreviate(others)} makes another network of the "
            f"same arrays; supported are {', '.join(ARGUMENTS)}."
        )
    return arguments


def _config_json(file: pathlib.Path) -> dict[str, Any]:
    """The content of timm's config.json."""
    if not file.is_file():
        raise ValueError(f"There is no file {file}; --source is the folder of one.")
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict) or "architecture" not in content:
        raise ValueError(
            f"{file} has no architecture: it is not of timm, and folders of other "
            "libraries are not supported."
        )
    if not re.fullmatch(ARCHITECTURE, str(content["architecture"])):
        raise ValueError(
            f"{file}: the architecture {content['architecture']!r} is not supported. "
            "Supported are resnet18 to resnet200 and vit_ or deit_, _tiny, _small, "
            "_base or _large, such as vit_small_patch16_224; others compute something "
            "else from the same arrays."
        )
    return content


def _timm(arrays: Arrays, settings: Changes) -> ForeignCheckpoint:
    naming, changes = encoder(arrays)
    top = "head." if "encoder.patch" in dict(changes) else "fc."
    return _supervised(arrays, naming, changes, top, settings)


def _own_settings(path: str) -> Changes:
    """Settings that arrays do not determine, from the metadata of our own exports."""
    content = metadata(path)
    pixels = {
        key: f"({content[key].strip('[]')})"
        for key in ("mean", "std")
        if key in content
    }
    return [
        (CONFIG_KEYS[key], x)
        for key, x in (content | pixels).items()
        if key in CONFIG_KEYS
    ]


def _supervised(
    arrays: Arrays, naming: Naming, changes: Changes, top: str, settings: Changes
) -> ForeignCheckpoint:
    """An encoder and possibly a classifier, without self-supervised heads.

    Args:
      top: root of the classifier.
      settings: changes of the config that cannot be inferred from the arrays.
    """
    notes = [
        "Of no self-supervised method: SimCLR's config, with a randomly initialised "
        "projector."
    ]
    vit = "encoder.patch" in dict(changes)
    if vit and CONFIG_KEYS["num_heads"] not in dict(settings):
        notes.append("Attention heads of width 64 are assumed, as usual.")
    resnet_settings = [] if vit else TORCH_RESNET
    return ForeignCheckpoint(
        "simclr_imagenet.py",
        changes + resnet_settings + IMAGENET_PIXELS + FLOAT32 + settings,
        arrays,
        [online(encoder=naming, **classifier(arrays, top))],
        ignored=IGNORED,
        notes=tuple(notes),
    )


def lightly(path: str) -> ForeignCheckpoint:
    """SimCLR, BYOL and MoCo of lightly's examples and benchmarks.

    A file with a prediction head is BYOL; one with only a second backbone is MoCo. A
    memory bank is not imported.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays = state_dict(read(path))
    online_name, target_name = next(
        (names for root, names in LIGHTLY_NAMES.items() if _has_root(arrays, root)),
        ("{}.", ""),
    )

    def backbone(name: str) -> Naming:
        root = name.format("backbone")
        sequential = f"{root}0.weight" in arrays
        return under(root, sequential_resnet if sequential else resnet)

    def projector(name: str) -> str:
        return name.format("projection_head") + "layers."

    changes = resnet_changes(arrays, backbone(online_name))
    checkpoint = siamese_checkpoint(
        Siamese(
            arrays,
            changes,
            backbone(online_name),
            projector(online_name),
            "prediction_head.layers.",
            "online_classifier.linear.",
            (backbone(target_name), projector(target_name)) if target_name else None,
        )
    )
    notes = checkpoint.notes
    if ("encoder.stem", "cifar") in changes:
        notes += (SMALL_STEM,)
    return checkpoint._replace(
        ignored=(*checkpoint.ignored, r"criterion\..*"), notes=notes
    )


def solo_learn(path: str) -> ForeignCheckpoint:
    """SimCLR, BYOL and MoCo v2+ of solo-learn.

    Raises:
      ValueError: as in `read`; the file is of another format, or of a network for
        CIFAR, whose first convolution pads by two pixels (ours by one).
    """
    arrays = state_dict(read(path))
    root = "backbone." if _has_root(arrays, "backbone.") else "encoder."
    naming, changes = encoder(arrays, root)
    if ("encoder.stem", "cifar") in changes:
        raise ValueError(
            f"{path}: solo-learn's ResNets for CIFAR have a first convolution of 3x3 "
            "that pads by two pixels, ours by one: the features would differ."
        )
    target = None
    if _has_root(arrays, f"momentum_{root}"):
        target = encoder(arrays, f"momentum_{root}")[0], "momentum_projector."
    checkpoint = siamese_checkpoint(
        Siamese(
            arrays, changes, naming, "projector.", "predictor.", "classifier.", target
        )
    )
    return checkpoint._replace(
        ignored=(*checkpoint.ignored, r"momentum_classifier\..*", r"queue(_ptr)?")
    )


def _has_root(arrays: Arrays, root: str) -> bool:
    return any(name.startswith(root) for name in arrays)
