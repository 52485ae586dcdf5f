"""What torchvision, timm, lightly and solo-learn leave behind: a reader for each."""

import json
import pathlib
import re
from typing import Any

from simclr_jax.zoo.name_map import Found, Naming, listed
from simclr_jax.zoo.torch.fold_heads import Siamese, found
from simclr_jax.zoo.torch.infer_config import (
    FULL,
    PIXELS,
    SPARE,
    TORCH,
    Arrays,
    Changes,
    classifier,
    encoder,
    network,
    online,
    resnet_changes,
    vit_changes,
)
from simclr_jax.zoo.torch.names import resnet, sequential_resnet, torchvision_vit, under
from simclr_jax.zoo.torch.read import beside, read

KEPT = {  # of our own exports: what is beside the arrays, and where it is in a config
    **{key: f"encoder.{key}" for key in ("mean", "std", "pool", "shortcut", "stem")},
    "num_heads": "encoder.heads",
    "image_size": "data.image_size",
}
WIDE = ("num_classes", "img_size", "patch_size", "embed_dim", "depth", "num_heads")
# timm's that arrays tell apart, with heads of attention 64 wide: resnetaa50 computes
# something else from the same arrays.
ARCHITECTURE = r"resnet\d+|(vit|deit)_(tiny|small|base|large)_patch\d+_\d+"
PLAIN = {  # words of timm's models for which the arrays are all there is to know
    **dict.fromkeys(WIDE),
    "in_chans": [3],
    "global_pool": ["avg", "token"],
}
TEACHERS = {  # what lightly's online network and target are called, by one of the roots
    "query_backbone.": ("query_{}.", "{}."),
    "teacher_backbone.": ("{}.", "teacher_{}."),
    "backbone_momentum.": ("{}.", "{}_momentum."),
}


def torchvision(path: str) -> Found:
    """torchvision's ResNets and ViTs, with their classifier or without.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays = {
        re.sub(r"(encoder_layer_\d+\.mlp)\.linear_([12])\.", _today, name): x
        for name, x in network(read(path)).items()
    }
    told = _told(path)
    if "conv_proj.weight" in arrays:
        changes = vit_changes(arrays, torchvision_vit)
        return _supervised(arrays, torchvision_vit, changes, "heads.head.", told)
    return _supervised(arrays, resnet, resnet_changes(arrays, resnet), "fc.", told)


def _today(match: re.Match) -> str:
    """The published files are older than the names that the layers have now."""
    return f"{match[1]}.{0 if match[2] == '1' else 3}."


def timm(path: str) -> Found:
    """timm's ResNets and ViTs of the plain kind, with their classifier or without.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays, told = network(read(path)), _told(path)
    said = _timm(arrays, told)
    if told:
        return said
    note = (
        "Pixels of ImageNet's mean and deviation. timm's models differ in them: if the "
        "model's card has others, give --config.encoder.mean and --config.encoder.std."
    )
    return said._replace(notes=(*said.notes, note))


def huggingface(path: str) -> Found:
    """A folder as the Hugging Face hub has timm's models: config.json and weights.

    Raises:
      ValueError: as `timm`; config.json is by another library, or asks for a network
        that the arrays do not tell.
    """
    folder = pathlib.Path(path)
    settings = _settings(folder / "config.json")
    words = _words(settings, path)
    said = settings.get("pretrained_cfg", settings)
    told = [(KEPT[x], repr(tuple(said[x]))) for x in ("mean", "std") if x in said]
    if "num_heads" in words:
        told.append((KEPT["num_heads"], str(words["num_heads"])))
    new, old = folder / "model.safetensors", folder / "pytorch_model.bin"
    file = str(old if old.exists() and not new.exists() else new)
    return _timm(network(read(file)), _told(file) or told)


def _words(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """The model's arguments, all of them such that the arrays tell the rest."""
    words = {"global_pool": settings.get("global_pool", "avg")}
    words |= settings.get("model_args", {})
    odd = [
        f"{word} = {x!r}"
        for word, x in words.items()
        if word not in PLAIN or x not in (PLAIN[word] or [x])
    ]
    if odd:
        raise ValueError(
            f"{path}/config.json: {listed(odd)} makes another network of the same "
            f"arrays; a plain one takes {', '.join(PLAIN)}."
        )
    return words


def _settings(file: pathlib.Path) -> dict[str, Any]:
    """What timm's config.json says."""
    if not file.is_file():
        raise ValueError(f"There is no file {file}; --source is the folder of one.")
    try:
        said = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(said, dict) or "architecture" not in said:
        raise ValueError(
            f"{file} names no architecture: it is not by timm, and the folders of "
            "other libraries are not read."
        )
    if not re.fullmatch(ARCHITECTURE, str(said["architecture"])):
        raise ValueError(
            f"{file}: the architecture {said['architecture']!r} is none that is read. "
            "They are resnet18 to resnet200 and vit_ or deit_, _tiny, _small, _base or "
            "_large, such as vit_small_patch16_224; what others compute, arrays alone "
            "do not tell."
        )
    return said


def _timm(arrays: Arrays, told: Changes) -> Found:
    naming, changes = encoder(arrays)
    top = "head." if "encoder.patch" in dict(changes) else "fc."
    return _supervised(arrays, naming, changes, top, told)


def _told(path: str) -> Changes:
    """What our own exports say that no shape tells."""
    said = beside(path)
    pixels = {
        key: f"({said[key].strip('[]')})" for key in ("mean", "std") if key in said
    }
    return [(KEPT[key], x) for key, x in (said | pixels).items() if key in KEPT]


def _supervised(
    arrays: Arrays, naming: Naming, changes: Changes, top: str, told: Changes
) -> Found:
    """An encoder and maybe a classifier, of no self-supervised method."""
    notes = ["Of no self-supervised method: SimCLR's config, with a fresh projector."]
    vit = "encoder.patch" in dict(changes)
    if vit and KEPT["num_heads"] not in dict(told):
        notes.append("Heads of attention 64 wide, as usual; no shape tells.")
    return Found(
        "simclr_imagenet.py",
        changes + ([] if vit else TORCH) + PIXELS + FULL + told,
        arrays,
        [online(encoder=naming, **classifier(arrays, top))],
        spare=SPARE,
        notes=tuple(notes),
    )


def lightly(path: str) -> Found:
    """SimCLR, BYOL and MoCo by lightly's examples and benchmarks.

    A prediction head makes it BYOL's, a second backbone alone MoCo's. A memory bank is
    left.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays = network(read(path))
    here, there = next(
        (names for root, names in TEACHERS.items() if _any(arrays, root)), ("{}.", "")
    )

    def backbone(name: str) -> Naming:
        root = name.format("backbone")
        children = f"{root}0.weight" in arrays
        return under(root, sequential_resnet if children else resnet)

    def projector(name: str) -> str:
        return name.format("projection_head") + "layers."

    changes = resnet_changes(arrays, backbone(here))
    said = found(
        Siamese(
            arrays,
            changes,
            backbone(here),
            projector(here),
            "prediction_head.layers.",
            "online_classifier.linear.",
            (backbone(there), projector(there)) if there else None,
        )
    )
    note = (
        "The first convolution is 3x3: taken to be at stride 1, with no max-pool after "
        "it, and for pictures of 32 pixels, which no shape tells."
    )
    small = ("encoder.stem", "cifar") in changes
    return said._replace(
        spare=(*said.spare, r"criterion\..*"),
        notes=(*said.notes, note) if small else said.notes,
    )


def solo_learn(path: str) -> Found:
    """SimCLR, BYOL and MoCo v2+ by solo-learn.

    Raises:
      ValueError: as `read`; the file is of another format, or of a network for CIFAR,
        whose first convolution pads by two pixels, which there is not here.
    """
    arrays = network(read(path))
    root = "backbone." if _any(arrays, "backbone.") else "encoder."
    naming, changes = encoder(arrays, root)
    if ("encoder.stem", "cifar") in changes:
        raise ValueError(
            f"{path}: solo-learn's ResNets for CIFAR have a first convolution of 3x3 "
            "that pads by two pixels, ours by one: the features would be others."
        )
    second = None
    if _any(arrays, f"momentum_{root}"):
        second = encoder(arrays, f"momentum_{root}")[0], "momentum_projector."
    said = found(
        Siamese(
            arrays, changes, naming, "projector.", "predictor.", "classifier.", second
        )
    )
    return said._replace(
        spare=(*said.spare, r"momentum_classifier\..*", r"queue(_ptr)?")
    )


def _any(arrays: Arrays, root: str) -> bool:
    return any(name.startswith(root) for name in arrays)
