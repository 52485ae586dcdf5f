"""TensorFlow is imported without Keras, which is still there for those who use it."""

import importlib.util
import os

from simclr_jax.data.tensorflow import LEGACY, tf


def test_keras_is_left_to_its_first_use():
    assert LEGACY not in os.environ
    assert repr(tf.keras) == "<KerasLazyLoader>"  # TensorFlow's, not used so far
    assert importlib.util.find_spec("tensorflow.keras")
