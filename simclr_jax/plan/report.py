"""A plan as numbers, as `simclr-jax plan --json` writes it, and as text."""

from typing import Any

from simclr_jax.plan.chips import GIB, Chip
from simclr_jax.plan.cost import Cost


def run_numbers(
    step: Cost, chip: Chip, *, batch: int, steps: int, chips: int
) -> dict[str, Any]:
    """The costs of a step and of the run, under their keys in a plan.

    Args:
      step: the cost of one step on one device.
      chip: the kind of chip.
      batch: images per step.
      steps: of the run.
      chips: number of chips.
    """
    hours = [steps * step.roof / 3600, steps * step.estimate / 3600]
    return {
        "flops_per_chip": chip.devices * step.flops,
        "hbm_traffic_bytes": chip.devices * step.traffic,
        "roof_ms": 1e3 * step.roof,
        "est_ms": 1e3 * step.estimate,
        "communication_ms": 1e3 * step.communication,
        "collectives": [collective._asdict() for collective in step.collectives],
        "loops_of_unknown_length": step.loops,
        "images_per_second_bound": batch / step.roof,
        "hours": hours,
        "chip_hours": [chips * x for x in hours],
    }


def report(plan: dict[str, Any]) -> str:
    """A plan as text."""
    if not plan["fits"]:
        return _does_not_fit(plan)
    used, capacity = plan["hbm_bytes_per_chip"], plan["hbm_capacity_bytes"]
    collectives = ", ".join(
        f"{x['count']} {x['kind']} ({x['bytes'] / 1e6:.1f} MB)"
        for x in plan["collectives"]
    )
    images, chips = plan["images_per_second_bound"], plan["chips"]
    low, high = plan["hours"]
    lines = [
        f"fits         {used / GIB:.2f} of {capacity / GIB:.0f} GiB a chip",
        f"arithmetic   {plan['flops_per_chip']:.3g} flop a chip and step "
        f"({plan['flops_by_definition']:.3g} by definition)",
        f"main memory  {plan['hbm_traffic_bytes'] / 1e9:.1f} GB a chip and step",
        f"collectives  {collectives or 'none'}",
        f"a step       from {plan['roof_ms']:.1f} ms (roof) to {plan['est_ms']:.1f} ms "
        f"(estimate), {plan['communication_ms']:.1f} of it communication; not measured",
        f"the run      {plan['steps']} steps, {low:.1f} to {high:.1f} hours on "
        f"{chips} chips: {low * chips:.0f} to {high * chips:.0f} chip-hours",
        f"the input    at most {images:.0f} images/s, "
        f"{images * plan['bytes_per_image'] / chips / 1e6:.0f} MB/s a chip",
    ]
    if "input" in plan:
        lines.append(f"             {input_text(plan)}")
    if plan["loops_of_unknown_length"]:
        lines.append(
            f"but          {plan['loops_of_unknown_length']} loops of unknown length "
            "are counted once"
        )
    return "\n".join(lines)


def _does_not_fit(plan: dict[str, Any]) -> str:
    required, capacity = plan["hbm_bytes_per_chip"], plan["hbm_capacity_bytes"]
    return (
        f"does not fit: {required / GIB:.2f} of {capacity / GIB:.0f} GiB a chip are "
        f"required, {plan['hbm_missing_bytes'] / GIB:.1f} GiB more than programs may "
        f"use. Try {remedies(plan['config'])}."
    )


def input_text(plan: dict[str, Any]) -> str:
    """How many cores, each like the measured one, can supply the chips with images."""
    images, measured = plan["images_per_second_bound"], plan["input"]
    speed, size = measured["images_per_core_second"], measured["bytes_read_per_image"]
    return (
        f"from {images / speed:.0f} cores such as one here, which made {speed:.0f} "
        f"images/s of {measured['name']} (measured), reading "
        f"{images * size / 1e6:.0f} MB/s"
    )


def remedies(c: dict[str, Any]) -> str:
    """Changes of a plain config that may make its step fit."""
    half = "encoder.dtype=bfloat16, " if c["encoder"].get("dtype") == "float32" else ""
    parts = f"optim.microbatches={2 * c['optim']['microbatches']}, "
    split = "placement=fsdp, " if c["placement"] == "replicated" else ""
    return f"{half}{parts}{split}more chips or a smaller batch"
