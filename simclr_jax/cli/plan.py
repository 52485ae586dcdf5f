"""The planning door: does a run fit on TPUs that are not here, and what would it take?

python -m simclr_jax plan --config configs/NAME.py --topology v5e:8x8
    [--images N --classes C] [--input NAME] [--json FILE] [--config.a.b=value ...]

The training step is compiled as on the real chips, down to the last instruction, which
takes minutes, and nothing is run: memory is what the compiler has laid out, times are
bounds and estimates (see cost.py) and no measurements. The pictures need not be there;
ImageNet's numbers of them and of classes are the defaults. With --input, a data set or
a folder, what one core of this machine makes of such pictures is measured for some
seconds. Needs libtpu, which comes with jax[tpu].
"""

import json
import math
from typing import Any

import jax
from etils import epath

from simclr_jax import sharding
from simclr_jax.cli import common, data_bench
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, config
from simclr_jax.plan import compiler
from simclr_jax.plan.chips import CHIPS, GIB
from simclr_jax.plan.cost import cost
from simclr_jax.plan.jaxpr_flops import flops
from simclr_jax.suggest import check_name

EXAMPLE = (
    "python -m simclr_jax plan --config configs/simclr_imagenet.py --topology v5e:8x8"
)


def main(argv: list[str]) -> None:
    """Plans as the command line says; see common.run_and_exit for the exit codes."""
    c, asked = read(argv)
    jax.config.update("jax_platforms", "cpu")  # for what is computed on the way
    with common.usage_errors():
        source, where = None, {"data_dir": c.data.data_dir, "split": c.data.split}
        if asked.input:  # opened first: compiling takes minutes
            source = open_source(asked.input, **where)
        said = plan(c, asked.topology, images=asked.images, classes=asked.classes)
        if source is not None:
            said["input"] = input_of(c, source)
    about = {"topology": asked.topology, "config": config.plain(c)}
    said |= about | compiler.versions()
    print(report(said))
    if asked.json:
        epath.Path(asked.json).write_text(json.dumps(said, indent=2) + "\n")


def read(argv: list[str]):
    """The config that a command line means, and what it asks for.

    Raises:
      UsageError: with the nearest right spelling of what is wrong.
      SystemExit: for words that are not understood at all; the message is printed.
    """
    parser = common.Parser(prog="simclr_jax plan", description=__doc__, example=EXAMPLE)
    parser.add_argument("--config", required=True, help="FILE.py[:key=value,...]")
    parser.add_argument("--topology", required=True, help="such as v5e:8x8 or v4:4x4x4")
    parser.add_argument("--json", help="a file for the plan")
    parser.add_argument("--input", default="", help="pictures as data.name says them")
    parser.add_argument("--images", type=int, default=1_281_167, help="in training")
    parser.add_argument("--classes", type=int, default=1000, help="0: without labels")
    asked, changes = parser.parse_with_changes(argv)
    with common.usage_errors():
        return config.read(asked.config, changes), asked


def plan(c, topology: str, *, images: int, classes: int) -> dict[str, Any]:
    """Compiles the training step of a config for a topology.

    The step alone: before the first one every chip holds the whole state for a moment,
    also where placement=fsdp then splits it.

    Args:
      topology: such as v5e:8x8.
      images: size of the training split.
      classes: C, 0 without labels.

    Returns:
      fits: whether the compiler found room for it.
      hbm_bytes_per_chip: what it laid out: the state, a batch, all temporaries and the
        program; buffers that the next state takes over count once. If it found no
        room: what it complained of, which may be the temporaries alone.
      hbm_missing_bytes: what was too much, of a chip; some of its memory is not for
        programs. 0 if it fits.
      hbm_capacity_bytes: of a chip.
      chips: how many.
      bytes_per_image: from the hosts to the chips, with its views and their draws.
      steps: of the run.
      flops_by_definition: a chip's part of the products and convolutions of a step, as
        they are written down; padding does not count.
      And, if it fits, of a step: flops_per_chip, the same as compiled;
        hbm_traffic_bytes, of a chip; roof_ms and est_ms, between which it should lie,
        and communication_ms, part of both; collectives, a list of {"kind", "count",
        "bytes"}; loops_of_unknown_length. Of the run: images_per_second_bound; hours
        and chip_hours, lists of two, by roof and estimate. The door adds topology,
        config, the compiler's versions and, if asked for, input (see `input_of`).

    Raises:
      ValueError: for a topology that nobody knows, or a batch that it does not divide.
    """
    mesh = sharding.make_mesh(compiler.describe(topology))
    config.check_batch(c, mesh.size, 1, images)
    kind = mesh.devices.flat[0].device_kind
    check_name(kind, CHIPS, f"the chips of {topology}")
    chip = CHIPS[kind]
    with jax.set_mesh(mesh):
        job = build.assemble(c, mesh, images=images, classes=classes)
        batch = build.batch_shapes(c, mesh, labels=classes > 0)
        traced = build.train_step(c, job, mesh).trace(build.abstract(job), batch)
        compiled = compiler.compile_once(traced.lower(), topology)
    missing = compiled.bytes - compiled.room if compiled.room else 0
    said = {
        "fits": bool(compiled.text),
        "hbm_bytes_per_chip": chip.devices * compiled.bytes,
        "hbm_missing_bytes": chip.devices * missing,
        "hbm_capacity_bytes": chip.hbm,
        "chips": mesh.size // chip.devices,
        "bytes_per_image": size(batch) // c.data.batch_size,
        "steps": job.total,
        "flops_by_definition": flops(traced.jaxpr.jaxpr) * chip.devices // mesh.size,
    }
    if compiled.text:
        places = [device.coords for device in mesh.devices.flat]
        step = cost(compiled.text, chip, places)
        said |= figures(step, chip, c.data.batch_size, job.total, said["chips"])
    return said


def size(tree) -> int:
    """Bytes of all arrays."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def figures(step, chip, batch: int, steps: int, chips: int) -> dict[str, Any]:
    """A step's cost, and what it makes of the run, as `plan` returns them."""
    hours = [steps * step.roof / 3600, steps * step.estimate / 3600]
    return {
        "flops_per_chip": chip.devices * step.flops,
        "hbm_traffic_bytes": chip.devices * step.traffic,
        "roof_ms": 1e3 * step.roof,
        "est_ms": 1e3 * step.estimate,
        "communication_ms": 1e3 * step.communication,
        "collectives": [each._asdict() for each in step.collectives],
        "loops_of_unknown_length": step.loops,
        "images_per_second_bound": batch / step.roof,
        "hours": hours,
        "chip_hours": [chips * each for each in hours],
    }


def input_of(c, source) -> dict[str, float | str]:
    """What one core makes of pictures here, measured.

    Returns:
      name: of the pictures.
      images_per_core_second: with all their views.
      bytes_read_per_image: encoded; 0 where all are kept in memory, decoded.
    """
    done = data_bench.measure(
        source,
        build.recipe(c),
        batch_size=c.data.batch_size,
        colour=c.data.colour,
    )
    return {
        "name": source.name,
        "images_per_core_second": done.images_per_core_second,
        "bytes_read_per_image": done.bytes_read_per_image,
    }


def report(said: dict[str, Any]) -> str:
    """A plan for people."""
    used, there = said["hbm_bytes_per_chip"] / GIB, said["hbm_capacity_bytes"] / GIB
    if not said["fits"]:
        return (
            f"does not fit: {used:.2f} of {there:.0f} GiB a chip are asked for, "
            f"{said['hbm_missing_bytes'] / GIB:.1f} GiB more than there are for "
            f"programs. Try {remedies(said['config'])}."
        )
    images, chips = said["images_per_second_bound"], said["chips"]
    sent = ", ".join(
        f"{each['count']} {each['kind']} ({each['bytes'] / 1e6:.1f} MB)"
        for each in said["collectives"]
    )
    low, high = said["hours"]
    lines = [
        f"fits         {used:.2f} of {there:.0f} GiB a chip",
        f"arithmetic   {said['flops_per_chip']:.3g} flop a chip and step "
        f"({said['flops_by_definition']:.3g} by definition)",
        f"main memory  {said['hbm_traffic_bytes'] / 1e9:.1f} GB a chip and step",
        f"messages     {sent or 'none'}",
        f"a step       from {said['roof_ms']:.1f} ms (roof) to {said['est_ms']:.1f} ms "
        f"(estimate), messages {said['communication_ms']:.1f} of it; not measured",
        f"the run      {said['steps']} steps, {low:.1f} to {high:.1f} hours on "
        f"{chips} chips: {low * chips:.0f} to {high * chips:.0f} chip-hours",
        f"the hosts    at most {images:.0f} images/s are wanted of them, "
        f"{images * said['bytes_per_image'] / chips / 1e6:.0f} MB/s a chip",
    ]
    lines += [f"             {hosts(said)}"] if "input" in said else []
    if said["loops_of_unknown_length"]:
        lines.append(f"but          {said['loops_of_unknown_length']} loops count once")
    return "\n".join(lines)


def hosts(said: dict[str, Any]) -> str:
    """What the measured input makes of the images/s that the chips could take."""
    images, found = said["images_per_second_bound"], said["input"]
    each, read = found["images_per_core_second"], found["bytes_read_per_image"]
    return (
        f"of {images / each:.0f} cores such as one here, which made {each:.0f} "
        f"images/s of {found['name']} (measured), reading "
        f"{images * read / 1e6:.0f} MB/s"
    )


def remedies(c: dict[str, Any]) -> str:
    """What may make a step fit that does not, of a plain config."""
    half = "encoder.dtype=bfloat16, " if c["encoder"].get("dtype") == "float32" else ""
    parts = f"optim.microbatches={2 * c['optim']['microbatches']}, "
    split = "placement=fsdp, " if c["placement"] == "replicated" else ""
    return f"{half}{parts}{split}more chips or a smaller batch"


if __name__ == "__main__":
    common.run_and_exit(main)
