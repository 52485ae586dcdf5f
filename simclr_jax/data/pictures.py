"""A user's pictures, arrays or files, in batches as evaluation makes them."""

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from simclr_jax.batch import Batch
from simclr_jax.data import resizing
from simclr_jax.data.folder import read_file
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import WORKERS, decoded
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.paths import absolute

PART = 16  # pictures of an array that one call resizes
AHEAD = 2 * WORKERS  # calls in advance


def picture_batches(pictures: Any, *, size: int, batch_size: int) -> Iterator[Batch]:
    """All pictures once, in their order, decoded, cropped and resized by `centre`.

    Args:
      pictures: an array [N, H, W, 3], an iterable of pictures of any sizes, or one
        path. A picture is an array [H, W, 3] or the path of a file, on this machine or
        in a bucket. Arrays are uint8, or float in [0, 1], which is rounded to uint8
        first. An iterable is consumed as needed: few of its pictures are in memory.
      size: S, side of the pictures in the batches.
      batch_size: B, the rows of every batch.

    Returns:
      An iterator of batches with one view, uint8 [B, S, S, 3], `index` and `valid`.
      The last batch is filled with zeros, which are not valid.

    Raises:
      ValueError: by the iterator, for an array of another shape or dtype, or with
        values outside [0, 1].
      UnreadablePicture: by the iterator, if a file cannot be read.
    """
    if isinstance(pictures, str | os.PathLike):
        pictures = [pictures]
    array = _array(pictures)
    if array is None:
        one = functools.partial(_prepare_one, size)
        rows = _in_threads(one, enumerate(pictures))
    else:
        several = functools.partial(_prepare_several, size)
        parts = ((i, array[i : i + PART]) for i in range(0, len(array), PART))
        rows = itertools.chain.from_iterable(_in_threads(several, parts))
    for first in itertools.count(0, batch_size):
        block = list(itertools.islice(rows, batch_size))
        if not block:
            return
        view = np.zeros((batch_size, size, size, 3), np.uint8)
        view[: len(block)] = block
        row = np.arange(batch_size, dtype=np.int32)
        yield Batch(index=first + row, valid=row < len(block), views=(view,))


def _array(pictures: Any) -> np.ndarray | None:
    """The array [N, H, W, 3], or None for an iterable of pictures.

    Raises:
      ValueError: it is an array of another shape, such as a single picture.
    """
    if not hasattr(pictures, "__array__") and not hasattr(
        pictures, "__array_interface__"
    ):
        return None
    array = np.asarray(pictures)
    if array.ndim == 1:  # of paths
        return None
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape[1:]:
        raise ValueError(
            "Pictures are an array [N, H, W, 3] or a list, also if there is only one; "
            f"got an array {list(array.shape)}."
        )
    return array


def _in_threads(
    prepare: Callable[[int, Any], Any], items: Iterable[tuple[int, Any]]
) -> Iterator[Any]:
    """prepare(number, item) of all items, in their order."""
    pending = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    try:
        for item in items:
            pending.append(pool.submit(prepare, *item))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_one(size: int, number: int, picture: Any) -> np.ndarray:
    """A path or an array [H, W, 3] -> uint8 [S, S, 3]."""
    if isinstance(picture, str | os.PathLike):
        path = absolute(os.fspath(picture))
        array = decoded(read_file(storage_of(path), path), path)
    else:
        array = np.asarray(picture)
        if array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise ValueError(
                "A picture is a path or an array [H, W, 3]; number "
                f"{number} is an array {list(array.shape)}."
            )
    return _prepare_several(size, number, array[None])[0]


def _prepare_several(size: int, first: int, images: np.ndarray) -> np.ndarray:
    """[n, H, W, 3] -> uint8 [n, S, S, 3]; `first` is the number of the first one."""
    if np.issubdtype(images.dtype, np.floating):
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):  # true for a NaN, too
            raise ValueError(
                "Float pictures have values in [0, 1], neither 0 to 255 nor "
                f"normalised; those from number {first} on have {low:.4g} to "
                f"{high:.4g}."
            )
        images = np.rint(images * 255).astype(np.uint8)
    elif images.dtype != np.uint8:
        raise ValueError(
            f"Pictures are uint8, or float in [0, 1]; number {first} is {images.dtype}."
        )
    return _centre(size)(images).numpy()


@functools.cache
def _centre(size: int) -> Callable[[np.ndarray], Any]:
    """The compiled function uint8 [n, H, W, 3] -> uint8 [n, S, S, 3]."""
    return tf.function(
        lambda images: tf.map_fn(lambda x: resizing.centre(x, size), images),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
        autograph=False,
    )
