"""Multiplications and additions of a jaxpr, counted before compilation."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def flops(jaxpr: core.Jaxpr) -> int:
    """Multiplications and additions of all matrix products and convolutions.

    All branches of a conditional count, and the body of a `while` once. Operations
    whose results are not used also count, though a compiler removes them, such as the
    gradient with respect to the first layer's input.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        times = equation.params.get("length", 1)  # of a scan
        total += times * sum(map(flops, inner_jaxprs(equation)))
    return total


def inner_jaxprs(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs that are parameters of an equation, such as a body or branches."""
    for value in equation.params.values():
        for jaxpr in value if isinstance(value, tuple | list) else (value,):
            if isinstance(jaxpr, core.ClosedJaxpr):
                yield jaxpr.jaxpr
            elif isinstance(jaxpr, core.Jaxpr):
                yield jaxpr


def _product(equation: core.JaxprEqn) -> int:
    left, _ = map(_shape, equation.invars)
    (contracted, _), _ = equation.params["dimension_numbers"]
    rows = math.prod(_shape(equation.outvars[0]))
    return 2 * rows * math.prod(left[axis] for axis in contracted)


def _convolution(equation: core.JaxprEqn) -> int:
    image, kernel = map(_shape, equation.invars)
    out, params = _shape(equation.outvars[0]), equation.params
    (_, _, *of_image), (_, i, *of_kernel), (b, f, *of_out) = params["dimension_numbers"]
    total = 2 * out[b] * out[f] * kernel[i]
    for axis, (low, _) in enumerate(params["padding"]):
        total *= products(
            kernel[of_kernel[axis]],
            image[of_image[axis]],
            out[of_out[axis]],
            stride=params["window_strides"][axis],
            pad=low,
            lhs_dilation=params["lhs_dilation"][axis],
            rhs_dilation=params["rhs_dilation"][axis],
        )
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def products(
    kernel: int,
    pixels: int,
    outputs: int,
    *,
    stride: int,
    pad: int,
    lhs_dilation: int,
    rhs_dilation: int,
) -> int:
    """Multiplications of a convolution along one axis.

    Those with padding or with the zeros of a dilated input are not counted.

    Args:
      kernel: size of the kernel.
      pixels: size of the input.
      outputs: size of the output.
      stride: of the window.
      pad: before the first pixel.
      lhs_dilation: distance between two pixels of the input, 1 if not dilated.
      rhs_dilation: the same for the kernel.
    """
    count = 0
    for k in range(kernel):
        for output in range(outputs):
            position = output * stride + k * rhs_dilation - pad
            inside = 0 <= position <= (pixels - 1) * lhs_dilation
            count += inside and position % lhs_dilation == 0
    return count
