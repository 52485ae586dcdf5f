"""What can be wrong with data, and with the places where it is kept."""

from simclr_jax.data.tensorflow import tf

STORAGE = (OSError, tf.errors.OpError)  # what disks raise, and what buckets do


class UnreadablePicture(ValueError):
    """A picture or its record cannot be read; the message names it."""
