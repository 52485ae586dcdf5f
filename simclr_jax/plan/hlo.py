"""Reads a compiled program as the compiler prints it."""

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
    """One array of a type."""

    shape: tuple[int, ...]
    size: int  # bytes
    far: bool  # in the chip's main memory, and not in its fast one


class Op(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    kind: str
    operands: list[str]
    rest: str  # attributes, metadata

    def called(self, what: str = "calls|to_apply") -> str:
        """The computation that it calls as `what`, or an empty string."""
        found = re.search(rf"(?:{what})=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


class Program(NamedTuple):
    """All computations by name, and the name of the first."""

    computations: dict[str, list[Op]]
    entry: str
    constants: dict[str, int]  # whole numbers, by name


def arrays(kind: str) -> list[Array]:
    """The arrays of a type, of which a tuple has several."""
    found = []
    for name, sides, layout in ARRAY.findall(kind):
        shape = tuple(int(side) for side in sides.split(",") if side)
        place = re.search(r"S\((\d+)\)", layout)
        size = math.prod(shape) * SIZES[name]
        found.append(Array(shape, size, place is None or place[1] == "0"))
    return found


def size(kind: str) -> int:
    """Bytes of a type."""
    return sum(array.size for array in arrays(kind))


def far(kind: str) -> int:
    """Bytes of a type that lie in main memory."""
    return sum(array.size for array in arrays(kind) if array.far)


def parse(text: str) -> Program:
    """Takes `compiled.as_text()` apart."""
    computations, entry, name = {}, "", ""
    for line in text.splitlines():
        if not name:
            if head := HEAD.match(line):
                name = head[2]
                computations[name] = []
                entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif found := LINE.match(line):
            computations[name].append(_op(found[1], found[2]))
    numbers = re.findall(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((-?\d+)\)", text)
    return Program(computations, entry, {name: int(said) for name, said in numbers})


def _op(name: str, said: str) -> Op:
    """`TYPE kind(operands), rest`, where a tuple's type has brackets of its own."""
    end = _closing(said, 0) + 1 if said.startswith("(") else said.index(" ")
    kind, call = said[:end], said[end:].strip()
    start = call.find("(")
    stop = _closing(call, start)
    inside = call[start + 1 : stop]
    word = call[:start]
    operands = [inside] if word == "parameter" else NAME.findall(inside)
    return Op(name, kind, word, operands, call[stop + 1 :])


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)


def group(op: Op) -> list[int]:
    """The first of the groups of devices that a collective is among; []: all.

    It is `{{0,1},{2,3}}`, or `[2,4]<=[4,2]T(1,0)`, [groups, members] of all devices
    that were laid out as [4, 2] and transposed, or `mesh['data'=8] {'data':(2)2}`, two
    members along the middle axis of [2, 2, 2].
    """
    if said := re.search(r"replica_groups=\{\{([\d,]+)\}", op.rest):
        return _numbers(said[1])
    words = r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if said := re.search(words, op.rest):
        sides = _numbers(said[2])
        order = _numbers(said[3]) if said[3] else range(len(sides))
        steps = [
            [i * math.prod(sides[a + 1 :]) for i in range(sides[a])] for a in order
        ]
        return [sum(each) for each in itertools.product(*steps)][: int(said[1])]
    words = r"replica_groups=mesh\['\w+'=(\d+)\] \{'\w+':\((\d+)\)(\d+)\}"
    if said := re.search(words, op.rest):
        devices, before, members = map(int, said.groups())
        return [i * (devices // before // members) for i in range(members)]
    return []


def _numbers(said: str) -> list[int]:
    return [int(number) for number in said.split(",")]


def trips(program: Program, loop: Op) -> int | None:
    """How often a while loop goes round, None where the text does not say so."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    return _bound(program, loop.called("condition"))


def _bound(program: Program, condition: str) -> int | None:
    """The constant that a counter from 0 is held against."""
    for op in program.computations.get(condition, []):
        against = [program.constants[o] for o in op.operands if o in program.constants]
        if op.kind == "compare" and "direction=LT" in op.rest and against:
            return against[0]
        if op.kind == "fusion":
            return against[0] if against else _bound(program, op.called())
    return None
