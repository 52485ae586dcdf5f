"""The cost of a step on one device, computed from the text of its compiled program.

The time of a real step should lie between two computed times; neither is measured:

- `estimate`: the sum of the compiler's estimated cycles of all operations. It counts
  16-bit data like 32-bit data, and is too high where memory bandwidth is the limit.
- `roof`: a roofline bound, the sum over all operations of the longer of two times: its
  multiplications at the chip's peak, and its bytes at the memory's bandwidth. It leaves
  out all other arithmetic, padding and waiting, and is too low.

Both include the time of the collectives, estimated from hops and bytes (see chips.py),
without overlap.
"""

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

from simclr_jax.plan import hlo, operation
from simclr_jax.plan.chips import Chip, collective_seconds

Coords = Sequence[Sequence[int]]  # of each device on the grid of chips
COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all"),
)
FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "partition-id"),
    *("after-all", "opt-barrier", "async-update"),
}
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Collective(NamedTuple):
    """All collectives of a kind in a step."""

    kind: str
    count: int
    bytes: int


class Cost(NamedTuple):
    """The cost of one step on one device; times in seconds."""

    flops: int  # of matrix products and convolutions, without padding, dilation
    traffic: int  # bytes to and from main memory
    estimate: float
    roof: float
    unknown: float  # included in the estimate: operations without cycles
    communication: float  # included in estimate and roof
    collectives: tuple[Collective, ...]
    loops: int  # of unknown length; their bodies are counted once


class _Totals:
    """The sums over the operations of a program."""

    def __init__(self):
        self.flops = self.traffic = self.copied = self.loops = 0
        self.cycles = self.unknown = self.roof = self.communication = 0.0
        self.count, self.bytes = collections.Counter(), collections.Counter()


def cost(text: str, chip: Chip, coords: Coords = ()) -> Cost:
    """The cost of a compiled program.

    Args:
      text: of the program for one device.
      chip: the kind of chip.
      coords: of all devices, in the order of the mesh.
    """
    program, totals = hlo.parse(text), _Totals()
    _add_computation(program, program.entry, 1, totals, chip, coords)
    traffic = totals.traffic + totals.copied
    memory = traffic * chip.devices / chip.bandwidth  # shared by a chip's devices
    return Cost(
        flops=totals.flops,
        traffic=traffic,
        estimate=totals.cycles / chip.clock + totals.communication,
        roof=max(totals.roof, memory) + totals.communication,
        unknown=totals.unknown / chip.clock,
        communication=totals.communication,
        collectives=tuple(
            Collective(kind, count, totals.bytes[kind])
            for kind, count in sorted(totals.count.items())
        ),
        loops=totals.loops,
    )


def _add_computation(
    program: hlo.Program,
    name: str,
    times: int,
    totals: _Totals,
    chip: Chip,
    coords: Coords,
) -> None:
    """Adds the cost of a computation that runs `times` times."""

    def add(computation: str, times: int) -> None:
        _add_computation(program, computation, times, totals, chip, coords)

    types = {op.name: op.type for op in program.computations[name]}
    for op in program.computations[name]:
        kind = op.kind.removesuffix("-start")
        if op.kind in FREE or op.kind.endswith("-done"):
            continue
        if op.kind == "while":
            count = hlo.trip_count(program, op)
            totals.loops += count is None
            add(op.called("body"), times * (count or 1))
        elif op.kind == "conditional":
            for branch in re.findall(r"%([\w.\-]+)", _branches(op)):
                add(branch, times)
        elif op.kind in ("call", "async-start") or "ConcatBitcast" in op.rest:
            if op.called() in program.computations:
                add(op.called(), times)
        elif kind in COLLECTIVES:
            size, sides = _buffer(op, types), _extent(op, coords)
            totals.count[kind] += times
            totals.bytes[kind] += times * size
            seconds = collective_seconds(kind, size, sides, chip)
            totals.communication += times * seconds
        elif op.kind in ("copy-start", "slice-start"):
            totals.copied += times * _copied(op)
        else:
            _add_operation(program, op, types, times, totals, chip)


def _branches(op: hlo.Op) -> str:
    match = re.search(r"branch_computations=\{([^}]*)\}", op.rest)
    return match[1] if match else ""


def _buffer(op: hlo.Op, types: dict[str, str]) -> int:
    """Bytes of a collective's whole buffer: the larger of its input and output."""
    if op.kind.endswith("-start") and op.kind != "all-reduce-start":
        return max(array.size for array in hlo.arrays(op.type))
    return max(hlo.size(op.type), sum(hlo.size(types[name]) for name in op.operands))


def _extent(op: hlo.Op, coords: Coords) -> tuple[int, ...]:
    """The sides of the smallest box that contains a group of the collective."""
    group = [coords[i] for i in hlo.group(op)] or coords
    axes = zip(*group, strict=True)
    return tuple(max(axis) - min(axis) + 1 for axis in axes)


def _copied(op: hlo.Op) -> int:
    """Bytes copied between main and fast memory; the type is (target, source, ...)."""
    target, source = hlo.arrays(op.type)[:2]
    return min(target.size, source.size) if target.in_hbm or source.in_hbm else 0


def _add_operation(
    program: hlo.Program,
    op: hlo.Op,
    types: dict[str, str],
    times: int,
    totals: _Totals,
    chip: Chip,
) -> None:
    """Adds the cost of an operation that computes."""
    flops = operation.flops(program, op, types)
    traffic = operation.traffic(program, op, types)
    memory = traffic * chip.devices / chip.bandwidth
    cycles = CYCLES.search(op.rest)
    spent = int(cycles[1]) if cycles else memory * chip.clock
    totals.flops += times * flops
    totals.traffic += times * traffic
    totals.cycles += times * spent
    totals.unknown += 0 if cycles else times * spent
    totals.roof += times * max(flops * chip.devices / chip.peak, memory)
