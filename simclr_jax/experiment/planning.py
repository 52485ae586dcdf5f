"""What a config's training step takes on TPUs that need not be present."""

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

    Only the step: before the first one every chip holds the whole state for a moment,
    also where placement=fsdp then splits it.

    Args:
      c: the config.
      topology: such as v5e:8x8.
      images: size of the training split.
      classes: C, 0 without labels.
      progress: called with messages while the compiler runs, which takes minutes.

    Returns:
      fits: whether the step fits into memory.
      hbm_bytes_per_chip: of the state, a batch, all temporaries and the program;
        buffers that the next state reuses count once. If it does not fit: what the
        compiler reports, which may be the temporaries alone.
      hbm_missing_bytes: of a chip, 0 if it fits; a part of its memory is not available
        to programs.
      hbm_capacity_bytes: of a chip.
      chips: how many.
      bytes_per_image: from the hosts to the chips, with its views and their draws.
      steps: of the run.
      flops_by_definition: a chip's part of the products and convolutions of a step in
        its jaxpr; padding does not count.
      And, if it fits, of a step: flops_per_chip, the same as compiled;
        hbm_traffic_bytes, of a chip; roof_ms and est_ms, which bound its time from
        below and estimate it, and communication_ms, part of both; collectives, a list
        of {"kind", "count", "bytes"}; loops_of_unknown_length. Of the run:
        images_per_second_bound; hours and chip_hours, each by roof and by estimate.

    Raises:
      ValueError: an unsupported topology, or a batch that it does not divide.
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
    """Measures what one core of this machine makes of pictures.

    Returns:
      name: of the pictures.
      images_per_core_second: with all their views.
      bytes_read_per_image: encoded; 0 if the pictures are kept in memory, decoded.
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
