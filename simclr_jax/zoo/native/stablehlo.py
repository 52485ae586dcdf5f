"""StableHLO by jax.export: a program without Flax, and a file of its weights."""

import pathlib

import jax
import numpy as np
from jax import export
from safetensors.numpy import save_file

from simclr_jax.zoo.network import ExportedFile, ExportedNetwork

PLATFORMS = ("cpu", "tpu", "cuda")
LIMITS = (
    f"Written by jax {jax.__version__}: this or a later jax reads it, for at least the "
    "six months that jax.export guarantees; an earlier one may not.",
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


def exported(
    network: ExportedNetwork, platforms: tuple[str, ...], batch: str = "b"
) -> export.Exported:
    """The program (arrays, images [N, S, S, 3]) -> outputs.

    Args:
      platforms: the platforms to lower for.
      batch: N, or a letter for any N.
    """
    size = network.image_size
    shape = export.symbolic_shape(f"{batch}, {size}, {size}, 3")
    arrays = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for path, x in network.arrays.items()
    }
    images = jax.ShapeDtypeStruct(shape, network.input_dtype)
    with jax.default_matmul_precision("highest"):  # else a TPU rounds to bfloat16
        # Unused arrays stay arguments, so that a caller can pass all weights.
        program = jax.jit(network.forward, keep_unused=True)
        return export.export(program, platforms=platforms)(arrays, images)


def write_stablehlo(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes the folder PATH: network.stablehlo and weights.safetensors."""
    path.mkdir()
    program = exported(network, PLATFORMS)
    (path / "network.stablehlo").write_bytes(program.serialize())
    arrays = {k: np.ascontiguousarray(x) for k, x in network.arrays.items()}
    save_file(arrays, path / "weights.safetensors")
    return ExportedFile(LOAD, ("jax", "safetensors"), LIMITS)
