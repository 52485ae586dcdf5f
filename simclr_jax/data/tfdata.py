"""Pictures of some steps, one by one, for TensorFlow's threads to work on."""

import os
import re

import jax
import numpy as np

from simclr_jax.data import augment
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.tensorflow import tf

# TensorFlow's AUTOTUNE is no faster here, and its thread sleeps for up to a minute
# before it notices that the data has come to its end.
WORKERS = os.cpu_count() or 1


class Reading:
    """The pictures of some steps as a dataset, and what to say if one is broken.

    Attributes:
      source: a `sources.Source`.
      rows: step -> tree of arrays with one row a picture, a dict with "index".
      steps: a range.
    """

    def __init__(self, source, rows, steps):
        self.source, self.rows, self.steps = source, rows, steps
        self.failure: Exception | None = None

    def dataset(self):
        """Single pictures, read a step at a time, one step ahead of their use."""
        one = self._read(jax.tree.map(lambda a: a[:1], self.rows(self.steps.start)))
        kinds, shapes = zip(*map(_type, tf.nest.flatten(one)), strict=True)

        def read(step):
            try:
                return tf.nest.flatten(self._read(self.rows(int(step))))
            except Exception as failure:
                self.failure = failure  # TensorFlow would turn it into a string
                raise

        def batch(step):
            values = tf.numpy_function(read, [step], kinds)
            shaped = map(tf.ensure_shape, values, shapes)
            return tf.nest.pack_sequence_as(one, list(shaped))

        steps = tf.data.Dataset.range(self.steps.start, self.steps.stop)
        one_at_a_time = steps.map(tf.autograph.experimental.do_not_convert(batch))
        return one_at_a_time.prefetch(1).unbatch()

    def batches(self, dataset):
        """Iterates over batches of one step each, naming the picture that breaks it."""
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.max_intra_op_parallelism = 1
        step = self.steps.start
        try:
            for batch in dataset.prefetch(2).with_options(options).as_numpy_iterator():
                yield batch | {"index": batch["index"].astype(np.int32)}
                step += 1
        except tf.errors.OpError as error:
            raise self._explain(step, error) from None

    def _read(self, rows):
        batch = self.source.read(rows["index"])
        image = batch["image"]
        if image.dtype != np.uint8:
            image = np.asarray(image, object)  # bytes as they are, zeros at the end too
        return rows | batch | {"image": image}

    def _explain(self, step, error):
        """The error to raise instead of TensorFlow's."""
        if self.failure is not None:
            return self.failure
        # A chunk may reach into the next step.
        for suspect in self.steps[step - self.steps.start :][:2]:
            try:
                pictures(self.source, self.rows(suspect)["index"])
            except UnreadablePicture as found:
                return found
        return error


def _type(a):
    """TensorFlow's type and shape of an array with any number of rows."""
    kind = tf.string if a.dtype == object else tf.as_dtype(a.dtype)
    return kind, [None, *a.shape[1:]]


def each(dataset, f, workers: int = WORKERS):
    """Maps the elements of a dataset, so many at a time, in their order."""
    f = tf.autograph.experimental.do_not_convert(f)  # no tensor decides a branch
    return dataset.map(f, num_parallel_calls=workers, deterministic=True)


def pictures(source, index) -> list:
    """Decoded pictures of a source, uint8 [H, W, 3] each, as they are.

    Raises:
      UnreadablePicture: naming it.
    """
    index = np.asarray(index)
    encoded = source.read(index)["image"]
    return [_decode(source, i, x) for i, x in zip(index, encoded, strict=True)]


def _decode(source, i, data):
    try:
        return augment.decode(tf.constant(data)).numpy()
    except (tf.errors.OpError, ValueError) as reason:
        what = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", str(reason)).strip()
        raise UnreadablePicture(
            f"{source.describe(int(i))} is not a readable picture: "
            f"{what.splitlines()[0]} Replace it or take it out."
        ) from None
