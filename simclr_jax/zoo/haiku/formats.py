"""The checkpoints that BYOL's authors published."""

from simclr_jax.zoo.haiku import names, read
from simclr_jax.zoo.name_map import Branch, ForeignCheckpoint

IGNORED = (r".*/(hidden|counter)", r"target_\w+/(predictor|classifier)/.*")
NOTE = "BYOL normalises pixels by ImageNet's mean and std, and pads as XLA's SAME."


def byol(path: str) -> ForeignCheckpoint:
    """A pickle of BYOL's pretraining: the online and the target branch.

    Raises:
      ValueError: the file is not such a pickle, or contains something that a checkpoint
        does not need.
    """
    arrays = read.arrays(path)
    root = names.encoder_name(arrays)
    widths = {  # key: a layer, divisor of its width; the name map reports a missing one
        "encoder.width": (f"{root}/~/initial_conv", 64),
        "method.hidden": ("projector/linear", 1),
        "method.out": ("projector/linear_1", 1),
    }
    changes = [("encoder.name", root.replace("res_net", "resnet"))]
    for key, (layer, unit) in widths.items():
        kernel = arrays.get(f"online_params/{layer}/w")
        if kernel is not None and kernel.ndim:
            changes.append((key, str(max(kernel.shape[-1] // unit, 1))))
    return ForeignCheckpoint(
        "byol_imagenet.py:epochs=1000",
        [*changes, ("encoder.dtype", "float32")],
        arrays,
        [
            Branch("params", "model_state/online", names.parts("online", root)),
            Branch("target_params", "model_state/target", names.parts("target", root)),
        ],
        ignored=IGNORED,
        unread={"optimizer state, step and random key": 1},
        notes=(NOTE,),
    )
