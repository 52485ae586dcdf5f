"""Small data sets, decoded in memory, which the device crops or the host in groups.

A set is decoded once and kept in memory if all its pictures are as large as the largest
view, that view has at most 64 pixels a side, and all pictures fit into memory. At this
size a call for each picture would cost more than its arithmetic; so numbers are drawn
for a whole batch. With colour on the device the host then only gathers rows of an
array: each picture is sent to the device once, and no pixel is rounded. With colour on
the host, a call crops several pictures (`host_views.from_decoded`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from simclr_jax.batch import Batch
from simclr_jax.data import augment
from simclr_jax.data.crop_windows import draw_windows
from simclr_jax.data.sources import Source
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import PictureReader, parallel_map, read_pictures
from simclr_jax.data.view import View

MAX_SIDE = 64  # pixels; for larger views, cropping costs less than sending all pixels
MEMORY_BYTES = 2**30  # the largest set that is kept in memory, decoded
CHUNK = 1024  # pictures that are read and decoded at a time


class DecodedPictures:
    """A source in memory (see `sources.Source`); copies the names of another.

    Args:
      source: of the same pictures, encoded.
      pictures: uint8 [n, S, S, 3].
      label: int32 [n], or None.
    """

    def __init__(self, source: Source, pictures: np.ndarray, label: np.ndarray | None):
        self.name, self.block, self.describe = (
            source.name,
            source.block,
            source.describe,
        )
        self.classes, self.class_names = source.classes, source.class_names
        self._arrays = {"image": pictures} | ({} if label is None else {"label": label})

    def __len__(self) -> int:
        return len(self._arrays["image"])

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"image": uint8 [m, S, S, 3], "label": int32 [m], if there are labels}."""
        return {name: array[indices] for name, array in self._arrays.items()}


def required_side(views: Sequence[View]) -> int:
    """The side of pictures that are kept in memory; 0 if the views are too large."""
    largest = max(view.size for view in views)
    return largest if largest <= MAX_SIDE else 0


def load(source: Source, views: Sequence[View]) -> DecodedPictures | None:
    """Decodes all pictures of a source; None if they are not small, see above.

    Raises:
      UnreadablePicture: a picture cannot be read or decoded.
    """
    n, side = len(source), required_side(views)
    if not side or n * side * side * 3 > MEMORY_BYTES:
        return None
    if read_pictures(source, [0])[0].shape[:2] != (side, side):
        return None
    pictures = np.empty((n, side, side, 3), np.uint8)
    label = np.empty(n, np.int32) if source.classes else None
    for chunk in _decoded_chunks(source, side):
        if not chunk["fits"].all():
            return None
        pictures[chunk["index"]] = chunk["image"]
        if label is not None:
            label[chunk["index"]] = chunk["label"]
    return DecodedPictures(source, pictures, label)


def _decoded_chunks(source, side) -> Iterator[dict[str, Any]]:
    """All pictures, in chunks; `fits` is False for those of another size."""
    n = len(source)

    def rows(step):
        return {"index": np.arange(step * CHUNK, min((step + 1) * CHUNK, n))}

    def decode(row):
        image = augment.decode(row.pop("image"))
        fits = tf.reduce_all(tf.shape(image)[:2] == side)
        blank = tf.zeros([side, side, 3], tf.uint8)
        image = tf.cond(fits, lambda: image, lambda: blank)
        return row | {"image": tf.ensure_shape(image, [side, side, 3]), "fits": fits}

    reader = PictureReader(source, rows, range(-(-n // CHUNK)))
    return reader.batches(parallel_map(reader.dataset(), decode).batch(CHUNK))


def draw(
    views: Sequence[View], seed: int, epoch: int, step: int, index: np.ndarray
) -> tuple[dict[str, np.ndarray], ...]:
    """`augment.draw`, and each view's window: int32 [N, 4], y, x, height and width."""
    draws = augment.draw(views, seed, epoch, step, index)
    keys = augment.crop_keys(len(views), seed, epoch, index)
    side = required_side(views)
    return tuple(
        drawn | {"window": draw_windows(side, keys[:, v], view)}
        for v, (drawn, view) in enumerate(zip(draws, views, strict=True))
    )


def batches(
    decoded: DecodedPictures,
    views: Sequence[View],
    seed: int,
    indices: Callable[[int], tuple[np.ndarray, int]],
    steps: range,
) -> Iterator[Batch]:
    """Yields batches that `augment_device.prepare` crops and colours inside the step.

    Args:
      decoded: the pictures.
      views: V single views.
      seed: of the draws.
      indices: step -> (int64 [N] positions in the split, epoch).
      steps: for which to make batches.

    Returns:
      An iterator of batches with `picture`, `draws` by `draw`, `index`, and `label` if
      there are labels.
    """
    for step in steps:
        index, epoch = indices(step)
        arrays = decoded.read(index)
        yield Batch(
            draws=draw(views, seed, epoch, step, index),
            index=index.astype(np.int32),
            label=arrays.get("label"),
            picture=arrays["image"],
        )
