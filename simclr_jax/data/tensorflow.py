"""TensorFlow, imported without its start-up messages and kept off the accelerator.

All modules of `data` import it from here: `from simclr_jax.data.tensorflow import tf`.
"""

import contextlib
import os
import sys

LEGACY = "TF_USE_LEGACY_KERAS"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors only


@contextlib.contextmanager
def _silence():
    """Discards what C++ writes to stderr; exceptions still pass."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def _without_keras():
    """Leaves Keras to its first use, as `tf.keras`: its import takes seconds.

    TensorFlow imports Keras 3 at once, but not the former Keras if that is not
    installed. A user's value of the variable is not changed.
    """
    if LEGACY in os.environ:
        yield
        return
    os.environ[LEGACY] = "1"
    try:
        yield
    finally:
        del os.environ[LEGACY]


with _silence(), _without_keras():
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
