"""Compiles for TPUs that are not here."""

import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import threading
import time
from typing import NamedTuple

import jax
from etils import epath
from jax.experimental import topologies

from simclr_jax.data.tfrecord_index import cache_folder

ALONE = {  # libtpu shall neither look for a TPU's host nor lock others out
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")  # which change what is compiled, too
# "temporaries (69.50G) exceeds available HBM (15.75G)" or "Used 69.50G of 15.75G hbm"
TOO_MUCH = re.compile(
    r"([\d.]+)([KMG])\)? (?:exceeds|of) (?:available HBM \()?([\d.]+)([KMG])"
)
PATIENCE = 30  # seconds between signs of life


class Compiled(NamedTuple):
    """A program for one device; without text it found no room."""

    bytes: int  # of memory that it takes, or that the compiler would have wanted
    text: str
    room: int = 0  # bytes that the compiler had for it, where that was too little


def versions() -> dict[str, str]:
    """Of what decides how a step is compiled.

    Raises:
      ValueError: if there is no compiler for TPUs.
    """
    try:
        return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "planning needs the compiler for TPUs: "
            f"pip install 'jax[tpu]=={jax.__version__}'"
        ) from None


def describe(topology: str) -> list:
    """The devices of a topology, such as v5e:8x8, that need not be there.

    Raises:
      ValueError: if libtpu is not installed or does not know the topology.
    """
    versions()
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


def compile_once(lowered, topology: str) -> Compiled:
    """Compiles a lowered step, or finds it in the cache folder."""
    flags = {name: os.environ[name] for name in FLAGS if os.environ.get(name)}
    program = json.dumps([lowered.as_text(), topology, versions() | flags])
    name = hashlib.sha256(program.encode()).hexdigest()[:32]
    kept = epath.Path(cache_folder()) / "plans" / f"{name}.json.gz"
    if kept.exists():
        with contextlib.suppress(OSError, ValueError, TypeError):  # damaged: again
            return Compiled(*json.loads(gzip.decompress(kept.read_bytes())))
    print(f"compiling for {topology}, which takes minutes", flush=True)
    with signs_of_life("compiling"):
        made = _compile(lowered)
    with contextlib.suppress(OSError):  # a full disk costs time only
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(gzip.compress(json.dumps(made).encode()))
    return made


def _compile(lowered) -> Compiled:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        asked, room = wanted(str(error))
        return Compiled(asked, "", room)
    return Compiled(needed(compiled), compiled.as_text())


def needed(compiled) -> int:
    """Bytes of a device's memory that a compiled program takes."""
    m = compiled.memory_analysis()
    new = m.output_size_in_bytes - m.alias_size_in_bytes
    program = m.generated_code_size_in_bytes
    return m.argument_size_in_bytes + new + m.temp_size_in_bytes + program


def wanted(message: str) -> tuple[int, int]:
    """Bytes that were asked for, and that there were, as the compiler complains."""
    found = TOO_MUCH.search(message)
    if not found:
        raise ValueError(f"the step does not fit: {message}")
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    asked, unit, room, its_unit = found.groups()
    return int(float(asked) * units[unit]), int(float(room) * units[its_unit])


@contextlib.contextmanager
def signs_of_life(what: str, every: float = PATIENCE):
    """Says every now and then that something still goes on."""
    over, begun = threading.Event(), time.monotonic()

    def speak():
        while not over.wait(every):
            print(f"{what}: {time.monotonic() - begun:.0f} s so far", flush=True)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        over.set()
        speaker.join()
