"""Small pictures, cut on the device: each crosses the wire once, as it is.

Where the device colours, a set is decoded once and kept if all its pictures are as
large as the largest view, that view has at most 64 pixels a side, and all fit into
memory. The host then gathers rows of an array and draws numbers for a batch at once: at
this size a call for each picture costs more than its arithmetic. No pixel is rounded on
the way.
"""

from typing import NamedTuple

import numpy as np

from simclr_jax.batch import Batch
from simclr_jax.data import augment
from simclr_jax.data.crop_windows import windows
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import Reading, each, pictures

LARGEST = 64  # pixels of a side; beyond it, cutting costs less than sending all
HOLD_BYTES = 2**30  # a set up to this size is held in memory, decoded
CHUNK = 1024  # pictures that are read and decoded at a time


class Held(NamedTuple):
    """A set in memory."""

    pictures: np.ndarray  # uint8 [n, S, S, 3]
    label: np.ndarray | None  # int32 [n]


def side(views) -> int:
    """The side that pictures must have to be cut on the device; 0 if none are."""
    largest = max(view.size for view in views)
    return largest if largest <= LARGEST else 0


def hold(source, views) -> Held | None:
    """All pictures of a source, decoded; None if they are not for this way.

    Raises:
      UnreadablePicture: naming it.
    """
    n, s = len(source), side(views)
    if (
        not s
        or n * s * s * 3 > HOLD_BYTES
        or pictures(source, [0])[0].shape[:2] != (s, s)
    ):
        return None

    def rows(step):
        return {"index": np.arange(step * CHUNK, min((step + 1) * CHUNK, n))}

    def decode(picture):
        image = augment.decode(picture.pop("image"))
        fits = tf.reduce_all(tf.shape(image)[:2] == s)
        image = tf.cond(fits, lambda: image, lambda: tf.zeros([s, s, 3], tf.uint8))
        return picture | {"image": tf.ensure_shape(image, [s, s, 3]), "fits": fits}

    reading = Reading(source, rows, range(-(-n // CHUNK)))
    images = np.empty((n, s, s, 3), np.uint8)
    label = np.empty(n, np.int32) if source.classes else None
    for batch in reading.batches(each(reading.dataset(), decode).batch(CHUNK)):
        if not batch["fits"].all():
            return None
        images[batch["index"]] = batch["image"]
        if label is not None:
            label[batch["index"]] = batch["label"]
    return Held(images, label)


def draw(views, seed: int, epoch: int, step: int, index) -> tuple[dict, ...]:
    """`augment.draw`, and each view's window: int32 [N, 4], y, x, height and width."""
    drawn = augment.draw(views, seed, epoch, step, index)
    keys = augment.crop_keys(len(views), seed, epoch, index)
    return tuple(
        numbers | {"window": windows(side(views), keys[:, v], view)}
        for v, (numbers, view) in enumerate(zip(drawn, views, strict=True))
    )


def batches(held: Held, views, seed: int, indices, steps):
    """Yields what `augment_device.prepare` cuts and colours inside the step.

    Args:
      held: the pictures.
      views: V single views.
      seed: of the draws.
      indices: step -> (int64 [N] examples, epoch).
      steps: a range.

    Returns:
      An iterator of batches with `picture`, `draws` of `draw`, `index`, and `label` if
      there are labels.
    """
    for step in steps:
        index, epoch = indices(step)
        yield Batch(
            draws=draw(views, seed, epoch, step, index),
            index=index.astype(np.int32),
            label=None if held.label is None else held.label[index],
            picture=held.pictures[index],
        )
