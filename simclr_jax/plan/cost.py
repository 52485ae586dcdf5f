"""What a step costs a device, as far as its compiled program tells.

Two figures of time, between which a real step should lie; neither is measured:

- `estimate`: the compiler's own cycles of each operation, one after the other. It
  charges 16-bit streams like 32-bit ones and so is too high where memory is the limit.
- `roof`: the longer of what multiplications need at the chip's peak and what bytes need
  at its memory's bandwidth, operation by operation. It leaves out all other arithmetic,
  padding and waiting, and so is too low.

Both add the collectives by hops and bytes (see chips.py), as if none was overlapped.
"""

import collections
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from simclr_jax.plan import chips, hlo
from simclr_jax.plan.chips import Chip
from simclr_jax.plan.jaxpr_flops import meetings

Places = Sequence[Sequence[int]]
COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all"),
)
FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "partition-id"),
    *("after-all", "opt-barrier", "async-update"),
}
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Collective(NamedTuple):
    """All messages of a kind in a step."""

    kind: str
    count: int
    bytes: int


class Cost(NamedTuple):
    """Of a device and step; times in seconds."""

    flops: int  # of products and convolutions: padding and holes are not counted
    traffic: int  # bytes to and from main memory
    estimate: float
    roof: float
    unknown: float  # part of the estimate that the compiler has no cycles for
    communication: float  # part of both
    collectives: tuple[Collective, ...]
    loops: int  # of unknown length, which are counted as if they went round once


class Sums:
    """What is added up while the program is walked through."""

    def __init__(self):
        self.flops = self.traffic = self.copied = self.loops = 0
        self.cycles = self.unknown = self.roof = self.messages = 0.0
        self.count, self.bytes = collections.Counter(), collections.Counter()


def cost(text: str, chip: Chip, places: Places = ()) -> Cost:
    """Adds up a compiled program.

    Args:
      text: of it, for one device.
      chip: on which.
      places: of the devices on the grid of chips, in the order of the mesh.
    """
    program, sums = hlo.parse(text), Sums()
    _walk(program, program.entry, 1, sums, chip, places)
    traffic = sums.traffic + sums.copied
    every = chip.devices  # of a chip's bandwidth each device has its part
    memory = traffic * every / chip.bandwidth
    return Cost(
        flops=sums.flops,
        traffic=traffic,
        estimate=sums.cycles / chip.clock + sums.messages,
        roof=max(sums.roof, memory) + sums.messages,
        unknown=sums.unknown / chip.clock,
        communication=sums.messages,
        collectives=tuple(
            Collective(kind, count, sums.bytes[kind])
            for kind, count in sorted(sums.count.items())
        ),
        loops=sums.loops,
    )


def _walk(program, name, times, sums, chip, places):
    """Adds a computation that is gone through so many times."""
    types = {op.name: op.type for op in program.computations[name]}
    for op in program.computations[name]:
        kind = op.kind.removesuffix("-start")
        if op.kind in FREE or op.kind.endswith("-done"):
            continue
        if op.kind == "while":
            rounds = hlo.trips(program, op)
            sums.loops += rounds is None
            _walk(program, op.called("body"), times * (rounds or 1), sums, chip, places)
        elif op.kind == "conditional":
            for branch in re.findall(r"%([\w.\-]+)", _branches(op)):
                _walk(program, branch, times, sums, chip, places)
        elif op.kind in ("call", "async-start") or "ConcatBitcast" in op.rest:
            if op.called() in program.computations:
                _walk(program, op.called(), times, sums, chip, places)
        elif kind in COLLECTIVES:
            size, span = _message(op, types), _span(op, places)
            sums.count[kind] += times
            sums.bytes[kind] += times * size
            sums.messages += times * chips.seconds(kind, size, span, chip)
        elif op.kind in ("copy-start", "slice-start"):
            sums.copied += times * _copied(op)
        else:
            _add(program, op, types, times, sums, chip)


def _branches(op) -> str:
    found = re.search(r"branch_computations=\{([^}]*)\}", op.rest)
    return found[1] if found else ""


def _message(op, types) -> int:
    """Bytes of a collective's whole buffer: the larger of its input and output."""
    if op.kind.endswith("-start") and op.kind != "all-reduce-start":
        return max(array.size for array in hlo.arrays(op.type))
    return max(hlo.size(op.type), sum(hlo.size(types[name]) for name in op.operands))


def _span(op, places: Places) -> tuple[int, ...]:
    """The sides of the box of chips that those lie in who talk to each other."""
    group = [places[i] for i in hlo.group(op)] or places
    axes = zip(*group, strict=True)
    return tuple(max(along) - min(along) + 1 for along in axes)


def _copied(op) -> int:
    """Bytes between main and fast memory; (to, from, ...) in either direction."""
    there, back = hlo.arrays(op.type)[:2]
    return min(there.size, back.size) if there.far or back.far else 0


def _add(program, op, types, times, sums, chip):
    """An operation that computes."""
    flops = _flops(program, op, types)
    traffic = _traffic(program, op, types)
    memory = traffic * chip.devices / chip.bandwidth
    cycles = CYCLES.search(op.rest)
    took = int(cycles[1]) if cycles else memory * chip.clock
    sums.flops += times * flops
    sums.traffic += times * traffic
    sums.cycles += times * took
    sums.unknown += 0 if cycles else times * took
    sums.roof += times * max(flops * chip.devices / chip.peak, memory)


# Multiplications and additions.


def _flops(program, op, types) -> int:
    if op.kind == "convolution":
        return _convolution(op, types)
    if op.kind == "dot":
        return _dot(op, types)
    inside = program.computations.get(op.called(), [])
    names = {inner.name: inner.type for inner in inside}
    return sum(_flops(program, inner, names) for inner in inside)


def _dot(op, types) -> int:
    left = hlo.arrays(types[op.operands[0]])[0].shape
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
    summed = [int(axis) for axis in found[1].split(",") if axis] if found else []
    rows = math.prod(hlo.arrays(op.type)[0].shape)
    return 2 * rows * math.prod(left[axis] for axis in summed)


def _convolution(op, types) -> int:
    """Only what meets a real pixel: neither padding nor the holes of a stride."""
    image, kernel = (hlo.arrays(types[name])[0].shape for name in op.operands[:2])
    out = hlo.arrays(op.type)[0].shape
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest)
    if not found:
        raise ValueError(f"the convolution {op.name} does not say what its axes are")
    of_image, of_kernel, of_out = found.groups()
    flops = 2 * out[of_out.index("b")] * out[of_out.index("f")]
    flops *= kernel[of_kernel.index("i")]
    axes = sum(label.isdigit() for label in of_out)
    for axis, window in enumerate(_windows(op.rest, axes)):
        pixels = image[of_image.index(str(axis))]
        outs = out[of_out.index(str(axis))]
        flops *= meetings(window.pop("size"), pixels, outs, **window)
    return flops


def _windows(rest: str, axes: int) -> list[dict[str, int]]:
    """The window of a convolution, axis by axis."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    said = found[1] if found else ""

    def each(key, default):
        values = re.search(rf"\b{key}=([\d_x\-]+)", said)
        texts = values[1].split("x") if values else [default] * axes
        return [int(text.split("_")[0]) for text in texts]

    columns = {
        **{"size": each("size", "1"), "stride": each("stride", "1")},
        **{"pad": each("pad", "0_0"), "hole": each("lhs_dilate", "1")},
        "step": each("rhs_dilate", "1"),
    }
    return [{name: of[axis] for name, of in columns.items()} for axis in range(axes)]


# Bytes to and from main memory.


def _traffic(program, op, types) -> int:
    if op.kind == "dynamic-slice":
        return 2 * hlo.far(op.type)
    if op.kind == "dynamic-update-slice":
        return 0  # in place, and what is written was counted where it was made
    inside = op.called()
    written = max(hlo.far(op.type) - _in_place(program, inside), 0)
    read = 0
    for i, name in enumerate(op.operands):
        if name not in op.operands[:i]:
            whole = hlo.far(types.get(name, ""))
            read += _read(program, inside, i, whole) if whole > 2**20 else whole
    return written + read


def _in_place(program, name) -> int:
    """Bytes that a fusion ending in an update of a slice does not write."""
    inside = program.computations.get(name, [])
    types = {op.name: op.type for op in inside}
    saved = 0
    for op in inside:
        if op.kind == "dynamic-update-slice":
            update = hlo.size(types.get(op.operands[1], ""))
            saved += max(hlo.size(op.type) - update, 0)
        elif op.kind == "fusion":
            saved += _in_place(program, op.called())
    return saved


def _read(program, name, number, whole) -> int:
    """Bytes that a fusion reads of an operand: only slices, where it only slices it."""
    inside = program.computations.get(name, [])
    followed = [
        op.name
        for op in inside
        if op.kind == "parameter" and op.operands == [str(number)]
    ]
    if not followed:
        return whole
    total = 0
    for name in followed:  # which grows by what is the same under another name
        for op in inside:
            if op.kind == "parameter" or name not in op.operands:
                continue
            if op.kind == "dynamic-slice" and op.operands[0] == name:
                total += hlo.size(op.type)
            elif op.kind == "bitcast":
                followed.append(op.name)
            elif op.kind == "dynamic-update-slice" and op.operands[0] == name:
                continue  # written in place
            elif op.kind == "fusion":
                total += sum(
                    _read(program, op.called(), i, whole)
                    for i, operand in enumerate(op.operands)
                    if operand == name
                )
            else:
                return whole
    return min(total, whole)
