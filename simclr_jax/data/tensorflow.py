"""TensorFlow, imported without its greeting and kept off the accelerator.

The data room takes it from here: `from simclr_jax.data.tensorflow import tf`.
"""

import contextlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors only


@contextlib.contextmanager
def _silence():
    """Sends what C++ writes to stderr nowhere; exceptions still come through."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


with _silence():
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
