"""The planning door: does a config's training step fit on TPUs that are not here?

python -m simclr_jax.plan --config configs/NAME.py --topology v5e:8x8
    [--images N --classes C] [--json FILE] [--config.a.b=value ...]

The step is compiled as on the real chips, down to the last instruction, which takes
minutes, and nothing is run: the memory is what the compiler has laid out. The pictures
need not be there; ImageNet's numbers of them and of classes are the defaults. Needs
libtpu, which comes with jax[tpu].
"""

import importlib.metadata
import json
import os
import re
import time
from typing import Any

import jax
from etils import epath
from jax.experimental import topologies

from simclr_jax import config, door, run, sharding

GIB = 2**30
# Kind of device: GiB of memory and devices of a chip, as the vendor's pages give them.
CHIPS = {
    "TPU v2": (16, 2),
    "TPU v3": (32, 2),
    "TPU v4": (32, 1),
    "TPU v5 lite": (16, 1),
    "TPU v5": (95, 1),
    "TPU v6 lite": (32, 1),
    "TPU7x": (192, 2),
}
ALONE = {  # libtpu shall neither look for a TPU's host nor lock others out
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
TOO_MUCH = re.compile(r"([\d.]+)([KMG])\)? (?:exceeds|of) .*hbm", re.IGNORECASE)


def main(argv: list[str]) -> None:
    """Plans as the command line says; see door.leave for the exit codes."""
    c, asked = read(argv)
    jax.config.update("jax_platforms", "cpu")  # for what is computed on the way
    with door.checking():
        mesh = sharding.make_mesh(describe(asked.topology))
        config.check_batch(c.data.batch_size, mesh.size, 1, asked.images)
        print(
            f"compiling the step of {asked.config} for {mesh.size} devices "
            f"({asked.topology}): takes minutes",
            flush=True,
        )
        said = plan(c, mesh, images=asked.images, classes=asked.classes)
    used, there = said["hbm_bytes_per_chip"] / GIB, said["hbm_capacity_bytes"] / GIB
    if said["fits"]:
        print(f"fits: {used:.2f} of {there:.0f} GiB a chip ({said['seconds']} s)")
    else:
        print(f"does not fit: {used:.2f} GiB of temporaries, {there:.0f} a chip")
    if asked.json:
        versions = {
            name: importlib.metadata.version(name) for name in ("jax", "libtpu")
        }
        said |= {"config": config.plain(c), "topology": asked.topology} | versions
        epath.Path(asked.json).write_text(json.dumps(said, indent=2) + "\n")


def read(argv: list[str]):
    """The config that a command line means, and what it asks for.

    Raises:
      door.Mistake: with the nearest right spelling of what is wrong.
      SystemExit: for words that are not understood at all; the message is printed.
    """
    parser = door.Parser(prog="simclr_jax.plan", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE.py[:key=value,...]")
    parser.add_argument("--topology", required=True, help="such as v5e:8x8 or v4:4x4x4")
    parser.add_argument("--json", help="a file for the plan")
    parser.add_argument("--images", type=int, default=1_281_167, help="in training")
    parser.add_argument("--classes", type=int, default=1000, help="0: without labels")
    asked, changes = parser.parse_with_changes(argv)
    with door.checking():
        c = config.load(asked.config)
        config.override(c, changes)
        config.check(c)
    return c, asked


def describe(topology: str) -> list:
    """The devices of a topology, such as v5e:8x8, that need not be there.

    Raises:
      ValueError: if libtpu is not installed or does not know the topology.
    """
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "planning needs the compiler for TPUs: "
            f"pip install 'jax[tpu]=={jax.__version__}'"
        ) from None
    os.environ.update(ALONE)
    # On v4 JAX sees a chip's two cores as one device.
    more = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **more
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology {topology}: {error}") from None
    return list(found.devices)


def plan(c, mesh, *, images: int, classes: int) -> dict[str, Any]:
    """Compiles the training step of a config for the devices of a mesh.

    Args:
      images: size of the training split.
      classes: C, 0 without labels.

    Returns:
      fits: whether the compiler found room for it.
      hbm_bytes_per_chip: what it laid out: the state, a batch, all temporaries and the
        program; buffers that the next state takes over count once. If it found no
        room: the temporaries alone.
      hbm_capacity_bytes: of a chip.
      seconds: that it took to compile.
    """
    capacity, devices = CHIPS[mesh.devices.flat[0].device_kind]
    begun = time.monotonic()
    with jax.set_mesh(mesh):
        job = run.assemble(c, mesh, images=images, classes=classes)
        batch = run.batch_shapes(c, mesh, labels=classes > 0)
        lowered = run.train_step(c, job, mesh).lower(run.abstract(job), batch)
        try:
            used, fits = needed(lowered.compile()), True
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            used, fits = wanted(str(error)), False
    return {
        "fits": fits,
        "hbm_bytes_per_chip": devices * used,
        "hbm_capacity_bytes": capacity * GIB,
        "seconds": round(time.monotonic() - begun),
    }


def needed(compiled) -> int:
    """Bytes of a device's memory that a compiled program takes."""
    m = compiled.memory_analysis()
    new = m.output_size_in_bytes - m.alias_size_in_bytes
    program = m.generated_code_size_in_bytes
    return m.argument_size_in_bytes + new + m.temp_size_in_bytes + program


def wanted(message: str) -> int:
    """Bytes for which there was no room, as the compiler complains."""
    found = TOO_MUCH.search(message)
    if not found:
        raise ValueError(f"the step does not fit: {message}")
    return int(float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[found[2]])


if __name__ == "__main__":
    door.leave(main)
