"""TensorFlow, imported without its start-up messages and kept off the accelerator.

All modules of `data` import it from here: `from simclr_jax.data.tensorflow import tf`.
"""

import contextlib
import os
import sys

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


with _silence():
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
