"""Arrays without a forward pass: NumPy's .npz, and Orbax without an optimiser."""

import pathlib

import numpy as np
import orbax.checkpoint as ocp

from simclr_jax.tree import nested
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork

LIMITS = ("Arrays only; the config below describes the encoder that they are for.",)
NUMPY = """\
import numpy as np

with np.load(path) as file:
    arrays = dict(file)  # {"params/encoder/conv1/kernel": [H, W, I, O], ...}
"""
ORBAX = """\
import os

import jax
import orbax.checkpoint as ocp

with ocp.StandardCheckpointer() as reader:
    tree = reader.restore(os.path.abspath(path))  # {"params": ..., "batch_stats": ...}
named = jax.tree_util.tree_leaves_with_path(tree)
arrays = {jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in named}
"""


def write_numpy(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes PATH, a .npz of float32 arrays named by our paths."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **network.arrays)
    return ExportedFile(NUMPY, ("numpy",), LIMITS, network.arrays)


def write_orbax(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes the folder PATH: Flax's variables, {"params": ..., "batch_stats": ...}."""
    with ocp.StandardCheckpointer() as writer:
        writer.save(path.absolute(), nested(network.arrays))
    return ExportedFile(ORBAX, ("orbax-checkpoint", "jax"), LIMITS, network.arrays)
