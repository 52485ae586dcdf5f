"""The properties of TPU chips, and the time of a collective between them.

Peaks, memory and bandwidth are published by the vendor. Clocks follow from the peaks.
Link bandwidths and latencies are assumptions, on which all estimates of communication
depend.
"""

import math
from typing import NamedTuple

GIB = 2**30
HOP, LAUNCH = 1e-6, 2e-6  # seconds: per hop between chips, and to start a collective


class Chip(NamedTuple):
    """A kind of chip. A JAX device is a core of a chip, or a whole chip."""

    devices: int  # per chip
    hbm: float  # bytes of main memory per chip
    peak: float  # bfloat16 multiplications and additions per second and chip
    bandwidth: float  # bytes per second to and from main memory, per chip
    clock: float  # Hz
    link: float  # bytes per second in one direction
    ring: int  # sides of a topology of at least this length are closed to rings


CHIPS = {  # by JAX's device_kind
    "TPU v2": Chip(2, 16 * GIB, 46e12, 700e9, 0.70e9, 62e9, 16),
    "TPU v3": Chip(2, 32 * GIB, 123e12, 900e9, 0.94e9, 70e9, 16),
    "TPU v4": Chip(1, 32 * GIB, 275e12, 1228e9, 1.05e9, 45e9, 4),
    "TPU v5 lite": Chip(1, 16 * GIB, 197e12, 819e9, 1.503e9, 45e9, 16),
    "TPU v5": Chip(1, 95 * GIB, 459e12, 2765e9, 1.75e9, 90e9, 4),
    "TPU v6 lite": Chip(1, 32 * GIB, 918e12, 1640e9, 1.75e9, 90e9, 16),
}


def collective_seconds(
    kind: str, size: int, sides: tuple[int, ...], chip: Chip
) -> float:
    """Estimates the time of a collective on a grid of chips from hops and bytes.

    Args:
      kind: name in the compiled program, such as "all-reduce".
      size: bytes of the whole buffer that is gathered or reduced.
      sides: of the smallest box that contains the participating chips, in chips.
      chip: the kind of chip.
    """
    sides = tuple(side for side in sides if side > 1)
    if not sides:
        return 0.0
    if kind == "collective-permute":
        return LAUNCH + HOP + size / chip.link
    rings = [side >= chip.ring for side in sides]
    hops = sum(
        side // 2 if ring else side - 1 for side, ring in zip(sides, rings, strict=True)
    )
    links = sum(2 if ring else 1 for ring in rings)
    chips = math.prod(sides)
    transfer = size * (chips - 1) / chips / (links * chip.link)
    phases = 2 if kind == "all-reduce" else 1  # reduce, then gather
    return LAUNCH + phases * (hops * HOP + transfer)
