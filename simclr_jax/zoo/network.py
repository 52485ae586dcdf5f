"""What leaves a work directory, and what a writer says of the file it wrote."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

PARTS: dict[str, tuple[str, ...]] = {  # what an export computes
    "encoder": ("h",),
    "encoder+head": ("h", "z"),
    "encoder+classifier": ("h", "logits"),
}
INPUTS = {  # what pictures it takes, [N, S, S, 3]
    "float": "float32 in [0, 1]; mean and deviation are inside",
    "uint8": "uint8; division by 255, mean and deviation are inside",
    "normalised": "float32, (pixel / 255 - mean) / std; nothing is inside",
}

MOST = 2**31 - 2**24  # bytes of arrays; some are left for the graph


class Network(NamedTuple):
    """A trained network: its arrays, and what they make of pictures."""

    # float32, as Flax names them: params/encoder/conv1/kernel,
    # batch_stats/encoder/bn1/mean
    arrays: dict[str, np.ndarray]
    # (arrays, images [N, S, S, 3]) -> {"h": [N, F], "z": [N, D], "logits": [N, C]},
    # float32, those of the part
    forward: Callable[[dict, Any], dict]
    encoder: Any  # the Flax module, for its sizes
    name: str  # of the encoder in a config
    mean: tuple[float, ...]  # of the pixels in [0, 1], whoever subtracts it
    std: tuple[float, ...]
    side: int  # S
    part: str  # one of PARTS
    input: str  # one of INPUTS
    licence: str = ""  # as stated by whoever takes it out

    @property
    def pixel(self) -> str:
        """The type of the pictures that it takes."""
        return "uint8" if self.input == "uint8" else "float32"

    def prepared(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] as the network takes them."""
        if self.input == "uint8":
            return pictures
        x = pictures.astype(np.float32) / 255
        if self.input == "float":
            return x
        mean, std = (np.array(numbers, np.float32) for numbers in (self.mean, self.std))
        return (x - mean) / std


class Written(NamedTuple):
    """What a writer says of its file."""

    # Python that reads what `path` names and defines `network`, images -> {"h": ...},
    # or, where a format holds nothing that computes, `arrays`, {name: array}
    load: str
    packages: tuple[str, ...]  # that these lines need
    limits: tuple[str, ...] = ()  # what a user should know
    arrays: dict[str, np.ndarray] | None = None  # in the file, where it has names
    plain: str = ""  # lines that define `arrays` without these packages
    front: str = ""  # of the card, where the card is the README of a folder
    also: tuple["Written", ...] = ()  # other lines that must say the same
    says: tuple[str, ...] = ()  # of the part's outputs; (): all


def check_size(network: Network, to: str) -> None:
    """Raises a ValueError if a format whose files hold 2 GiB cannot hold it."""
    size = sum(x.nbytes for x in network.arrays.values())
    if size > MOST:
        raise ValueError(
            f"{to} holds at most 2 GiB, and this network has {size / 2**30:.1f}. Take "
            "savedmodel, stablehlo or numpy."
        )


def installed(*packages: str) -> bool:
    """Whether all of them could be imported."""
    return all(importlib.util.find_spec(name) for name in packages)


def needed(package: str, why: str) -> ModuleType:
    """The module of an optional package.

    Raises:
      ValueError: if it is not installed.
    """
    if not installed(package):
        raise ValueError(
            f"{why} needs the package {package}, which is not installed here: "
            f"pip install {package}."
        )
    return importlib.import_module(package)
