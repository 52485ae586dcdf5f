"""The protocol `attention` on a saved run, with its data and its fingerprint."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from simclr_jax.data.masks import MaskedPictures, open_masked
from simclr_jax.evaluate import scores
from simclr_jax.evaluate.attention import attention
from simclr_jax.experiment import score_fingerprint
from simclr_jax.experiment.config import Changes
from simclr_jax.experiment.encoder import Encoder, open_encoder
from simclr_jax.experiment.visualisation import has_spatial, spatial

FEATURE = "cls"  # whose attention it is
BATCH = 4  # pictures on a device at a time: at 480 pixels, attention takes a GB


def open_for_attention(
    workdir: str, changes: Changes = ()
) -> tuple[Encoder, MaskedPictures]:
    """The encoder of a run, and the pictures with masks that its config names.

    Args:
      workdir: an absolute path.
      changes: of the config's data or `evaluate` settings.

    Raises:
      ValueError: as in `open_encoder` and `open_masked`; or the encoder has no
        attention.
    """
    encoder = open_encoder(workdir, changes)
    check_attention(encoder)
    data = encoder.config.data
    masked = open_masked(
        data.name, data_dir=data.data_dir, split=data.eval_split, workdir=workdir
    )
    return encoder, masked


def text(result: dict[str, Any]) -> str:
    """A result for reading: the index with its interval, and that of every head."""
    heads = ", ".join(f"{100 * x:.1f}" for x in result["heads"])
    lines = [
        f"attention  Jaccard index {scores.text(result).strip()}, the best head for "
        f"each of {result['objects']} objects of {result['count']} pictures",
        f"           each head alone: {heads}",
    ]
    if result["left_out"]:
        lines.append(f"           {result['left_out']} pictures without an object")
    return "\n".join(lines)


def check_attention(encoder: Encoder) -> None:
    """Raises ValueError if the encoder is no vision transformer of this package."""
    if has_spatial(encoder):
        image = jax.ShapeDtypeStruct((1, encoder.size, encoder.size, 3), np.uint8)
        apply = functools.partial(encoder.module.apply, train=False, spatial=True)
        _, maps = jax.eval_shape(apply, encoder.variables, image)
        if maps.attention is not None:
            return
    raise ValueError(
        f"attention needs a vision transformer; encoder.name="
        f"{encoder.config.encoder.name} is none."
    )


def attention_score(
    encoder: Encoder,
    data: MaskedPictures,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The result of the protocol; see `evaluate.attention.attention`.

    Returns:
      what it returns, and "step", "settings", "data", "fingerprint".

    Raises:
      ValueError, UnreadablePicture: as there.
    """
    c = encoder.config
    settings = c.evaluate.attention.to_dict()
    result = attention(
        lambda images: spatial(encoder, images).attention,
        data,
        encoder.size,
        getattr(encoder.module, "patch_side", 1),
        BATCH * encoder.mesh.size,
        progress,
        **settings,
    )
    return result | {
        "step": encoder.step,
        "settings": settings,
        "data": f"{c.data.name} ({c.data.eval_split})",
        "fingerprint": {
            "protocol": "attention",
            "features": FEATURE,
            "preprocessing": {"size": result["size"], "crop": "none"},
            "test data": score_fingerprint.of_source(data.pictures),
            "masks": score_fingerprint.of_source(data.masks),
            "weights": score_fingerprint.of_weights(
                encoder.variables["params"],
                encoder.variables["batch_stats"],
                encoder.mesh,
            ),
            "package": score_fingerprint.of_package(),
        },
    }
