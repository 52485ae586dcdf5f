"""The checkpoints that the authors of MoCo, SimSiam, DINO and t-SimCNE published.

They were trained in float32, which is therefore the dtype of the imported encoders.
"""

import re

import numpy as np

from simclr_jax.models.positions import sincos
from simclr_jax.zoo.name_map import Entry, ForeignCheckpoint, Naming
from simclr_jax.zoo.torch.infer_config import (
    FLOAT32,
    IGNORED,
    encoder,
    head,
    method,
    online,
    require,
    resnet_changes,
    state_dict,
    target,
)
from simclr_jax.zoo.torch.names import PLAIN, mlp, prototypes, tsimcne_resnet, under
from simclr_jax.zoo.torch.read import read

DINO_RUNS = {
    ("vit_s", "16"): "vit_s16_800",
    ("vit_s", "8"): "vit_s8",
    ("vit_b", "16"): "vit_b16",
    ("vit_b", "8"): "vit_b8",
}


def moco(path: str) -> ForeignCheckpoint:
    """MoCo v1 and v2: both encoders, the queue and its pointer.

    The version is inferred from the head: one layer in v1, two in v2.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays = state_dict(read(path))
    _, changes = encoder(arrays, "encoder_q.")
    v1 = "encoder_q.fc.weight" in arrays
    if v1:
        layer, widths = mlp({"dense1": "fc"}), [0, len(arrays["encoder_q.fc.weight"])]
    else:
        layer, widths = under("fc.", mlp(PLAIN)), head(arrays, "encoder_q.fc.").widths

    def parts(root: str) -> dict[str, Naming]:
        return {"encoder": encoder(arrays, root)[0], "projector": under(root, layer)}

    return ForeignCheckpoint(
        f"moco_imagenet.py:version={'v1' if v1 else 'v2'}",
        changes
        + FLOAT32
        + method(
            hidden=widths[0], out=widths[-1], queue=require(arrays, "queue").shape[-1]
        ),
        arrays,
        [online(**parts("encoder_q.")), target(**parts("encoder_k."))],
        {
            "method_state/queue": Entry("queue", "dense"),
            "method_state/oldest": Entry("queue_ptr", "scalar"),
        },
        IGNORED,
    )


def mocov3(path: str) -> ForeignCheckpoint:
    """MoCo v3: base and momentum encoder, projectors and predictor.

    Raises:
      ValueError: as in `read`; the file is of another format, or a ViT's positions are
        not those of the paper.
    """
    arrays = state_dict(read(path))
    base, changes = encoder(arrays, "base_encoder.")
    momentum, _ = encoder(arrays, "momentum_encoder.")
    vit = "base_encoder.cls_token" in arrays
    name, notes, ignored = "resnet50", [], IGNORED
    if vit:
        name = "vit_b" if ("encoder.name", "vit_b") in changes else "vit_s"
        for root in ("base_encoder.", "momentum_encoder."):
            _check_positions(require(arrays, f"{root}pos_embed"))
        ignored += (r"(base|momentum)_encoder\.pos_embed",)
        notes.append(
            "12 attention heads, as all of MoCo v3's ViTs have; the number does not "
            "follow from any shape, and another one makes the features useless."
        )
    top = "head." if vit else "fc."
    projector = head(arrays, f"base_encoder.{top}")
    target_projector = head(arrays, f"momentum_encoder.{top}")
    widths = projector.widths
    return ForeignCheckpoint(
        f"mocov3_imagenet.py:encoder={name}",
        changes
        + FLOAT32
        + method(layers=len(widths), hidden=widths[0], out=widths[-1]),
        arrays,
        [
            online(
                encoder=base,
                projector=projector.naming,
                predictor=head(arrays, "predictor.").naming,
            ),
            target(encoder=momentum, projector=target_projector.naming),
        ],
        ignored=ignored,
        notes=tuple(notes),
    )


def _check_positions(positions: np.ndarray) -> None:
    """Raises a ValueError unless they are MoCo v3's fixed sines and cosines."""
    side = round((positions.shape[1] - 1) ** 0.5)
    fixed = sincos(side, side, positions.shape[2])[None]
    same_shape = fixed.shape == positions.shape
    if not same_shape or not np.abs(positions - fixed).max() < 1e-5:
        raise ValueError(
            "pos_embed is not the fixed sines and cosines of MoCo v3; was it trained?"
        )


def simsiam(path: str) -> ForeignCheckpoint:
    """SimSiam: encoder, projector and predictor.

    The last Linear of the projector has a frozen bias, which the batch norm after it
    cancels: it is folded into that batch norm's mean.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays = state_dict(read(path))
    names, changes = encoder(arrays, "encoder.")
    projector, predictor = head(arrays, "encoder.fc."), head(arrays, "predictor.")
    layers = len(projector.widths)
    last = f"encoder.fc.{3 * layers - 3}.bias"
    mean = f"encoder.fc.{3 * layers - 2}.running_mean"
    arrays[mean] = require(arrays, mean) - require(arrays, last)
    del arrays[last]
    return ForeignCheckpoint(
        "simsiam_imagenet.py",
        changes
        + FLOAT32
        + method(
            layers=layers, out=projector.widths[-1], bottleneck=predictor.widths[0]
        ),
        arrays,
        [online(encoder=names, projector=projector.naming, predictor=predictor.naming)],
        ignored=IGNORED,
    )


def dino(path: str) -> ForeignCheckpoint:
    """DINO: the teacher's encoder alone, or all of student, teacher and centre.

    An encoder alone is imported into both branches.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays = {
        re.sub(r"^(student|teacher)\.module\.", r"\1.", name): x
        for name, x in state_dict(read(path)).items()
    }
    full = any(name.startswith("teacher.") for name in arrays)
    names, changes = encoder(arrays, "teacher.backbone." if full else "")
    settings = dict(changes)
    if "encoder.patch" in settings:
        size = settings["encoder.name"], settings["encoder.patch"]
        run = DINO_RUNS.get(size, "vit_s16")
        notes = (
            "Attention heads of width 64, 6 in vit_s, as in DINO's ViTs; the number "
            "does not follow from any shape.",
        )
    else:
        run, notes = "resnet50", ()
    checkpoint = ForeignCheckpoint(
        f"dino_imagenet.py:run={run}",
        changes + FLOAT32,
        arrays,
        [online(encoder=names), target(encoder=names)],
        ignored=IGNORED,
        notes=notes,
    )
    if not full:
        return checkpoint
    return _with_heads(checkpoint, trained_lengths=run.startswith("vit_s"))


def _with_heads(
    checkpoint: ForeignCheckpoint, trained_lengths: bool
) -> ForeignCheckpoint:
    """The checkpoint with student, heads, prototypes and centre.

    Args:
      trained_lengths: whether the run trained the lengths of its prototypes. Fixed
        lengths are all 1 and have no array in our state.
    """
    arrays = checkpoint.arrays
    lengths = [
        require(arrays, f"{branch}.head.last_layer.weight_g")
        for branch in ("student", "teacher")
    ]
    trained_lengths |= any((length != 1).any() for length in lengths)

    def parts(branch: str) -> dict[str, Naming]:
        return {
            "encoder": encoder(arrays, f"{branch}.backbone.")[0],
            "projector": head(arrays, f"{branch}.head.mlp.").naming,
            "prototypes": under(f"{branch}.head.last_layer.", prototypes),
        }

    mlps = head(arrays, "teacher.head.mlp.")
    count, out = require(arrays, "teacher.head.last_layer.weight_v").shape
    ignored = () if trained_lengths else (r".*\.last_layer\.weight_g",)
    return checkpoint._replace(
        changes=checkpoint.changes
        + method(
            hidden=mlps.widths[0],
            out=out,
            prototypes=count,
            batch_norm=mlps.normed,
            norm_last_layer=not trained_lengths,
        ),
        branches=[online(**parts("student")), target(**parts("teacher"))],
        method_state={"method_state": Entry("dino_loss.center", "row")},
        ignored=checkpoint.ignored + ignored,
    )


def tsimcne(path: str) -> ForeignCheckpoint:
    """t-SimCNE: encoder and projector, from a file's `model_sd` or a state dict.

    A module that is pickled in the same file is not read.

    Raises:
      ValueError: as in `read`; the file is of another format.
    """
    arrays = state_dict(read(path))
    names = under("backbone.", tsimcne_resnet)
    projector = head(arrays, "projection_head.layers.")
    hidden, out = projector.widths[0], projector.widths[-1]
    return ForeignCheckpoint(
        "tsimcne_cifar10.py",
        resnet_changes(arrays, names) + method(hidden=hidden, out=out),
        arrays,
        [online(encoder=names, projector=projector.naming)],
        images=60_000,
        ignored=IGNORED,
        notes=(
            "Pixels are normalised by CIFAR-10's mean and std, as in the paper. For "
            "weights of the tsimcne package, which does not normalise: "
            "--config.encoder.mean='(0.0, 0.0, 0.0)' "
            "--config.encoder.std='(1.0, 1.0, 1.0)'",
        ),
    )
