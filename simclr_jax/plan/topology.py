"""The two names of a TPU slice: JAX's v5e:8x8 is Cloud TPU's type v5litepod-64."""

import math
import re
from typing import NamedTuple


class Generation(NamedTuple):
    """How Cloud TPU names the slices of a generation of chips."""

    name: str  # in JAX
    counted: int  # what the type counts, per chip: 2 cores, or the chip
    dimensions: int  # of the grid of chips
    least: int  # chips


GENERATIONS = {  # by the beginning of the type
    "v2": Generation("v2", 2, 2, 4),
    "v3": Generation("v3", 2, 2, 4),
    "v4": Generation("v4", 2, 3, 4),
    "v5litepod": Generation("v5e", 1, 2, 1),
    "v5p": Generation("v5p", 2, 3, 4),
    "v6e": Generation("v6e", 1, 2, 1),
}


def of_type(text: str) -> str:
    """The topology as JAX writes it, v5e:8x8, from that or from Cloud TPU's type.

    Raises:
      ValueError: an unknown generation, or a number of chips for which Cloud TPU has no
        default grid: it must be a power of two.
    """
    if ":" in text:
        return text
    beginning, _, count = text.rpartition("-")
    if beginning not in GENERATIONS:
        raise ValueError(
            f"--topology: unknown {text!r}; write the grid, such as v5e:8x8, or Cloud "
            f"TPU's type, such as v5litepod-64: {', '.join(GENERATIONS)} and a number."
        )
    generation = GENERATIONS[beginning]
    least = generation.least * generation.counted
    number = int(count) if re.fullmatch(r"[1-9]\d*", count) else 0
    if number < least or number & (number - 1):
        raise ValueError(
            f"--topology {text}: the number must be a power of two from {least} on "
            f"(of {'cores' if generation.counted == 2 else 'chips'}); other grids are "
            f"written {generation.name}:{'x'.join('ABC'[: generation.dimensions])}."
        )
    sides = _default_sides(number // generation.counted, generation.dimensions)
    return f"{generation.name}:{sides}"


def cloud_type(topology: str) -> str:
    """Cloud TPU's type of a topology; "" if it is no type's default grid."""
    name, _, sides = topology.partition(":")
    if not re.fullmatch(r"\d+(x\d+)*", sides):
        return ""
    chips = math.prod(map(int, sides.split("x")))
    for beginning, generation in GENERATIONS.items():
        default = _default_sides(chips, generation.dimensions)
        if generation.name == name and default == sides:
            return f"{beginning}-{chips * generation.counted}"
    return ""


def both_names(topology: str) -> str:
    """`v5e:8x8 = v5litepod-64`; without the type if it has none."""
    return " = ".join(filter(None, (topology, cloud_type(topology))))


def _default_sides(chips: int, dimensions: int) -> str:
    """The grid of a power of two of chips that is nearest to a square or a cube."""
    exponent = chips.bit_length() - 1
    sides = [2 ** ((exponent + i) // dimensions) for i in range(dimensions)]
    if 1 in sides:  # 2x2x1, not 1x2x2
        sides.sort(reverse=dimensions == 3)
    return "x".join(map(str, sides))
