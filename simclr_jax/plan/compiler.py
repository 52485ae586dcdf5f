"""Compiles programs for TPUs that need not be present."""

import contextlib
import gzip
import importlib.metadata
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from etils import epath
from jax.experimental import topologies

from simclr_jax import fingerprint
from simclr_jax.storage.paths import cache_folder

ENVIRONMENT = {  # libtpu looks for no TPU host and does not lock out other processes
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")  # variables that change what is compiled
# "temporaries (69.50G) exceeds available HBM (15.75G)" or "Used 69.50G of 15.75G hbm"
EXCEEDED = re.compile(
    r"([\d.]+)([KMG])\)? (?:exceeds|of) (?:available HBM \()?([\d.]+)([KMG])"
)
INTERVAL = 30.0  # seconds between messages while the compiler runs

Progress = Callable[[str], None]  # called with messages for the user


class Compiled(NamedTuple):
    """A compiled program for one device; its text is empty if it does not fit."""

    memory: int  # bytes that it takes, or would need
    text: str
    available: int = 0  # bytes available to programs, if it does not fit


def versions() -> dict[str, str]:
    """The versions of jax and libtpu, which decide how a step is compiled.

    Raises:
      ValueError: libtpu is not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "planning needs the compiler for TPUs: "
            f"pip install 'jax[tpu]=={jax.__version__}'"
        ) from None


def devices(topology: str) -> list[jax.Device]:
    """The devices of a topology, such as v5e:8x8, that need not be present.

    Raises:
      ValueError: libtpu is not installed or does not support the topology.
    """
    versions()
    os.environ.update(ENVIRONMENT)
    # On v4 JAX sees a chip's two cores as one device.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology {topology}: {error}") from None
    return list(description.devices)


def compile_once(
    lowered: jax.stages.Lowered, topology: str, progress: Progress
) -> Compiled:
    """Compiles a lowered step, or reads the result from the cache folder.

    Args:
      lowered: the step.
      topology: the topology that it is lowered for.
      progress: called when compilation starts and about every `INTERVAL` seconds.
    """
    flags = {name: os.environ[name] for name in FLAGS if os.environ.get(name)}
    program = [lowered.as_text(), topology, versions() | flags]
    name = fingerprint.of_json(program)[:32]
    path = epath.Path(cache_folder()) / "plans" / f"{name}.json.gz"
    if path.exists():
        with contextlib.suppress(OSError, ValueError, TypeError):  # damaged: recompile
            return Compiled(*json.loads(gzip.decompress(path.read_bytes())))
    progress(f"compiling for {topology}, which takes minutes")
    with reporting("compiling", progress):
        compiled = _compile(lowered)
    with contextlib.suppress(OSError):  # without the file, it is compiled again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(compiled).encode()))
    return compiled


def _compile(lowered: jax.stages.Lowered) -> Compiled:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        required, available = parse_exceeded(str(error))
        return Compiled(required, "", available)
    text = compiled.as_text()
    if text is None:
        raise ValueError("the compiler does not return the text of the program")
    return Compiled(required_memory(compiled), text)


def required_memory(compiled: jax.stages.Compiled) -> int:
    """Bytes of a device's memory that a compiled program takes.

    Outputs that reuse the memory of donated arguments count once.

    Raises:
      ValueError: the compiler does not report it.
    """
    m = compiled.memory_analysis()
    if m is None:
        raise ValueError("the compiler does not report the program's memory")
    new = m.output_size_in_bytes - m.alias_size_in_bytes
    program = m.generated_code_size_in_bytes
    return m.argument_size_in_bytes + new + m.temp_size_in_bytes + program


def parse_exceeded(message: str) -> tuple[int, int]:
    """The bytes required and available, from the compiler's error message.

    Raises:
      ValueError: the message does not contain them.
    """
    match = EXCEEDED.search(message)
    if not match:
        raise ValueError(f"the step does not fit: {message}")
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    required, unit, available, available_unit = match.groups()
    return (
        int(float(required) * units[unit]),
        int(float(available) * units[available_unit]),
    )


@contextlib.contextmanager
def reporting(
    task: str, progress: Progress, interval: float = INTERVAL
) -> Iterator[None]:
    """Calls `progress` every `interval` seconds with the elapsed time of a task."""
    done, start = threading.Event(), time.monotonic()

    def report():
        while not done.wait(interval):
            progress(f"{task}: {time.monotonic() - start:.0f} s so far")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
