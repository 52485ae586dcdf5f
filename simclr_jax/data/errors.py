"""Errors of data and of the storage that it is read from."""

from simclr_jax.data.tensorflow import tf

STORAGE = (OSError, tf.errors.OpError)  # raised by disks, by buckets


class UnreadablePicture(ValueError):
    """A picture or its record cannot be read; the message names it."""
