"""StableHLO by jax.export: a program without Flax, and its weights beside it."""

import pathlib

import jax
import numpy as np
from jax import export
from safetensors.numpy import save_file

from simclr_jax.zoo.network import Network, Written

PLATFORMS = ("cpu", "tpu", "cuda")
LIMITS = (
    f"Written by jax {jax.__version__}: this or a later jax reads it, for at least the "
    "six months that jax.export promises; an earlier one may not.",
    f"It runs on {', '.join(PLATFORMS)}, in float32 on all of them.",
)
LOAD = """\
import pathlib

from jax import export
from safetensors.numpy import load_file

folder = pathlib.Path(path)
program = export.deserialize(bytearray((folder / "network.stablehlo").read_bytes()))
weights = load_file(folder / "weights.safetensors")

def network(images):
    return program.call(weights, images)
"""


def exported(network: Network, platforms: tuple[str, ...], batch: str = "b"):
    """The program (arrays, images) -> outputs, a jax.export.Exported.

    batch: how many images it takes; a letter: any number.
    """
    side = network.side
    shape = export.symbolic_shape(f"{batch}, {side}, {side}, 3")
    arrays = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for path, x in network.arrays.items()
    }
    images = jax.ShapeDtypeStruct(shape, network.pixel)
    with jax.default_matmul_precision("highest"):  # else a TPU rounds to bfloat16
        # Every array stays an argument: who reads them need not know which are used.
        program = jax.jit(network.forward, keep_unused=True)
        return export.export(program, platforms=platforms)(arrays, images)


def write_stablehlo(network: Network, path: pathlib.Path) -> Written:
    """Writes the folder PATH: network.stablehlo and weights.safetensors."""
    path.mkdir()
    program = exported(network, PLATFORMS)
    (path / "network.stablehlo").write_bytes(program.serialize())
    arrays = {k: np.ascontiguousarray(x) for k, x in network.arrays.items()}
    save_file(arrays, path / "weights.safetensors")
    return Written(LOAD, ("jax", "safetensors"), LIMITS)
