"""Memory and time of a config's training step on TPUs that need not be present."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from simclr_jax import sharding
from simclr_jax.data import throughput
from simclr_jax.data.sources import Source
from simclr_jax.experiment import build, schema
from simclr_jax.plan import compiler
from simclr_jax.plan.chips import CHIPS
from simclr_jax.plan.cost import cost
from simclr_jax.plan.jaxpr_flops import flops
from simclr_jax.plan.report import run_numbers
from simclr_jax.suggest import check_name


def plan(
    c: ConfigDict,
    topology: str,
    *,
    images: int,
    classes: int,
    progress: compiler.Progress,
) -> dict[str, Any]:
    """Compiles the training step of a config for a topology.

    The plan covers the step only: during initialisation every chip briefly holds the
    whole state, even if placement=fsdp then shards it.

    Args:
      c: the config.
      topology: such as v5e:8x8.
      images: size of the training split.
      classes: C, 0 without labels.
      progress: called with messages while the compiler runs, which takes minutes.

    Returns:
      fits: whether the step fits into memory.
      hbm_bytes_per_chip: of the state, a batch, all temporaries and the program;
        buffers that the next state reuses count once. If it does not fit: the number
        in the compiler's message, which may be that of the temporaries alone.
      hbm_missing_bytes: per chip, 0 if it fits; a part of a chip's memory is not
        available to programs.
      hbm_capacity_bytes: per chip.
      chips: the number of chips.
      bytes_per_image: sent from the hosts to the chips, with all views and draws.
      steps: of the run.
      flops_by_definition: a chip's share of the floating-point operations of matrix
        products and convolutions in the step's jaxpr, without padding.
      And, if it fits, per step: flops_per_chip, the same in the compiled program;
        hbm_traffic_bytes, per chip; roof_ms and est_ms, a lower bound and an estimate
        of its time, and communication_ms, included in both; collectives, a list of
        {"kind", "count", "bytes"}; loops_of_unknown_length. For the run:
        images_per_second_bound; hours and chip_hours, each as [bound, estimate].

    Raises:
      ValueError: an unsupported topology, or a batch size that does not divide over it.
    """
    mesh = sharding.make_mesh(compiler.devices(topology))
    schema.check_batch(c, mesh.size, 1, images)
    kind = mesh.devices.flat[0].device_kind
    check_name(kind, CHIPS, f"the chips of {topology}")
    chip = CHIPS[kind]
    chips = mesh.size // chip.devices
    with jax.set_mesh(mesh):
        run = build.assemble(c, mesh, images=images, classes=classes)
        batch = build.batch_shapes(c, mesh, labels=classes > 0)
        traced = build.train_step(c, run, mesh).trace(build.abstract(run), batch)
        compiled = compiler.compile_once(traced.lower(), topology, progress)
    missing = compiled.memory - compiled.available if compiled.available else 0
    numbers = {
        "fits": bool(compiled.text),
        "hbm_bytes_per_chip": chip.devices * compiled.memory,
        "hbm_missing_bytes": chip.devices * missing,
        "hbm_capacity_bytes": chip.hbm,
        "chips": chips,
        "bytes_per_image": size(batch) // c.data.batch_size,
        "steps": run.total,
        "flops_by_definition": flops(traced.jaxpr.jaxpr) * chip.devices // mesh.size,
    }
    if compiled.text:
        step = cost(compiled.text, chip, [d.coords for d in mesh.devices.flat])
        numbers |= run_numbers(
            step, chip, batch=c.data.batch_size, steps=run.total, chips=chips
        )
    return numbers


def size(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def measure_input(
    c: ConfigDict, source: Source, seconds: float = 5.0
) -> dict[str, float | str]:
    """Measures the throughput of the input pipeline on one core of this machine.

    Returns:
      name: of the data set.
      images_per_core_second: pictures per second, each with all its views.
      bytes_read_per_image: encoded; 0 if decoded pictures are kept in memory.
    """
    measured = throughput.measure(
        source,
        build.recipe(c),
        batch_size=c.data.batch_size,
        colour=c.data.colour,
        seconds=seconds,
    )
    return {
        "name": source.name,
        "images_per_core_second": measured.images_per_core_second,
        "bytes_read_per_image": measured.bytes_per_image_read,
    }
