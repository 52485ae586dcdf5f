"""Imports SimCLR, MoCo and BYOL from libraries whose heads differ from ours.

If such a head computes the same function in evaluation as one of ours, its arrays are
converted. Two kinds of arrays are folded into the mean of a batch norm: a layer's bias,
if only our head has a batch norm after that layer, and a batch norm's shift, if ours
has none. The notes of the import state this.
"""

import re
from typing import NamedTuple

import numpy as np

from simclr_jax.zoo.name_map import Branch, ForeignCheckpoint, Naming
from simclr_jax.zoo.torch.infer_config import (
    FLOAT32,
    IGNORED,
    IMAGENET_PIXELS,
    TORCH_RESNET,
    Arrays,
    Changes,
    Head,
    classifier,
    head,
    method,
    online,
    require,
    target,
)
from simclr_jax.zoo.torch.names import mlp, under

EPSILON = 1e-5  # of batch norm


class Siamese(NamedTuple):
    """The names of a network's parts in a file; roots are prefixes of names."""

    arrays: Arrays
    changes: Changes  # of a config, to build the encoder
    encoder: Naming
    projector: str  # root
    predictor: str  # root, BYOL's
    classifier: str  # root, if there is one
    target: tuple[Naming, str] | None  # the target's encoder, root of its projector


def siamese_checkpoint(net: Siamese) -> ForeignCheckpoint:
    """The checkpoint of SimCLR, MoCo or BYOL, depending on which parts exist.

    Raises:
      ValueError: the file is of another method.
    """
    has_predictor = f"{net.predictor}0.weight" in net.arrays
    if has_predictor and net.target is None:
        raise ValueError(
            f"The file has {net.predictor}0.weight but no second encoder, as in "
            "SimSiam. SimCLR, BYOL and MoCo can be imported."
        )
    if net.target is None:
        return _simclr(net)
    return (_byol if has_predictor else _moco)(net, *net.target)


def _simclr(net: Siamese) -> ForeignCheckpoint:
    g = head(net.arrays, net.projector)
    fold = _fold_shift if g.normed else _fold_biases
    g, note = fold(net.arrays, net.projector, g)
    settings = method(layers=len(g.widths), hidden=g.widths[0], out=g.widths[-1])
    return ForeignCheckpoint(
        "simclr_imagenet.py",
        [*net.changes, *TORCH_RESNET, *IMAGENET_PIXELS, *FLOAT32, *settings],
        net.arrays,
        [_online(net, projector=g.naming)],
        ignored=IGNORED,
        notes=(note,),
    )


def _moco(net: Siamese, encoder: Naming, root: str) -> ForeignCheckpoint:
    g, k = head(net.arrays, net.projector), head(net.arrays, root)
    settings = method(layers=len(g.widths), hidden=g.widths[0], out=g.widths[-1])
    return ForeignCheckpoint(
        "moco_imagenet.py:version=v2",
        [*net.changes, *FLOAT32, *settings],
        net.arrays,
        [
            _online(net, projector=g.naming),
            target(encoder=encoder, projector=k.naming),
        ],
        ignored=IGNORED,
        notes=("The queue is randomly initialised: that of the file is not imported.",),
    )


def _byol(net: Siamese, encoder: Naming, root: str) -> ForeignCheckpoint:
    roots = [net.projector, root, net.predictor]
    g, k, q = (head(net.arrays, r) for r in roots)
    same_widths = q.widths == g.widths
    notes, ignored = ["Pads and pools as torchvision, not as BYOL's code."], IGNORED
    if not same_widths:
        roots.pop()
        ignored = (*IGNORED, f"{re.escape(net.predictor)}.*")
        notes.append(
            f"The predictor is not imported: its widths are {q.widths}, the "
            f"projector's {g.widths}, and here both have the same."
        )
    for r in roots:  # lightly has no bias before a batch norm
        zero = np.zeros(len(require(net.arrays, f"{r}0.weight")), np.float32)
        net.arrays.setdefault(f"{r}0.bias", zero)
    predictor = {"predictor": q.naming} if same_widths else {}
    settings = method(hidden=g.widths[0], out=g.widths[-1], bias=True)
    return ForeignCheckpoint(
        "byol_imagenet.py",
        [*net.changes, *TORCH_RESNET, *IMAGENET_PIXELS, *FLOAT32, *settings],
        net.arrays,
        [
            _online(net, projector=g.naming, **predictor),
            target(encoder=encoder, projector=k.naming),
        ],
        ignored=ignored,
        notes=tuple(notes),
    )


def _online(net: Siamese, **heads: Naming) -> Branch:
    return online(
        encoder=net.encoder, **heads, **classifier(net.arrays, net.classifier)
    )


def _fold_shift(arrays: Arrays, root: str, g: Head) -> tuple[Head, str]:
    """Folds the shift of a head's last batch norm, which ours lacks, into its mean."""
    norm = f"{root}{3 * len(g.widths) - 2}."
    shift, scale, mean, variance = (
        require(arrays, norm + leaf)
        for leaf in ("bias", "weight", "running_mean", "running_var")
    )
    if not scale.all():
        raise ValueError(f"{norm}weight has zeros, so its shift cannot be folded.")
    deviation = np.sqrt(variance + EPSILON)
    arrays[f"{norm}running_mean"] = mean - shift * deviation / scale
    del arrays[f"{norm}bias"]
    return g, "The shift of the projector's last batch norm is folded into its mean."


def _fold_biases(arrays: Arrays, root: str, g: Head) -> tuple[Head, str]:
    """Adds batch norms to a head without any; they only add the head's biases."""
    names: dict[str, int | str] = {}
    for i, width in enumerate(g.widths, start=1):
        bias, norm = f"{root}{2 * i - 2}.bias", f"{root}bn{i}."
        names |= {f"dense{i}": 2 * i - 2, f"bn{i}": f"bn{i}"}
        one = np.ones(width, np.float32)
        arrays[f"{norm}running_mean"] = -require(arrays, bias)
        arrays[f"{norm}running_var"] = one - np.float32(EPSILON)
        arrays[f"{norm}weight"] = one
        if i < len(g.widths):  # the last has no shift
            arrays[f"{norm}bias"] = 0 * one
        del arrays[bias]
    note = (
        "The file's projector has no batch norm, ours has: z is the same in "
        "evaluation, but further pretraining would be of another head."
    )
    return g._replace(naming=under(root, mlp(names))), note
