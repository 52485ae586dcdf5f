"""Names and arrays come out of TensorFlow's files as they went in."""

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.zoo.tensorflow import names as tf_names
from simclr_jax.zoo.tensorflow import read as tf_read
from tests.zoo.tf_simclr import drawn, write, write_model, write_objects

SHAPES = {"base_model/conv2d/kernel": (3, 3, 3, 4), "base_model/conv2d_1/kernel": (2,)}


def same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_array_equal(got[name], x, err_msg=name)


def all_of(path):
    stored = tf_read.stored(str(path))
    return stored.read(stored.shapes)


def test_a_checkpoint_of_tf1(tmp_path):
    arrays = drawn(SHAPES)
    write(tmp_path / "model.ckpt-3", arrays)
    for path in (tmp_path / "model.ckpt-3", tmp_path):
        stored = tf_read.stored(str(path))
        assert stored.kind == "tf1"
        assert stored.shapes == SHAPES
        same(stored.read(stored.shapes), arrays)
    last = "base_model/conv2d_1/kernel"
    same(stored.read([last]), {last: arrays[last]})
    same(tf_read.renamed(stored, {"x": last}).read(["x"]), {"x": arrays[last]})
    assert tf_read.renamed(stored, {"x": last}).shapes == {"x": (2,)}


def test_a_checkpoint_of_tf2(tmp_path):
    """Only variables count: objects may have other attributes, such as their config."""
    arrays = drawn({"model/conv/kernel": (2, 3), "optimizer/iter": ()})
    more = {"model/.ATTRIBUTES/OBJECT_CONFIG_JSON": b"{}"}
    write_objects(tmp_path / "ckpt-1", arrays, more)
    stored = tf_read.stored(str(tmp_path))
    assert stored.kind == "tf2"
    same(stored.read(stored.shapes), arrays)


def test_a_checkpoint_that_tf2_wrote_itself(tmp_path):
    kernel = drawn({"kernel": (2, 3)})["kernel"]
    model = tf.train.Checkpoint(layers=[tf.Variable(kernel)])
    tf.train.Checkpoint(model=model).save(tmp_path / "ckpt")
    stored = tf_read.stored(str(tmp_path))
    assert set(stored.shapes) == {"model/layers/0", "save_counter"}
    same(stored.read(["model/layers/0"]), {"model/layers/0": kernel})


def test_a_saved_model_is_read_by_the_names_of_its_variables(tmp_path):
    arrays = drawn(
        {
            "resnet/conv2d_fixed_padding_9/conv2d_9/kernel": (2, 2),
            "resnet/batch_norm_relu_9/sync_batch_normalization_9/gamma": (3,),
            "resnet/batch_norm_relu_9/sync_batch_normalization_9/moving_mean": (3,),
            "resnet/block_group1/sk__conv2d/conv2d_10/kernel": (2, 2),
        }
    )
    write_model(tmp_path, arrays)
    stored = tf_read.stored(str(tmp_path))
    assert stored.kind == "saved_model"
    same(stored.read(stored.shapes), arrays)
    conv, norm, mean, select = arrays
    assert tf_names.in_order(stored.shapes) == {
        "base_model/conv2d/kernel": conv,
        "base_model/conv2d_1/kernel": select,
        "base_model/batch_normalization/gamma": norm,
        "base_model/batch_normalization/moving_mean": mean,
    }


def test_layers_are_ordered_by_number_not_by_letter():
    names = [f"resnet/block_group1/conv2d_{k}/kernel" for k in (9, 10, 100, 11)]
    ordered = tf_names.in_order(["resnet/conv2d/kernel", *names])
    assert list(ordered.values()) == ["resnet/conv2d/kernel", *names]
    assert ordered["base_model/conv2d/kernel"] == "resnet/conv2d/kernel"
    assert ordered["base_model/conv2d_1/kernel"] == names[0]
    assert ordered["base_model/conv2d_3/kernel"] == names[3]
    assert ordered["base_model/conv2d_4/kernel"] == names[2]


def test_two_variables_of_one_name_are_refused(tmp_path):
    module = tf.Module()
    module.both = [tf.Variable(1.0, name="x"), tf.Variable(2.0, name="x")]
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(ValueError, match="several variables share a name"):
        tf_read.stored(str(tmp_path))


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"no TensorFlow checkpoint .*nothing\.index"):
        tf_read.stored(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="not one checkpoint but: none"):
        tf_read.stored(str(tmp_path))
    for number in (1, 2):
        write(tmp_path / f"model.ckpt-{number}", drawn(SHAPES))
    with pytest.raises(ValueError, match=r"but: model.ckpt-1, model.ckpt-2\. Give"):
        tf_read.stored(str(tmp_path))
    for end in ("index", "data-00000-of-00001"):
        with pytest.raises(ValueError, match=r"common prefix, .*/model.ckpt-1\.$"):
            tf_read.stored(str(tmp_path / f"model.ckpt-1.{end}"))


def test_what_is_damaged(tmp_path):
    write(tmp_path / "model.ckpt", drawn(SHAPES))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:20])
    with pytest.raises(ValueError, match="no whole TensorFlow checkpoint"):
        all_of(tmp_path)
    data.unlink()
    with pytest.raises(ValueError, match="no whole TensorFlow checkpoint"):
        all_of(tmp_path)
    data.write_bytes(whole)
    (tmp_path / "model.ckpt.index").write_bytes(b"junk" * 30)
    with pytest.raises(ValueError, match="no whole TensorFlow checkpoint"):
        tf_read.stored(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"junk" * 30])
def test_a_saved_model_that_is_damaged(tmp_path, content):
    write_model(tmp_path, drawn({"x": (2,)}))
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ValueError, match=r"no SavedModel, or damaged|has no objects"):
        tf_read.stored(str(tmp_path))
