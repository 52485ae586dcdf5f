"""The pictures of some steps as a TensorFlow dataset."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from simclr_jax.data import augment
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.sources import Source
from simclr_jax.data.tensorflow import tf

# TensorFlow's AUTOTUNE is no faster here, and its thread sleeps for up to a minute
# before it notices the end of the data.
WORKERS = os.cpu_count() or 1


class PictureReader:
    """Reads the pictures of some steps; errors name the picture that cannot be read.

    Args:
      source: of the pictures.
      rows: step -> tree of arrays with one row for each picture, a dict with "index".
      steps: a range.
    """

    def __init__(
        self, source: Source, rows: Callable[[int], dict[str, Any]], steps: range
    ):
        self._source, self._rows, self._steps = source, rows, steps
        self._failure: Exception | None = None

    def dataset(self) -> Any:
        """The elements of `by_step`, picture by picture."""
        return self.by_step().unbatch()

    def by_step(self) -> Any:
        """The pictures of a step together, read one step ahead of their use.

        Returns:
          a dataset of dicts: `rows`, "image" and, if there are labels, "label".
        """
        row = jax.tree.map(lambda a: a[:1], self._rows(self._steps.start))
        example = self._read(row)
        types = [_type_and_shape(a) for a in tf.nest.flatten(example)]
        dtypes, shapes = zip(*types, strict=True)

        def read(step):
            try:
                return tf.nest.flatten(self._read(self._rows(int(step))))
            except Exception as failure:
                self._failure = failure  # TensorFlow would turn it into a string
                raise

        def batch(step):
            values = tf.numpy_function(read, [step], dtypes)
            shaped = map(tf.ensure_shape, values, shapes)
            return tf.nest.pack_sequence_as(example, list(shaped))

        steps = tf.data.Dataset.range(self._steps.start, self._steps.stop)
        batches = steps.map(tf.autograph.experimental.do_not_convert(batch))
        return batches.prefetch(1)

    def batches(self, dataset: Any) -> Iterator[dict[str, Any]]:
        """Iterates over a dataset of batches, one for each step, with int32 "index".

        Raises:
          UnreadablePicture: a picture cannot be read or decoded.
        """
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.max_intra_op_parallelism = 1
        step = self._steps.start
        try:
            for batch in dataset.prefetch(2).with_options(options).as_numpy_iterator():
                yield batch | {"index": batch["index"].astype(np.int32)}
                step += 1
        except tf.errors.OpError as error:
            raise self._cause(step, error) from None

    def _read(self, rows):
        batch = self._source.read(rows["index"])
        image = batch["image"]
        if image.dtype != np.uint8:
            image = np.asarray(image, object)  # numpy's bytes type drops trailing zeros
        return rows | batch | {"image": image}

    def _cause(self, step, error):
        """The error to raise instead of TensorFlow's."""
        if self._failure is not None:
            return self._failure
        # A chunk of pictures may contain some of the next step.
        for suspect in self._steps[step - self._steps.start :][:2]:
            try:
                read_pictures(self._source, self._rows(suspect)["index"])
            except UnreadablePicture as cause:
                return cause
        return error


def _type_and_shape(a):
    """TensorFlow's dtype and shape of an array with any number of rows."""
    dtype = tf.string if a.dtype == object else tf.as_dtype(a.dtype)
    return dtype, [None, *a.shape[1:]]


def parallel_map(dataset: Any, f: Callable, workers: int = WORKERS) -> Any:
    """Maps the elements of a dataset, `workers` at a time, in their order."""
    f = tf.autograph.experimental.do_not_convert(f)  # f has no branches on tensors
    return dataset.map(f, num_parallel_calls=workers, deterministic=True)


def in_groups(dataset: Any, rows: int) -> Any:
    """Cuts elements, trees of arrays [n, ...], to [rows, ...]; n is a multiple."""

    def cut(element):
        return tf.nest.map_structure(
            lambda x: tf.reshape(x, [-1, rows, *x.shape[1:]]), element
        )

    return parallel_map(dataset, cut).unbatch()


def joined(dataset: Any, count: int) -> Any:
    """Joins `count` elements, trees of arrays [rows, ...], to one."""

    def join(element):
        return tf.nest.map_structure(
            lambda x: tf.reshape(x, [-1, *x.shape[2:]]), element
        )

    return parallel_map(dataset.batch(count), join)


def read_pictures(
    source: Source, index: Sequence[int] | np.ndarray
) -> list[np.ndarray]:
    """Decoded pictures of a source, uint8 [H, W, 3], neither cropped nor resized.

    Raises:
      UnreadablePicture: a picture cannot be read or decoded.
    """
    index = np.asarray(index)
    encoded = source.read(index)["image"]
    return [
        decoded(data, source.describe(int(i)))
        for i, data in zip(index, encoded, strict=True)
    ]


def decoded(data: bytes | np.ndarray, name: str) -> np.ndarray:
    """A decoded picture, uint8 [H, W, 3].

    Args:
      data: of the file; or the picture, decoded.
      name: of the picture, for the message.

    Raises:
      UnreadablePicture: it cannot be decoded.
    """
    try:
        return augment.decode(tf.constant(data)).numpy()
    except (tf.errors.OpError, ValueError) as error:
        text = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", str(error)).strip()
        raise UnreadablePicture(
            f"{name} is not a readable picture: {text.splitlines()[0]} Replace it or "
            "remove it."
        ) from None
