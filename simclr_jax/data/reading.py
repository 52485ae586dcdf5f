"""Pictures of some steps, one by one, for TensorFlow's threads to work on."""

import os
import re

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
      rows: step -> dict of arrays with one row a picture, among them "index".
      steps: a range.
    """

    def __init__(self, source, rows, steps):
        self.source, self.rows, self.steps = source, rows, steps
        self.failure: Exception | None = None

    def dataset(self):
        """Single pictures, read a step at a time, one step ahead of their use."""
        example = self._one(self.steps.start)
        names = sorted(example)

        def read(step):
            try:
                batch = self._read(self.rows(int(step)))
            except Exception as failure:
                self.failure = failure  # TensorFlow would turn it into a string
                raise
            return [batch[name] for name in names]

        def batch(step):
            values = tf.numpy_function(read, [step], [example[k][0] for k in names])
            return {
                name: tf.ensure_shape(value, example[name][1])
                for name, value in zip(names, values, strict=True)
            }

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

    def _one(self, step):
        """Type and shape of every component, from reading one row of a step."""
        batch = self._read({name: a[:1] for name, a in self.rows(step).items()})
        return {
            name: (
                tf.string if a.dtype == object else tf.as_dtype(a.dtype),
                [None, *a.shape[1:]],
            )
            for name, a in batch.items()
        }

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
