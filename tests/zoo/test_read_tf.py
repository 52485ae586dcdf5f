"""Reading the names and arrays of TensorFlow's files."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.zoo.tensorflow import names as tf_names
from simclr_jax.zoo.tensorflow import read as tf_read
from tests.zoo.tf_simclr import random, write, write_model, write_objects

SHAPES = {"base_model/conv2d/kernel": (3, 3, 3, 4), "base_model/conv2d_1/kernel": (2,)}


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(actual[name], x, err_msg=name)


def read_all(path):
    file = tf_read.open_file(str(path))
    return file.read(file.shapes)


def test_a_checkpoint_of_tf1(tmp_path):
    arrays = random(SHAPES)
    write(tmp_path / "model.ckpt-3", arrays)
    for path in (tmp_path / "model.ckpt-3", tmp_path):
        file = tf_read.open_file(str(path))
        assert file.file_type == "tf1"
        assert file.shapes == SHAPES
        assert_equal(file.read(file.shapes), arrays)
    last = "base_model/conv2d_1/kernel"
    assert_equal(file.read([last]), {last: arrays[last]})
    assert_equal(tf_read.renamed(file, {"x": last}).read(["x"]), {"x": arrays[last]})
    assert tf_read.renamed(file, {"x": last}).shapes == {"x": (2,)}


def test_a_checkpoint_of_tf2(tmp_path):
    """Other attributes of objects than variables, such as their config, are ignored."""
    arrays = random({"model/conv/kernel": (2, 3), "optimizer/iter": ()})
    more = {"model/.ATTRIBUTES/OBJECT_CONFIG_JSON": b"{}"}
    write_objects(tmp_path / "ckpt-1", arrays, more)
    file = tf_read.open_file(str(tmp_path))
    assert file.file_type == "tf2"
    assert_equal(file.read(file.shapes), arrays)


def test_a_checkpoint_written_by_tf2(tmp_path):
    kernel = random({"kernel": (2, 3)})["kernel"]
    model = tf.train.Checkpoint(layers=[tf.Variable(kernel)])
    tf.train.Checkpoint(model=model).save(tmp_path / "ckpt")
    file = tf_read.open_file(str(tmp_path))
    assert set(file.shapes) == {"model/layers/0", "save_counter"}
    assert_equal(file.read(["model/layers/0"]), {"model/layers/0": kernel})


def test_the_names_of_a_saved_model_are_those_of_its_variables(tmp_path):
    arrays = random(
        {
            "resnet/conv2d_fixed_padding_9/conv2d_9/kernel": (2, 2),
            "resnet/batch_norm_relu_9/sync_batch_normalization_9/gamma": (3,),
            "resnet/batch_norm_relu_9/sync_batch_normalization_9/moving_mean": (3,),
            "resnet/block_group1/sk__conv2d/conv2d_10/kernel": (2, 2),
        }
    )
    write_model(tmp_path, arrays)
    file = tf_read.open_file(str(tmp_path))
    assert file.file_type == "saved_model"
    assert_equal(file.read(file.shapes), arrays)
    conv, norm, mean, select = arrays
    assert tf_names.tf1_names(file.shapes) == {
        "base_model/conv2d/kernel": conv,
        "base_model/conv2d_1/kernel": select,
        "base_model/batch_normalization/gamma": norm,
        "base_model/batch_normalization/moving_mean": mean,
    }


def test_layers_are_ordered_by_number():
    names = [f"resnet/block_group1/conv2d_{k}/kernel" for k in (9, 10, 100, 11)]
    ordered = tf_names.tf1_names(["resnet/conv2d/kernel", *names])
    assert list(ordered.values()) == ["resnet/conv2d/kernel", *names]
    assert ordered["base_model/conv2d/kernel"] == "resnet/conv2d/kernel"
    assert ordered["base_model/conv2d_1/kernel"] == names[0]
    assert ordered["base_model/conv2d_3/kernel"] == names[3]
    assert ordered["base_model/conv2d_4/kernel"] == names[2]


def test_two_variables_of_one_name_are_refused(tmp_path):
    module: Any = tf.Module()
    module.both = [tf.Variable(tf.constant(x), name="x") for x in (1.0, 2.0)]
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(ValueError, match="several variables have the same name"):
        tf_read.open_file(str(tmp_path))


def test_paths_that_are_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"no TensorFlow checkpoint .*nothing\.index"):
        tf_read.open_file(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="not exactly one checkpoint: none"):
        tf_read.open_file(str(tmp_path))
    for number in (1, 2):
        write(tmp_path / f"model.ckpt-{number}", random(SHAPES))
    with pytest.raises(
        ValueError, match=r"one checkpoint: model.ckpt-1, model.ckpt-2\. Give"
    ):
        tf_read.open_file(str(tmp_path))
    for end in ("index", "data-00000-of-00001"):
        with pytest.raises(ValueError, match=r"common prefix, .*/model.ckpt-1\.$"):
            tf_read.open_file(str(tmp_path / f"model.ckpt-1.{end}"))


def test_damaged_checkpoints(tmp_path):
    write(tmp_path / "model.ckpt", random(SHAPES))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[:20])
    with pytest.raises(ValueError, match="no complete TensorFlow checkpoint"):
        read_all(tmp_path)
    data.unlink()
    with pytest.raises(ValueError, match="no complete TensorFlow checkpoint"):
        read_all(tmp_path)
    data.write_bytes(content)
    (tmp_path / "model.ckpt.index").write_bytes(b"junk" * 30)
    with pytest.raises(ValueError, match="no complete TensorFlow checkpoint"):
        tf_read.open_file(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"junk" * 30])
def test_a_damaged_saved_model(tmp_path, content):
    write_model(tmp_path, random({"x": (2,)}))
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ValueError, match=r"no SavedModel, or damaged|has no objects"):
        tf_read.open_file(str(tmp_path))
