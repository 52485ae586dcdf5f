"""Parses the text of a compiled HLO program."""

import itertools
import math
import re
from typing import NamedTuple

SIZES = {
    **{"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1},
    **{"s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4},
    **{"s64": 8, "u64": 8, "f64": 8},
}
ARRAY = re.compile(r"\b(" + "|".join(SIZES) + r")\[([0-9,]*)\](\{[^}]*\})?")
LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*->.*\{\s*$")
NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """An array in an HLO type."""

    shape: tuple[int, ...]
    size: int  # bytes
    in_hbm: bool  # in main memory, not in the chip's fast memory


class Op(NamedTuple):
    """One operation of a computation."""

    name: str
    type: str
    kind: str
    operands: list[str]
    rest: str  # attributes, metadata

    def called(self, attribute: str = "calls|to_apply") -> str:
        """The name of the computation in an attribute; "" without one."""
        match = re.search(rf"(?:{attribute})=%?([\w.\-]+)", self.rest)
        return match[1] if match else ""


class Program(NamedTuple):
    """All computations by name, and the name of the entry computation."""

    computations: dict[str, list[Op]]
    entry: str
    constants: dict[str, int]  # integer scalars, by name


def arrays(type_text: str) -> list[Array]:
    """The arrays of a type: one, or several for a tuple."""
    result = []
    for dtype, sides, layout in ARRAY.findall(type_text):
        shape = tuple(int(side) for side in sides.split(",") if side)
        space = re.search(r"S\((\d+)\)", layout)
        size = math.prod(shape) * SIZES[dtype]
        result.append(Array(shape, size, space is None or space[1] == "0"))
    return result


def size(type_text: str) -> int:
    """Bytes of all arrays of a type."""
    return sum(array.size for array in arrays(type_text))


def hbm_size(type_text: str) -> int:
    """Bytes of the arrays of a type that are in main memory."""
    return sum(array.size for array in arrays(type_text) if array.in_hbm)


def parse(text: str) -> Program:
    """Parses `compiled.as_text()`."""
    computations, entry, name = {}, "", ""
    for line in text.splitlines():
        if not name:
            if head := HEAD.match(line):
                name = head[2]
                computations[name] = []
                entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif match := LINE.match(line):
            computations[name].append(_op(match[1], match[2]))
    constants = re.findall(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((-?\d+)\)", text)
    return Program(computations, entry, {key: int(value) for key, value in constants})


def _op(name: str, text: str) -> Op:
    """Parses `TYPE kind(operands), rest`; the type of a tuple is in parentheses."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    type_text, call = text[:end], text[end:].strip()
    start = call.find("(")
    stop = _closing(call, start)
    kind, arguments = call[:start], call[start + 1 : stop]
    operands = [arguments] if kind == "parameter" else NAME.findall(arguments)
    return Op(name, type_text, kind, operands, call[stop + 1 :])


def _closing(text: str, start: int) -> int:
    """The position of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return len(text)


def group(op: Op) -> list[int]:
    """The first group of devices of a collective; [] for all devices.

    The text has one of three notations:

    - `{{0,1},{2,3}}`: the groups.
    - `[2,4]<=[4,2]T(1,0)`: all devices as an array of shape [4, 2], transposed and
      reshaped to [2 groups, 4 members].
    - `mesh['data'=8] {'data':(2)2}`: all devices as an array of shape [2, 2, 2], with
      the 2 members of a group along the middle axis.
    """
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", op.rest):
        return _numbers(match[1])
    pattern = r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if match := re.search(pattern, op.rest):
        sides = _numbers(match[2])
        order = _numbers(match[3]) if match[3] else range(len(sides))
        offsets = [
            [i * math.prod(sides[a + 1 :]) for i in range(sides[a])] for a in order
        ]
        return [sum(x) for x in itertools.product(*offsets)][: int(match[1])]
    pattern = r"replica_groups=mesh\['\w+'=(\d+)\] \{'\w+':\((\d+)\)(\d+)\}"
    if match := re.search(pattern, op.rest):
        devices, before, members = map(int, match.groups())
        return [i * (devices // before // members) for i in range(members)]
    return []


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def trip_count(program: Program, loop: Op) -> int | None:
    """The number of iterations of a while loop; None if the text does not state it."""
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(match[1])
    return _bound(program, loop.called("condition"))


def _bound(program: Program, condition: str) -> int | None:
    """The constant in the condition of a loop whose counter starts at 0."""
    for op in program.computations.get(condition, []):
        constants = [
            program.constants[o] for o in op.operands if o in program.constants
        ]
        if op.kind == "compare" and "direction=LT" in op.rest and constants:
            return constants[0]
        if op.kind == "fusion":
            return constants[0] if constants else _bound(program, op.called())
    return None
