"""Rows of pictures with captions as a PNG: neighbours, duplicates, attention."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDE = 1.15  # inches of a picture
CAPTION = 0.2  # inches of the line below it
MARGIN = 0.12  # inches around all
LETTERS = 17  # of a caption, at most
GAP = 0.06  # inches between pictures
DOTS = 150  # in an inch


class Cell(NamedTuple):
    """A picture of a gallery."""

    picture: np.ndarray  # [H, W, 3], uint8 or float in [0, 1]
    caption: str = ""


def png(rows: Sequence[Sequence[Cell]]) -> bytes:
    """A PNG file with a row of pictures for every row; rows may differ in length.

    The pictures keep their proportions, in cells that are squares. A long caption is
    shortened in the middle.
    """
    from matplotlib.figure import Figure

    columns = max(map(len, rows))
    heights = [SIDE + CAPTION * any(cell.caption for cell in row) for row in rows]
    width = 2 * MARGIN + columns * SIDE + (columns - 1) * GAP
    height = 2 * MARGIN + sum(heights) + (len(rows) - 1) * GAP
    figure = Figure(figsize=(width, height))
    top = height - MARGIN
    for row, used in zip(rows, heights, strict=True):
        bottom = top - SIDE
        top -= used + GAP
        for c, cell in enumerate(row):
            left = MARGIN + c * (SIDE + GAP)
            box = (left / width, bottom / height, SIDE / width, SIDE / height)
            axes = figure.add_axes(box)
            axes.imshow(cell.picture, interpolation=_interpolation(cell.picture))
            axes.set_axis_off()
            figure.text(
                (left + SIDE / 2) / width,
                (bottom - 0.03) / height,
                shortened(cell.caption),
                **{"ha": "center", "va": "top", "fontsize": 7, "parse_math": False},
            )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS)
    return buffer.getvalue()


def _interpolation(picture) -> str:
    """Small pictures are enlarged with sharp pixels, large ones are made smaller."""
    return "nearest" if max(picture.shape[:2]) <= SIDE * DOTS else "antialiased"


def shortened(text: str) -> str:
    """The text, or its two ends with a gap, of at most LETTERS letters."""
    if len(text) <= LETTERS:
        return text
    return f"{text[: LETTERS // 2]}…{text[-(LETTERS - LETTERS // 2 - 1) :]}"


def heat(weights: np.ndarray) -> np.ndarray:
    """Weights [R, K] as colours [R, K, 3], from the smallest, dark, to the largest."""
    from matplotlib import colormaps

    low, high = weights.min(), weights.max()
    scaled = (weights - low) / (high - low) if high > low else weights * 0
    return colormaps["inferno"](scaled)[..., :3]
