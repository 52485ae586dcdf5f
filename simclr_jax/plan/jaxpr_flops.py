"""What a step multiplies by its definition, before any compiler has seen it."""

import math
from collections.abc import Iterator

from jax.extend import core


def flops(jaxpr: core.Jaxpr) -> int:
    """Multiplications and additions of all products and convolutions.

    A branch counts as if it were taken, the body of a `while` once, and so does what a
    compiler will find to be of no use, such as the slope of the first layer's pixels.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        times = equation.params.get("length", 1)  # of a scan
        total += times * sum(map(flops, inside(equation)))
    return total


def inside(equation) -> Iterator[core.Jaxpr]:
    """The computations that an equation goes through: a body, branches."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _product(equation) -> int:
    left, _ = (v.aval.shape for v in equation.invars)
    (summed, _), _ = equation.params["dimension_numbers"]
    rows = math.prod(equation.outvars[0].aval.shape)
    return 2 * rows * math.prod(left[axis] for axis in summed)


def _convolution(equation) -> int:
    image, kernel = (v.aval.shape for v in equation.invars)
    out, said = equation.outvars[0].aval.shape, equation.params
    (_, _, *of_image), (_, i, *of_kernel), (b, f, *of_out) = said["dimension_numbers"]
    total = 2 * out[b] * out[f] * kernel[i]
    for axis, (low, _) in enumerate(said["padding"]):
        total *= meetings(
            kernel[of_kernel[axis]],
            image[of_image[axis]],
            out[of_out[axis]],
            stride=said["window_strides"][axis],
            pad=low,
            hole=said["lhs_dilation"][axis],
            step=said["rhs_dilation"][axis],
        )
    return total


def meetings(
    weights: int, pixels: int, outs: int, *, stride: int, pad: int, hole: int, step: int
) -> int:
    """How many pairs of a weight and an output meet a pixel, on one axis.

    Neither padding nor the holes between pixels are work.
    """
    met = 0
    for weight in range(weights):
        for o in range(outs):
            at = o * stride + weight * step - pad
            met += 0 <= at <= (pixels - 1) * hole and at % hole == 0
    return met
