"""What a score was measured with, so that only scores of one kind are compared."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax import fingerprint, sharding
from simclr_jax.data.sources import Source
from simclr_jax.tree import by_path
from simclr_jax.zoo import preprocessing

PACKAGE = pathlib.Path(__file__).parents[1]
SAMPLE = 64  # pictures of a source that are read


def of_score(
    protocol: str, feature: str, size: int, train: Source, test: Source, weights: str
) -> dict[str, Any]:
    """The fingerprint of a score, which has its settings beside it.

    Args:
      size: side of the pictures, in pixels.
      train: the labelled pictures that are compared with or learned from.
      weights: as from `of_weights`; "" if there is no network.
    """
    classes = [test.classes, *test.class_names]
    return {
        "protocol": protocol,
        "features": feature,
        "preprocessing": picture_size(size),
        "classes": fingerprint.of_json(classes),
        "training data": of_source(train),
        "test data": of_source(test),
        "weights": weights,
        "package": of_package(),
    }


def picture_size(size: int) -> dict[str, Any]:
    """The crop and the resize of the pictures, without their code."""
    described = preprocessing.described(size)
    return {key: value for key, value in described.items() if key != "code"}


def of_source(source: Source) -> str:
    """The fingerprint of the number of pictures and of some of them, evenly spaced.

    Labels and (encoded) pictures count, names do not: a copy of a folder is the same. A
    change of other pictures than these is not noticed.
    """
    count = len(source)
    rows = np.linspace(0, count - 1, min(SAMPLE, count)).astype(np.int64)
    return f"{count} pictures, {fingerprint.of_arrays(source.read(rows))}"


def of_weights(params: Any, stats: Any, mesh: Mesh) -> str:
    """The fingerprint of a network's parameters and statistics, wherever they are."""
    tree = jax.device_put((params, stats), sharding.replicated(mesh))
    return fingerprint.of_arrays(by_path(jax.device_get(tree)))


@functools.cache
def of_package() -> str:
    """The fingerprint of this package's Python files."""
    return fingerprint.of_sources(PACKAGE)
