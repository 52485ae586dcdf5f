"""The foreign formats by name, and what an export may contain.

This module imports neither jax nor TensorFlow: readers and writers are named as
"module:function" of this package and imported when they are used.
"""

import importlib
import pathlib
from collections.abc import Callable

from simclr_jax.suggest import check_name
from simclr_jax.zoo.name_map import ForeignCheckpoint
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork

Reader = Callable[[str], ForeignCheckpoint]  # gets the path of a file, folder or prefix
Writer = Callable[[ExportedNetwork, pathlib.Path], ExportedFile]

READERS = {  # import format: its Reader
    "simclr": "tensorflow.formats:simclr",
    "simclr_ema": "tensorflow.formats:simclr_ema",
    "byol": "haiku.formats:byol",
    "moco": "torch.formats:moco",
    "mocov3": "torch.formats:mocov3",
    "simsiam": "torch.formats:simsiam",
    "dino": "torch.formats:dino",
    "tsimcne": "torch.formats:tsimcne",
    "torchvision": "torch.libraries:torchvision",
    "timm": "torch.libraries:timm",
    "huggingface": "torch.libraries:huggingface",
    "lightly": "torch.libraries:lightly",
    "solo_learn": "torch.libraries:solo_learn",
}
WRITERS = {  # export format: its Writer
    "torchvision": "torch.write:write_torchvision",
    "timm": "torch.write:write_timm",
    "huggingface": "torch.write:write_huggingface",
    "savedmodel": "tensorflow.write:write_savedmodel",
    "tflite": "tensorflow.write:write_tflite",
    "onnx": "onnx.write:write_onnx",
    "stablehlo": "native.stablehlo:write_stablehlo",
    "orbax": "native.arrays:write_orbax",
    "numpy": "native.arrays:write_numpy",
}
TORCH = ("torchvision", "timm", "huggingface")
ARRAYS_ONLY = (*TORCH, "orbax", "numpy")  # formats without preprocessing

PARTS: dict[str, tuple[str, ...]] = {  # part of a network: the outputs of its export
    "encoder": ("h",),
    "encoder+head": ("h", "z"),
    "encoder+classifier": ("h", "logits"),
}
INPUTS = {  # input of an export: images [N, S, S, 3] of this dtype and range
    "float": "float32 in [0, 1]; the network subtracts the mean and divides by the std",
    "uint8": "uint8; the network divides by 255 and normalises by mean and std",
    "normalised": "float32, (pixel / 255 - mean) / std; the network does not normalise",
}


def reader(format: str) -> Reader:
    """The reader of an import format, one of READERS."""
    return _function(READERS[format])


def writer(format: str) -> Writer:
    """The writer of an export format, one of WRITERS."""
    return _function(WRITERS[format])


def check_options(format: str, part: str, input: str) -> str:
    """Checks the options of an export.

    Args:
      format: one of `WRITERS`.
      part: one of `PARTS`.
      input: one of `INPUTS`, or "" for the format's default.

    Returns:
      The input: "float", or "normalised" for a format that holds arrays only, unless
      another one is given.

    Raises:
      ValueError: a name is unknown, or the format has no choice of input.
    """
    check_name(format, WRITERS, "--to")
    check_name(part, PARTS, "--part")
    if format in ARRAYS_ONLY:
        if input:
            raise ValueError(
                f"--input={input}: {format} holds arrays only, without preprocessing; "
                "omit it, and use the mean and std on the card. savedmodel, tflite, "
                "onnx and stablehlo have this option."
            )
        return "normalised"
    if input:
        check_name(input, INPUTS, "--input")
    return input or "float"


def _function(name: str) -> Callable:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"simclr_jax.zoo.{module}"), function)
