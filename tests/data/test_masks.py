"""Pictures with masks: folders, VOC's layout, TFDS, and what is refused."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.masks import decode_mask, masked_batches, open_masked
from simclr_jax.data.tensorflow import tf
from tests.data.test_tfds import CORE, IMAGE, TEXT

MASK = np.array([[0, 1, 1, 255], [0, 2, 1, 255]], np.uint8)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 756 + [224, 224, 192]
COLOURS = {0: 0, 1: 128 * 2**16, 2: 128 * 2**8, 255: 255}


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png")
    return buffer.getvalue()


def palette(array):
    """A PNG file as VOC's, with the labels as indices of colours."""
    image = Image.new("P", array.shape[::-1])
    image.putdata(array.ravel().tolist())
    image.putpalette(PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def picture(i, shape=(2, 4)):
    return np.full((*shape, 3), 10 * i, np.uint8)


def write(root, pictures, masks, names="abc"):
    for folder, make in ((pictures, lambda i: png(picture(i))), (masks, None)):
        (root / folder).mkdir()
        for i, name in enumerate(names):
            content = make(i) if make else png(np.where(MASK == 2, i, MASK))
            (root / folder / f"{name}.png").write_bytes(content)


def one_batch(data, size=4):
    ((images, masks),) = masked_batches(data, size=size, batch_size=8)
    return images, masks


def test_grey_values_are_labels_and_colours_are_objects():
    np.testing.assert_array_equal(decode_mask(png(MASK), "a"), MASK)
    expected = np.vectorize(COLOURS.get)(MASK)
    np.testing.assert_array_equal(decode_mask(palette(MASK), "a"), expected)


def test_a_folder(tmp_path):
    write(tmp_path, "images", "masks")
    (tmp_path / "images" / "without.png").write_bytes(png(picture(0)))
    data = open_masked(str(tmp_path), split="validation")
    assert len(data) == 3
    images, masks = one_batch(data)
    assert (images.shape, masks.shape) == ((3, 4, 4, 3), (3, 4, 4))
    assert images[:, 1, 1, 0].tolist() == [0, 10, 20]
    for i, mask in enumerate(masks):  # rows are doubled, columns kept
        expected = np.where(MASK == 2, i, MASK).repeat(2, 0)
        np.testing.assert_array_equal(mask, expected)
    parts = [*masked_batches(data, size=4, batch_size=2)]
    np.testing.assert_array_equal(np.concatenate([m for _, m in parts]), masks)


def test_the_layout_of_voc(tmp_path):
    write(tmp_path, "JPEGImages", "SegmentationClass")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("c\na\nnot_here\n")
    for split in ("val", "validation"):
        data = open_masked(str(tmp_path), split=split)
        assert one_batch(data)[0][:, 0, 0, 0].tolist() == [0, 20]
    with pytest.raises(ValueError, match=r"no list test\.txt.*val\.txt"):
        open_masked(str(tmp_path), split="test")


def prepare(root, config, features, rows):
    """voc/CONFIG as TFDS would prepare it, with these examples."""
    name, folder = "voc", root / "voc" / config / "5.0.0"
    folder.mkdir(parents=True)
    path = folder / f"{name}-validation.tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            value = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[x]))
                for key, x in row.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=value))
            writer.write(example.SerializeToString())
    split = {
        "name": "validation",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(len(rows))],
        "numBytes": "1",
    }
    info = {"name": name, "configName": config, "version": "5.0.0"}
    info |= {"splits": [split], "fileFormat": "tfrecord"}
    tree = {
        "pythonClassName": f"{CORE}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(tree))


def test_a_set_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        {"image": png(picture(i)), "segmentation_mask": png(MASK)} for i in range(3)
    ]
    features = {"image": IMAGE, "segmentation_mask": IMAGE, "id": TEXT}
    prepare(tmp_path, "2012", features, rows)
    data = open_masked("voc/2012", data_dir=str(tmp_path), split="validation")
    images, masks = one_batch(data)
    assert images[:, 0, 0, 0].tolist() == [0, 10, 20]
    np.testing.assert_array_equal(masks, [MASK.repeat(2, 0)] * 3)
    prepare(tmp_path, "2007", {"image": IMAGE, "id": TEXT}, rows)  # as TFDS 4.9 does
    with pytest.raises(
        ValueError, match=r"no masks.*'segmentation_mask'.*id, image.*VOCdevkit"
    ):
        open_masked("voc/2007", data_dir=str(tmp_path), split="validation")


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no folder"):
        open_masked(f"{tmp_path}/typo", split="val")
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="no sub-folders images and masks or JPEG"):
        open_masked(str(tmp_path), split="val")
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="no picture of images has a mask"):
        open_masked(str(tmp_path), split="val")
    (tmp_path / "images" / "a.png").write_bytes(png(picture(0)))
    path = tmp_path / "masks" / "a.png"
    path.write_bytes(png(MASK[:1]))
    data = open_masked(str(tmp_path), split="val")
    with pytest.raises(ValueError, match=r"4 x 2 pixels, and its mask 4 x 1"):
        one_batch(data)
    for content in (b"text", png(MASK.astype(np.uint16))):
        path.write_bytes(content)
        with pytest.raises(UnreadablePicture, match=r"mask of .*a\.png is no PNG"):
            one_batch(data)
