"""What the authors of MoCo, SimSiam, DINO and t-SimCNE published: a reader for each.

All of it was trained in float32, so that is what the encoder computes in here, too.
"""

import re

import numpy as np

from simclr_jax.models.positions import sincos
from simclr_jax.zoo.name_map import Found, Naming, Place
from simclr_jax.zoo.torch.infer_config import (
    FULL,
    SPARE,
    encoder,
    head,
    method,
    need,
    network,
    online,
    resnet_changes,
    target,
)
from simclr_jax.zoo.torch.names import BARE, mlp, prototypes, tsimcne_resnet, under
from simclr_jax.zoo.torch.read import read

DINO_RUNS = {
    ("vit_s", "16"): "vit_s16_800",
    ("vit_s", "8"): "vit_s8",
    ("vit_b", "16"): "vit_b16",
    ("vit_b", "8"): "vit_b8",
}


def moco(path: str) -> Found:
    """MoCo v1 and v2: both encoders, the queue and its pointer.

    A head of one layer is v1's, one of two is v2's.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays = network(read(path))
    _, changes = encoder(arrays, "encoder_q.")
    v1 = "encoder_q.fc.weight" in arrays
    if v1:
        layer, widths = mlp({"dense1": "fc"}), [0, len(arrays["encoder_q.fc.weight"])]
    else:
        layer, widths = under("fc.", mlp(BARE)), head(arrays, "encoder_q.fc.").widths

    def parts(root: str) -> dict[str, Naming]:
        return {"encoder": encoder(arrays, root)[0], "projector": under(root, layer)}

    return Found(
        f"moco_imagenet.py:version={'v1' if v1 else 'v2'}",
        changes
        + FULL
        + method(
            hidden=widths[0], out=widths[-1], queue=need(arrays, "queue").shape[-1]
        ),
        arrays,
        [online(**parts("encoder_q.")), target(**parts("encoder_k."))],
        {
            "method_state/queue": Place("queue", "dense"),
            "method_state/oldest": Place("queue_ptr", "scalar"),
        },
        SPARE,
    )


def mocov3(path: str) -> Found:
    """MoCo v3: base and momentum encoder, projectors and predictor.

    Raises:
      ValueError: as `read`; the file is of another format, or a ViT's positions are not
        those of the paper.
    """
    arrays = network(read(path))
    base, changes = encoder(arrays, "base_encoder.")
    momentum, _ = encoder(arrays, "momentum_encoder.")
    vit = "base_encoder.cls_token" in arrays
    name, notes, spare = "resnet50", [], SPARE
    if vit:
        name = "vit_b" if ("encoder.name", "vit_b") in changes else "vit_s"
        for root in ("base_encoder.", "momentum_encoder."):
            _check_positions(need(arrays, f"{root}pos_embed"))
        spare += (r"(base|momentum)_encoder\.pos_embed",)
        notes.append(
            "12 heads of attention, as all of MoCo v3's ViTs have. No shape tells, and "
            "with any other number the features are worth nothing."
        )
    top = "head." if vit else "fc."
    projector = head(arrays, f"base_encoder.{top}")
    projected = head(arrays, f"momentum_encoder.{top}")
    widths = projector.widths
    return Found(
        f"mocov3_imagenet.py:encoder={name}",
        changes + FULL + method(layers=len(widths), hidden=widths[0], out=widths[-1]),
        arrays,
        [
            online(
                encoder=base,
                projector=projector.naming,
                predictor=head(arrays, "predictor.").naming,
            ),
            target(encoder=momentum, projector=projected.naming),
        ],
        spare=spare,
        notes=tuple(notes),
    )


def _check_positions(there: np.ndarray) -> None:
    """Raises a ValueError unless they are those that no array here holds."""
    side = round((there.shape[1] - 1) ** 0.5)
    ours = sincos(side, side, there.shape[2])[None]
    if ours.shape != there.shape or not np.abs(there - ours).max() < 1e-5:
        raise ValueError(
            "pos_embed is not the fixed sines and cosines of MoCo v3; was it trained?"
        )


def simsiam(path: str) -> Found:
    """SimSiam: encoder, projector and predictor.

    The last Linear of the projector has a bias, frozen as it began, which the batch
    norm after it takes away: here it is part of that batch norm's mean.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays = network(read(path))
    names, changes = encoder(arrays, "encoder.")
    projector, predictor = head(arrays, "encoder.fc."), head(arrays, "predictor.")
    layers = len(projector.widths)
    last = f"encoder.fc.{3 * layers - 3}.bias"
    mean = f"encoder.fc.{3 * layers - 2}.running_mean"
    arrays[mean] = need(arrays, mean) - need(arrays, last)
    del arrays[last]
    return Found(
        "simsiam_imagenet.py",
        changes
        + FULL
        + method(
            layers=layers, out=projector.widths[-1], bottleneck=predictor.widths[0]
        ),
        arrays,
        [online(encoder=names, projector=projector.naming, predictor=predictor.naming)],
        spare=SPARE,
    )


def dino(path: str) -> Found:
    """DINO: the teacher's encoder alone, or all of student, teacher and centre.

    An encoder alone is both the student's and the teacher's.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays = {
        re.sub(r"^(student|teacher)\.module\.", r"\1.", name): x
        for name, x in network(read(path)).items()
    }
    whole = any(name.startswith("teacher.") for name in arrays)
    names, changes = encoder(arrays, "teacher.backbone." if whole else "")
    settings = dict(changes)
    if "encoder.patch" in settings:
        size = settings["encoder.name"], settings["encoder.patch"]
        run = DINO_RUNS.get(size, "vit_s16")
        notes = (
            "Heads of attention 64 wide, 6 in vit_s, as DINO's have; no shape tells.",
        )
    else:
        run, notes = "resnet50", ()
    found = Found(
        f"dino_imagenet.py:run={run}",
        changes + FULL,
        arrays,
        [online(encoder=names), target(encoder=names)],
        spare=SPARE,
        notes=notes,
    )
    return _with_heads(found, learnt=run.startswith("vit_s")) if whole else found


def _with_heads(found: Found, learnt: bool) -> Found:
    """The same with student, heads, prototypes and centre.

    learnt: whether the run's prototypes have lengths that it learnt. Where it has not
      they are all 1, and have no array here.
    """
    arrays = found.arrays
    lengths = [
        need(arrays, f"{who}.head.last_layer.weight_g")
        for who in ("student", "teacher")
    ]
    learnt = learnt or any((length != 1).any() for length in lengths)

    def parts(who: str) -> dict[str, Naming]:
        return {
            "encoder": encoder(arrays, f"{who}.backbone.")[0],
            "projector": head(arrays, f"{who}.head.mlp.").naming,
            "prototypes": under(f"{who}.head.last_layer.", prototypes),
        }

    mlps = head(arrays, "teacher.head.mlp.")
    count, out = need(arrays, "teacher.head.last_layer.weight_v").shape
    return found._replace(
        changes=found.changes
        + method(
            hidden=mlps.widths[0],
            out=out,
            prototypes=count,
            batch_norm=mlps.normed,
            norm_last_layer=not learnt,
        ),
        branches=[online(**parts("student")), target(**parts("teacher"))],
        others={"method_state": Place("dino_loss.center", "row")},
        spare=found.spare + (() if learnt else (r".*\.last_layer\.weight_g",)),
    )


def tsimcne(path: str) -> Found:
    """t-SimCNE: encoder and projector, from a file's `model_sd` or a state dict.

    The module pickled beside it is left alone.

    Raises:
      ValueError: as `read`; the file is of another format.
    """
    arrays = network(read(path))
    names = under("backbone.", tsimcne_resnet)
    projector = head(arrays, "projection_head.layers.")
    hidden, out = projector.widths[0], projector.widths[-1]
    return Found(
        "tsimcne_cifar10.py",
        resnet_changes(arrays, names) + method(hidden=hidden, out=out),
        arrays,
        [online(encoder=names, projector=projector.naming)],
        pictures=60_000,
        spare=SPARE,
        notes=(
            "Pixels of CIFAR-10's mean and deviation, as in the paper. For weights "
            "of the tsimcne package, which has them as they are: --config.encoder.mean="
            "'(0.0, 0.0, 0.0)' --config.encoder.std='(1.0, 1.0, 1.0)'",
        ),
    )
