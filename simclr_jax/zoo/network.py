"""A network to export, and the description of the exported file."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

MAX_BYTES = 2**31 - 2**24  # of arrays in a 2 GiB file; the rest is for the graph


class ExportedNetwork(NamedTuple):
    """A trained network: its arrays, its forward pass and its preprocessing."""

    # float32, by Flax's paths: params/encoder/conv1/kernel,
    # batch_stats/encoder/bn1/mean
    arrays: dict[str, np.ndarray]
    # (arrays, images [N, S, S, 3]) -> {"h": [N, F], "z": [N, D], "logits": [N, C]},
    # float32; only the outputs of the part
    forward: Callable[[dict, Any], dict]
    encoder: Any  # the Flax module, for its sizes
    encoder_name: str  # in a config
    # of pixels in [0, 1], whether or not the network applies them
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int  # S, in pixels
    part: str  # one of catalog.PARTS
    input: str  # one of catalog.INPUTS
    licence: str = ""  # as stated by the user

    @property
    def input_dtype(self) -> str:
        """The dtype of the network's input images."""
        return "uint8" if self.input == "uint8" else "float32"

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        """The network's input [N, S, S, 3] for uint8 images [N, S, S, 3]."""
        if self.input == "uint8":
            return images
        x = images.astype(np.float32) / 255
        if self.input == "float":
            return x
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        return (x - mean) / std


class ExportedFile(NamedTuple):
    """How to load a written file, and what it contains."""

    # Python that reads the file at `path` and defines `network`, images -> {"h": ...},
    # or `arrays`, {name: array}, for a format without a forward pass
    load: str
    packages: tuple[str, ...]  # that these lines need
    limits: tuple[str, ...] = ()  # restrictions that a user should know
    arrays: dict[str, np.ndarray] | None = None  # in the file, where it has names
    load_arrays: str = ""  # lines that define `arrays` without these packages
    front_matter: str = ""  # of the card, where the card is the README of a folder
    alternatives: tuple["ExportedFile", ...] = ()  # other ways to load the same file
    outputs: tuple[str, ...] = ()  # that the lines return; (): all of the part


def check_size(network: ExportedNetwork, format: str) -> None:
    """Checks that a network fits into a format whose files hold 2 GiB.

    Raises:
      ValueError: it does not.
    """
    size = sum(x.nbytes for x in network.arrays.values())
    if size > MAX_BYTES:
        raise ValueError(
            f"{format} holds at most 2 GiB, and this network has {size / 2**30:.1f}. "
            "Use savedmodel, stablehlo or numpy."
        )


def installed(*packages: str) -> bool:
    """Whether all of these modules can be imported."""
    return all(importlib.util.find_spec(name) for name in packages)


def import_optional(package: str, option: str) -> ModuleType:
    """Imports an optional package that an option needs.

    Raises:
      ValueError: it is not installed.
    """
    if not installed(package):
        raise ValueError(
            f"{option} needs the package {package}, which is not installed: "
            f"pip install {package}."
        )
    return importlib.import_module(package)
