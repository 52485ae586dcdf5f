"""Attention and features by position of a user's pictures, as PNG files."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np

from simclr_jax import sharding
from simclr_jax.data import tfdata
from simclr_jax.data.pictures import picture_batches
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.galleries import Cell, heat, png
from simclr_jax.evaluate.patch_colours import patch_colours
from simclr_jax.experiment.encoder import Encoder
from simclr_jax.models.spatial import Spatial

BATCH = 8  # pictures on a device at a time: at 480 pixels, attention takes a GB
SHOWN = 8  # rows of overview.png, at most
OVERVIEW = "overview.png"


def spatial(encoder: Encoder, images: np.ndarray) -> Spatial:
    """Features and attention at every position of images of one size, of any size.

    Learned positions of a ViT are resampled for it.

    Args:
      images: [N, H, W, 3], uint8 or float in [0, 1]; of a ViT, H and W are multiples of
        its patch.

    Returns:
      Spatial of numpy arrays.

    Raises:
      ValueError: the encoder has no such features, or the sides are others.
    """
    if not has_spatial(encoder):
        raise ValueError(
            f"encoder.name={encoder.config.encoder.name} has no features by position: "
            "it has no argument `spatial`, as this package's encoders have."
        )
    count, devices = len(images), encoder.mesh.size
    shape = -(-count // devices) * devices, *images.shape[1:]
    padded = np.zeros(shape, images.dtype)
    padded[:count] = images
    x = jax.device_put(padded, sharding.by_batch(encoder.mesh))
    result = jax.device_get(_spatial(encoder.module, encoder.variables, x))
    return jax.tree.map(lambda y: y[:count], result)


def has_spatial(encoder: Encoder) -> bool:
    """Whether the encoder has features by position; all of this package have."""
    return "spatial" in inspect.signature(type(encoder.module).__call__).parameters


@functools.partial(jax.jit, static_argnums=0)
def _spatial(module, variables, images):
    return module.apply(variables, images, train=False, spatial=True)[1]


def prepared_features(
    encoder: Encoder,
    source: Source,
    rows: np.ndarray,
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, Spatial]:
    """Pictures as the encoder sees them, and what it computes at every position.

    Args:
      rows: n indices of the source.
      size: S, to which the pictures are cropped and resized as for an evaluation.
      progress: called with the pictures done and the total.

    Returns:
      uint8 [n, S, S, 3] and Spatial of n rows.

    Raises:
      ValueError: as in `spatial`.
      UnreadablePicture: a picture cannot be read; the message names it.
    """
    parts = []
    n = BATCH * encoder.mesh.size
    for begin in range(0, len(rows), n):
        pictures = tfdata.read_pictures(source, rows[begin : begin + n])
        (batch,) = picture_batches(pictures, size=size, batch_size=len(pictures))
        (images,) = batch.views
        parts.append((images, spatial(encoder, images)))
        progress(begin + len(images), len(rows))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def drawings(
    source: Source, rows: np.ndarray, images: np.ndarray, maps: Spatial
) -> Iterator[tuple[str, bytes]]:
    """(name of a file, PNG) of every picture, and of an overview of the first ones."""
    cells = [*_cells(images, maps)]
    names = _names(source, rows)
    yield OVERVIEW, png(_without_captions(cells[:SHOWN]))
    for name, row in zip(names, cells, strict=True):
        yield f"{name}.png", png([row])


def spread(count: int, most: int) -> np.ndarray:
    """int [n], n = min(count, most) indices below count, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def _cells(images, maps) -> Iterator[list[Cell]]:
    """A row for each picture: itself, attention (mean, then heads) and features."""
    colours = patch_colours(maps.features)
    for i, image in enumerate(images):
        row = [Cell(image, "picture")]
        if maps.attention is not None:
            heads = maps.attention[i]
            row.append(Cell(heat(heads.mean(0)), "mean attention"))
            row += [Cell(heat(x), f"head {k}") for k, x in enumerate(heads, 1)]
        yield [*row, Cell(colours[i], "features, PCA")]


def _without_captions(rows):
    """The captions stand above the columns once, in the first row."""
    first, *others = rows
    return [first, *([cell._replace(caption="") for cell in row] for row in others)]


def _names(source, rows) -> list[str]:
    """Names for files: paths below the folder of all with "__" for "/", or numbers."""
    files = getattr(source, "files", None)
    if not files:
        return [f"{row:06}" for row in rows]
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    return [os.path.relpath(files[i], root).replace("/", "__") for i in rows]
