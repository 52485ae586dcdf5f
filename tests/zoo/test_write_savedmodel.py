"""SavedModel and TFLite: what TensorFlow says is what Flax says."""

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.experiment import exporting
from simclr_jax.zoo.tensorflow import write as tf_write
from simclr_jax.zoo.verification import verify
from tests.zoo.trained import close, left, newest, said

CHECKED = 1e-5
PICTURES = verify.pictures(32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return left(tmp_path_factory.mktemp("run"), "quickstart.py", encoder__channels="4")


def test_savedmodel_takes_any_number_of_pictures(workdir, tmp_path):
    network, _, _ = exporting.read(
        str(workdir), "savedmodel", "encoder+classifier", "uint8"
    )
    written = tf_write.write_savedmodel(network, tmp_path / "x")
    model = tf.saved_model.load(f"{tmp_path}/x")
    images = np.concatenate([PICTURES, PICTURES[:2]])
    outputs, wanted = model(images), said(workdir, images)
    assert close(wanted["h"], outputs["h"].numpy()) < CHECKED
    probe = newest(workdir)[2].params["probe"]
    logits = wanted["h"] @ probe["kernel"] + probe["bias"]
    assert close(np.asarray(logits), outputs["logits"].numpy()) < CHECKED
    served = model.signatures["serving_default"](images=tf.constant(images))
    assert close(wanted["h"], served["h"].numpy()) < CHECKED
    assert "No gradient" in written.limits[0]
    with tf.GradientTape() as tape, pytest.raises(LookupError, match="gradient"):
        tape.gradient(model(images)["h"], model.weights[0])


@pytest.mark.long
def test_tflite_takes_one_picture(workdir, tmp_path):
    network, expected, _ = exporting.read(str(workdir), "tflite", "encoder", "float")
    written = tf_write.write_tflite(network, tmp_path / "x.tflite")
    known = {"path": f"{tmp_path}/x.tflite"}
    with pytest.warns(UserWarning, match="LiteRT"):  # TensorFlow's plans
        exec(written.load, known)
    outputs = known["network"](network.prepared(PICTURES))
    assert close(expected[0]["h"], outputs["h"]) < CHECKED
    assert "one picture" in written.limits[0]


@pytest.mark.long
@pytest.mark.parametrize("to", ["savedmodel", "tflite"])
def test_tensorflow_runs_a_vit_without_jax(tmp_path, to):
    workdir = left(tmp_path / "run", "quickstart.py", encoder__name="vit_mini")
    done = exporting.take_out(str(workdir), to, f"{tmp_path}/x")
    assert "run by tensorflow" in done.checked
