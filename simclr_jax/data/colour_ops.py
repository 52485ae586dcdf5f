"""Colour arithmetic that host and device share: order of the steps, tables, formulas.

The functions take the array library `xp`, TensorFlow or jax.numpy, and the red, green
and blue planes of N images: three arrays of one shape, values around 0 to 1.
"""

from collections.abc import Sequence
from typing import Any

from simclr_jax.data.view import View

# The jitter's operations as numbered in `augment.draw`; NONE: an image without jitter.
BRIGHTNESS, CONTRAST, SATURATION, HUE, NONE = range(5)
# red, green and blue in ITU-R 601's luma, as TensorFlow and as PIL round them
LUMA = {"tf": (0.2989, 0.5870, 0.1140), "pil": (0.299, 0.587, 0.114)}


def steps(view: View) -> tuple[str, ...]:
    """The steps after the rotation, SimCLR appendix A in the released code's order.

    Steps of probability 0 are left out.
    """
    colours = ("grey", "jitter") if view.grey_first else ("jitter", "grey")
    names = (*colours, "clip", "blur", "solarise")
    return tuple(name for name in names if name == "clip" or getattr(view, name) > 0)


def luma(planes: Sequence[Any], colours: str) -> Any:
    """The grey plane; `colours` as in `View`."""
    (red, green, blue), weights = planes, LUMA[colours]
    return weights[0] * red + weights[1] * green + weights[2] * blue


def blend(x: Any, other: Any, factor: Any) -> Any:
    """`other` for factor 0, x for factor 1; extrapolates for larger factors."""
    return (x - other) * factor + other


def extremes(xp: Any, planes: Sequence[Any]) -> tuple[Any, Any]:
    """HSV's V, and the chroma: V minus the smallest of the planes."""
    red, green, blue = planes
    value = xp.maximum(xp.maximum(red, green), blue)
    return value, value - xp.minimum(xp.minimum(red, green), blue)


def scale_saturation(xp: Any, planes: Sequence[Any], factor: Any) -> list[Any]:
    """The planes with HSV's S times the factor, at most 1; no conversion to HSV."""
    value, chroma = extremes(xp, planes)
    limit = xp.maximum(value, 0.0) / xp.maximum(chroma, 1e-30)  # 1 / S
    scale = xp.minimum(limit, factor)
    return [value - scale * (value - plane) for plane in planes]


def rotate_hue(xp: Any, planes: Sequence[Any], turns: Any, clip: Any) -> list[Any]:
    """The planes with HSV's H plus `turns`: each is a triangle wave of the hue's angle.

    Args:
      clip: the library's function that clips an array to [0, 1].
    """
    red, green, blue = planes
    value, chroma = extremes(xp, planes)
    largest_red, largest_green = value == red, value == green
    difference = xp.where(largest_green, blue - red, red - green)
    difference = xp.where(largest_red, green - blue, difference)
    angle = difference / xp.maximum(chroma, 1e-30)  # in sixths of a turn, 0 is red
    angle += xp.where(largest_red, 0.0, xp.where(largest_green, 2.0, -2.0))
    angle += 6 * turns
    angle -= 6 * xp.round(angle / 6)  # to [-3, 3], where rounding errors are smallest
    waves = (2 - xp.abs(angle), xp.abs(angle + 1) - 1, xp.abs(angle - 1) - 1)
    return [value - chroma * (1 - clip(wave)) for wave in waves]
