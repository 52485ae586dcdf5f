"""SimCLR, MoCo and BYOL by libraries whose heads are not always ours.

Where a head of theirs computes the same as one of ours in evaluation, it is put into
ours: the bias of a layer that has a batch norm only here, and a shift that there is not
here, become part of a batch norm's mean. The notes of an import say so.
"""

import re
from typing import NamedTuple

import numpy as np

from simclr_jax.zoo.name_map import Found, Naming
from simclr_jax.zoo.torch.infer_config import (
    FULL,
    PIXELS,
    SPARE,
    TORCH,
    Arrays,
    Changes,
    Head,
    classifier,
    head,
    method,
    need,
    online,
    target,
)
from simclr_jax.zoo.torch.names import mlp, under

EPSILON = 1e-5  # of batch norm


class Siamese(NamedTuple):
    """Where the parts of a network are in a file; roots are what names begin with."""

    arrays: Arrays
    changes: Changes  # that make the encoder
    encoder: Naming
    projector: str  # root
    predictor: str  # root, BYOL's
    classifier: str  # root, if there is one
    second: tuple[Naming, str] | None  # the target's encoder, root of its projector


def found(net: Siamese) -> Found:
    """SimCLR, MoCo or BYOL, by what there is.

    Raises:
      ValueError: it is something else.
    """
    predicts = f"{net.predictor}0.weight" in net.arrays
    if predicts and net.second is None:
        raise ValueError(
            f"There is {net.predictor}0.weight but no second encoder, as in SimSiam. "
            "SimCLR, BYOL and MoCo are read."
        )
    if net.second is None:
        return _simclr(net)
    return (_byol if predicts else _moco)(net, *net.second)


def _simclr(net: Siamese) -> Found:
    g = head(net.arrays, net.projector)
    g, note = (_shifted if g.normed else _idle)(net.arrays, net.projector, g)
    settings = method(layers=len(g.widths), hidden=g.widths[0], out=g.widths[-1])
    return Found(
        "simclr_imagenet.py",
        [*net.changes, *TORCH, *PIXELS, *FULL, *settings],
        net.arrays,
        [_online(net, projector=g.naming)],
        spare=SPARE,
        notes=(note,),
    )


def _moco(net: Siamese, encoder: Naming, root: str) -> Found:
    g, k = head(net.arrays, net.projector), head(net.arrays, root)
    settings = method(layers=len(g.widths), hidden=g.widths[0], out=g.widths[-1])
    return Found(
        "moco_imagenet.py:version=v2",
        [*net.changes, *FULL, *settings],
        net.arrays,
        [
            _online(net, projector=g.naming),
            target(encoder=encoder, projector=k.naming),
        ],
        spare=SPARE,
        notes=("The queue is fresh: theirs is another, or none.",),
    )


def _byol(net: Siamese, encoder: Naming, root: str) -> Found:
    roots = [net.projector, root, net.predictor]
    g, k, q = (head(net.arrays, r) for r in roots)
    alike = q.widths == g.widths
    notes, spare = ["Pads and pools as torchvision does, not as BYOL's code."], SPARE
    if not alike:
        roots.pop()
        spare = (*SPARE, f"{re.escape(net.predictor)}.*")
        notes.append(
            f"The predictor is left: it is {q.widths} wide, the projector {g.widths}, "
            "and ours are alike."
        )
    for r in roots:  # lightly has no bias before a batch norm
        zero = np.zeros(len(need(net.arrays, f"{r}0.weight")), np.float32)
        net.arrays.setdefault(f"{r}0.bias", zero)
    predictor = {"predictor": q.naming} if alike else {}
    settings = method(hidden=g.widths[0], out=g.widths[-1], bias=True)
    return Found(
        "byol_imagenet.py",
        [*net.changes, *TORCH, *PIXELS, *FULL, *settings],
        net.arrays,
        [
            _online(net, projector=g.naming, **predictor),
            target(encoder=encoder, projector=k.naming),
        ],
        spare=spare,
        notes=tuple(notes),
    )


def _online(net: Siamese, **heads: Naming):
    return online(
        encoder=net.encoder, **heads, **classifier(net.arrays, net.classifier)
    )


def _shifted(arrays: Arrays, root: str, g: Head) -> tuple[Head, str]:
    """A head whose last batch norm shifts, where ours does not."""
    norm = f"{root}{3 * len(g.widths) - 2}."
    shift, scale, mean, variance = (
        need(arrays, norm + leaf)
        for leaf in ("bias", "weight", "running_mean", "running_var")
    )
    if not scale.all():
        raise ValueError(f"{norm}weight has zeros, which no shift can be put before.")
    deviation = np.sqrt(variance + EPSILON)
    arrays[f"{norm}running_mean"] = mean - shift * deviation / scale
    del arrays[f"{norm}bias"]
    return g, "The projector's last batch norm has a shift, here part of its mean."


def _idle(arrays: Arrays, root: str, g: Head) -> tuple[Head, str]:
    """A head without batch norm, where ours has one: there it only adds the bias."""
    names: dict[str, int | str] = {}
    for i, width in enumerate(g.widths, start=1):
        bias, norm = f"{root}{2 * i - 2}.bias", f"{root}bn{i}."
        names |= {f"dense{i}": 2 * i - 2, f"bn{i}": f"bn{i}"}
        one = np.ones(width, np.float32)
        arrays[f"{norm}running_mean"] = -need(arrays, bias)
        arrays[f"{norm}running_var"] = one - np.float32(EPSILON)
        arrays[f"{norm}weight"] = one
        if i < len(g.widths):  # the last does not shift
            arrays[f"{norm}bias"] = 0 * one
        del arrays[bias]
    note = (
        "The projector has no batch norm, ours has: z is the same in evaluation, but "
        "further pretraining would be of another head."
    )
    return g._replace(naming=under(root, mlp(names))), note
