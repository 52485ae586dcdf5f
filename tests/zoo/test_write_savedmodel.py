"""SavedModel and TFLite: TensorFlow computes the same as Flax."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.experiment import exporting
from simclr_jax.zoo.tensorflow import write as tf_write
from simclr_jax.zoo.verification import verify
from tests.zoo.workdirs import logits, outputs, random_workdir, relative_difference

TOLERANCE = 1e-5
IMAGES = verify.sample_images(32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return random_workdir(
        tmp_path_factory.mktemp("run"), "quickstart.py", encoder__channels="4"
    )


def test_a_savedmodel_has_any_batch_size(workdir, tmp_path):
    network, _, _ = exporting.read_network(
        str(workdir), "savedmodel", "encoder+classifier", "uint8"
    )
    file = tf_write.write_savedmodel(network, tmp_path / "x")
    model = tf.saved_model.load(f"{tmp_path}/x")
    images = np.concatenate([IMAGES, IMAGES[:2]])
    actual, h = model(images), outputs(workdir, images)["h"]
    assert relative_difference(actual["h"], h) < TOLERANCE
    assert relative_difference(actual["logits"], logits(workdir, h)) < TOLERANCE
    served = model.signatures["serving_default"](images=tf.constant(images))
    assert relative_difference(served["h"], h) < TOLERANCE
    assert "No gradient" in file.limits[0]
    with tf.GradientTape() as tape, pytest.raises(LookupError, match="gradient"):
        tape.gradient(model(images)["h"], model.weights[0])


@pytest.mark.long
def test_tflite_takes_one_image_at_a_time(workdir, tmp_path):
    network, expected, _ = exporting.read_network(
        str(workdir), "tflite", "encoder", "float"
    )
    file = tf_write.write_tflite(network, tmp_path / "x.tflite")
    variables: dict[str, Any] = {"path": f"{tmp_path}/x.tflite"}
    with pytest.warns(UserWarning, match="LiteRT"):  # TensorFlow's plans
        exec(file.load, variables)
    actual = variables["network"](network.preprocess(IMAGES))
    assert relative_difference(actual["h"], expected[0]["h"]) < TOLERANCE
    assert "one image" in file.limits[0]


@pytest.mark.long
@pytest.mark.parametrize("to", ["savedmodel", "tflite"])
def test_tensorflow_runs_a_vit_without_jax(tmp_path, to):
    workdir = random_workdir(
        tmp_path / "run", "quickstart.py", encoder__name="vit_mini"
    )
    result = exporting.export_network(str(workdir), to, f"{tmp_path}/x")
    assert "run by tensorflow" in result.verification
