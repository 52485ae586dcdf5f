"""Datasets of batches of views from datasets of pictures, cropped on the host.

At 32 pixels the call of a function or an operation costs more than its arithmetic: so
several views are coloured together, and where the pictures are decoded and of one size,
several are cropped together, with windows that were drawn for the whole batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from simclr_jax.data import augment, augment_host, resizing
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import in_groups, joined, parallel_map
from simclr_jax.data.view import View

TOGETHER = 16  # largest number of decoded pictures that one call crops
CHUNK = 2**17  # largest number of pixels of small views that are coloured together
LARGE = 128  # pixels a side from which views are coloured one by one, which is cheaper


def from_pictures(pictures: Any, views: Sequence[View], colour: str, n: int) -> Any:
    """Batches of n with views, from a dataset of single pictures with their draws.

    Args:
      pictures: dicts of "image", encoded or uint8 [H, W, 3], "key", int64 [V, 2] (see
        `augment.crop_keys`), "draws" for colour on the host, and others that are kept.
      views: V single views.
      colour: as in `pipeline.train_batches`.
      n: the batch size.
    """

    def crop(row):
        image, keys = augment.decode(row.pop("image")), row.pop("key")
        crops = [augment.crop(image, keys[v], view) for v, view in enumerate(views)]
        return row | {"views": tuple(crops)}

    def crop_to_uint8(row):
        row = crop(row)
        return row | {"views": tuple(map(resizing.to_uint8, row["views"]))}

    if colour == "device":
        return parallel_map(pictures, crop_to_uint8).batch(n)

    colour_chunk = _colour_chunk(views)

    def crop_and_colour(row):
        chunk = tf.nest.map_structure(lambda x: x[None], crop(row))
        return tf.nest.map_structure(lambda x: x[0], colour_chunk(chunk))

    if max(view.size for view in views) >= LARGE:
        return parallel_map(pictures, crop_and_colour).batch(n)
    chunk = _chunk_size(views, n)
    chunks = parallel_map(parallel_map(pictures, crop).batch(chunk), colour_chunk)
    return joined(chunks, n // chunk)


def from_decoded(steps: Any, views: Sequence[View], n: int) -> Any:
    """The same for decoded pictures of one size, coloured on the host.

    Args:
      steps: a dataset of dicts: "image" uint8 [n, H, W, 3], "draws" as
        `decoded_cache.draw` returns them, and others that are kept.
      views: V single views.
      n: the batch size.
    """
    chunk = _chunk_size(views, n)
    few = _largest_divisor(chunk, TOGETHER)

    def crop(row):
        images, draws = row.pop("image"), row["draws"]
        crops = [
            augment.crop_all(images, drawn.pop("window"), view)
            for drawn, view in zip(draws, views, strict=True)
        ]
        return row | {"views": tuple(crops)}

    crops = parallel_map(in_groups(steps, few), crop)
    chunks = parallel_map(joined(crops, chunk // few), _colour_chunk(views))
    return joined(chunks, n // chunk)


def _chunk_size(views, n) -> int:
    """The number of pictures that are coloured together; it divides n."""
    return _largest_divisor(n, CHUNK // max(view.size for view in views) ** 2)


def _largest_divisor(n, limit) -> int:
    return max(k for k in range(1, max(1, min(n, limit)) + 1) if n % k == 0)


def _colour_chunk(views) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that colours the views of several pictures, to uint8."""
    # Equal views, such as local crops, share one function, which is built once.
    functions = {
        view: tf.function(
            functools.partial(augment_host.colour_crops, view=view), autograph=False
        )
        for view in views
    }

    def colour_chunk(chunk):
        arguments = zip(chunk["views"], chunk.pop("draws"), views, strict=True)
        return chunk | {
            "views": tuple(functions[view](x, d) for x, d, view in arguments)
        }

    return colour_chunk
