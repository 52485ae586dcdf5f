"""The random numbers of the views of some steps, without the views."""

from collections.abc import Sequence

import jax
import numpy as np

from simclr_jax.data import augment
from simclr_jax.data.recipes import expand
from simclr_jax.data.sampler import Sampler
from simclr_jax.data.sources import Source
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import PictureReader, parallel_map
from simclr_jax.data.view import View

Draws = tuple[dict[str, np.ndarray], ...]


def drawn(
    source: Source, views: Sequence[View], *, batch_size: int, seed: int, steps: int
) -> tuple[np.ndarray, Draws]:
    """What `pipeline.train_batches` draws in its first steps, for all processes.

    Every picture is decoded, because its crop windows depend on its sides.

    Args:
      source: of the pictures.
      views: of a recipe; `recipes.expand` gives V single views.
      batch_size, seed: as for `train_batches`.
      steps: the number of batches.

    Returns:
      int64 [M], the positions of the M = steps * batch_size pictures; and V dicts with
      M rows: those of `augment.draw`, "window" int32 [M, 4], y, x, height and width of
      the crop, and "sides" int32 [M, 2], height and width of the picture.

    Raises:
      ValueError: the batch is larger than the source.
      UnreadablePicture: a picture cannot be read or decoded.
    """
    views = expand(views)
    sampler = Sampler(len(source), batch_size, seed, block=source.block)

    def rows(step):
        index, epoch = sampler.indices(step)
        keys = augment.crop_keys(len(views), seed, epoch, index)
        return {"index": index, "key": keys}

    def windows(row):
        shape = tf.shape(augment.decode(row["image"]))
        crops = [augment.window(shape, row["key"][v], x) for v, x in enumerate(views)]
        window = tf.stack([tf.concat([a[:2], b[:2]], 0) for a, b in crops])
        return {"index": row["index"], "window": window, "sides": shape[:2]}

    reader = PictureReader(source, rows, range(steps))
    dataset = parallel_map(reader.dataset(), windows).batch(batch_size)
    parts = []
    for step, batch in enumerate(reader.batches(dataset)):
        position, epoch = sampler.indices(step)
        colours = augment.draw(views, seed, epoch, step, position)
        draws = tuple(
            colour | {"window": batch["window"][:, v], "sides": batch["sides"]}
            for v, colour in enumerate(colours)
        )
        parts.append((position, draws))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
