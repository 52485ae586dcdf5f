"""Sets prepared by TFDS, found offline by their files."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from simclr_jax.data import records
from simclr_jax.data.sources import open_source
from simclr_jax.data.tfrecord_index import index_bytes
from simclr_jax.storage.errors import BucketDenied

EMBEDDED = pathlib.Path(records.__file__).parent / "embedded"
CORE = "tensorflow_datasets.core.features"
IMAGE = {
    "pythonClassName": f"{CORE}.image_feature.Image",
    "image": {
        "shape": {"dimensions": ["32", "32", "3"]},
        "dtype": "uint8",
        "encodingFormat": "jpeg",
    },
}
LABEL = {
    "pythonClassName": f"{CORE}.class_label_feature.ClassLabel",
    "classLabel": {"numClasses": "10"},
}
TEXT = {"pythonClassName": f"{CORE}.text_feature.Text", "text": {}}


def prepare(
    root,
    name="toy",
    shards=2,
    features=None,
    file_format="tfrecord",
    config="",
    split="test",
):
    """A prepared set without a builder class, as TFDS would leave it.

    config: of the set, such as "1pct" of imagenet2012_subset.
    """
    folder = root / name / config / "1.0.0"
    folder.mkdir(parents=True)
    for k in range(shards):
        shutil.copy(
            EMBEDDED / "cifar10_mini-test.tfrecord-00000-of-00001",
            folder / f"{name}-{split}.{file_format}-{k:05}-of-{shards:05}",
        )
    splits = {
        "name": split,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": ["1000"] * shards,
        "numBytes": "1203860",
    }
    info = {"name": name, "version": "1.0.0", "splits": [splits]}
    info |= {"fileFormat": file_format} | ({"configName": config} if config else {})
    features = features or {"image": IMAGE, "label": LABEL, "id": TEXT}
    tree = {
        "pythonClassName": f"{CORE}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(tree))
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))


def test_a_prepared_set_by_its_name(tmp_path):
    prepare(tmp_path)
    source = open_source("toy", data_dir=str(tmp_path), split="test")
    assert (len(source), source.classes, source.name) == (2000, 10, "toy/test")
    truth = open_source("cifar10_mini", split="test")
    a, b = source.read(np.array([1003, 7])), truth.read(np.array([3, 7]))
    for key in ("image", "label"):
        np.testing.assert_array_equal(a[key], b[key])
    assert "toy-test.tfrecord-00001-of-00002" in source.describe(1003)


def test_versions_and_slices(tmp_path):
    prepare(tmp_path)
    source = open_source("toy:1.0.0", data_dir=str(tmp_path), split="test[5:10%]")
    assert len(source) == 195


def test_features_are_selected_by_their_type(tmp_path, monkeypatch):
    """Whatever they are called; here they are called image and label in the files, so
    only the choice is looked at."""
    arguments = {}

    def catch(files, *, image, label, **_):
        arguments.update(image=image, label=label)
        raise LookupError

    monkeypatch.setattr("simclr_jax.data.tfds.Records", catch)
    cases = {
        "one": ({"photo": IMAGE, "species": LABEL}, "photo", "species"),
        "two": ({"image": IMAGE, "mask": IMAGE, "a": LABEL, "b": LABEL}, "image", ""),
        "three": ({"image": IMAGE, "label": LABEL, "coarse": LABEL}, "image", "label"),
        "none": ({"image": IMAGE, "text": TEXT}, "image", ""),
    }
    for name, (features, image, label) in cases.items():
        prepare(tmp_path, name, features=features)
        with pytest.raises(LookupError):
            open_source(name, data_dir=str(tmp_path), split="test")
        assert arguments == {"image": image, "label": label}
    prepare(tmp_path, "words", features={"text": TEXT})
    with pytest.raises(ValueError, match=r"words/1\.0\.0 has 0 picture features"):
        open_source("words", data_dir=str(tmp_path), split="test")


def test_labels_of_minus_one_count_as_none(tmp_path, monkeypatch):
    """TFDS writes -1 for missing labels, as in STL-10's `unlabelled`."""
    read = records.Records.read

    def unknown(self, indices):
        batch = read(self, indices)
        return batch | {"label": batch["label"] * 0 - 1} if "label" in batch else batch

    prepare(tmp_path)
    where = {"data_dir": str(tmp_path), "split": "test"}
    assert open_source("toy", **where).classes == 10
    monkeypatch.setattr(records.Records, "read", unknown)
    source = open_source("toy", **where)
    assert (len(source), source.classes, source.class_names) == (2000, 0, ())
    assert source.read(np.array([3])).keys() == {"image"}


def test_the_index_of_a_large_set_is_written_beside_it(tmp_path, monkeypatch):
    folder = prepare(tmp_path)
    hold = records.Records.__init__.__kwdefaults__
    monkeypatch.setitem(hold, "memory_bytes", 0)
    assert len(open_source("toy", data_dir=str(tmp_path), split="test")) == 2000
    assert len(list(folder.glob("simclr_jax.toy-test.*.npz"))) == 1


def test_an_unknown_split(tmp_path):
    prepare(tmp_path)
    with pytest.raises(
        ValueError, match=r"no split 'tets'; it has test\. Did you mean"
    ):
        open_source("toy", data_dir=str(tmp_path), split="tets")


def test_the_error_of_an_unknown_name_lists_prepared_sets(tmp_path):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=r"it contains toy.*Did you mean 'toy'"):
        open_source("toys", data_dir=str(tmp_path), split="test")
    with pytest.raises(ValueError, match=r"there is no such folder.*'imagenet2012'"):
        open_source("imagenet2021", data_dir=str(tmp_path / "no"), split="train")


def test_a_missing_data_dir_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_source("cifar10", data_dir=str(tmp_path / "no"), split="train")
    assert not (tmp_path / "no").exists()


def test_sets_with_manual_downloads(tmp_path):
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_train.tar.*tfds build"):
        open_source("imagenet2012", data_dir=str(tmp_path), split="train")


def test_without_network(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.create_connection", fail)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(ValueError, match=r"cifar100 is not prepared .*be reached"):
        open_source("cifar100", data_dir=str(tmp_path), split="train")


def test_a_missing_shard(tmp_path):
    folder = prepare(tmp_path)
    (folder / "toy-test.tfrecord-00001-of-00002").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 files are missing.*00001-of-00002"):
        open_source("toy", data_dir=str(tmp_path), split="test")


def test_a_shard_with_too_few_records(tmp_path):
    folder = prepare(tmp_path)
    path = folder / "toy-test.tfrecord-00001-of-00002"
    content = path.read_bytes()
    index = index_bytes([str(path)], {str(path): content})
    path.write_bytes(content[: index.offset[999] - 12])
    with pytest.raises(ValueError, match=r"has 999 records.* says 1000"):
        open_source("toy", data_dir=str(tmp_path), split="test")


def test_another_file_format(tmp_path):
    prepare(tmp_path, file_format="riegeli")
    with pytest.raises(ValueError, match=r"stored as .*only TFRecord"):
        open_source("toy", data_dir=str(tmp_path), split="test")


def test_in_a_bucket(tmp_path, cloud):
    """The same pictures; and what a typo in data_dir is told."""
    prepare(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            cloud.put("bucket", f"tfds/{path.relative_to(tmp_path)}", path.read_bytes())
    local = open_source("toy", data_dir=str(tmp_path), split="test")
    far = open_source("toy", data_dir="gs://bucket/tfds/", split="test")
    assert len(far) == len(local) == 2000
    for key, value in local.read(np.arange(0, 2000, 7)).items():
        np.testing.assert_array_equal(far.read(np.arange(0, 2000, 7))[key], value)
    with pytest.raises(ValueError, match=r"gs://bucket/typo \(there is no such folder"):
        open_source("toy", data_dir="gs://bucket/typo", split="test")
    with pytest.raises(BucketDenied, match="no such bucket"):
        open_source("toy", data_dir="gs://misspelt/tfds", split="test")
