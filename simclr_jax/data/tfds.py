"""Data sets prepared by TensorFlow Datasets, read from their TFRecord files.

TFDS lists the files and the features, and prepares sets that are missing; its reading
pipeline is not used.
"""

import os
import socket
import sys
import urllib.parse
import urllib.request
from typing import Any

import numpy as np

from simclr_jax.data.records import Records
from simclr_jax.storage.errors import BucketError
from simclr_jax.storage.files import storage_of
from simclr_jax.suggest import did_you_mean

FILE_NAMES = ("file_name", "filename", "image/filename", "id")  # features; see Records
MASK = "segmentation_mask"  # what TFDS calls the feature in all its sets
PORTS = {"http": 80, "https": 443, "ftp": 21}


def find_prepared(name: str, data_dir: str) -> Any:
    """The builder of a prepared set, from its files and offline; None without them.

    Args:
      name: "imagenet2012", "cifar10:3.0.2", "imagenet_resized/64x64", ...
      data_dir: folder of the prepared sets; "" for TFDS's default.
    """
    import tensorflow_datasets as tfds  # takes seconds

    try:
        return tfds.core.read_only_builder.builder_from_files(
            name, data_dir=data_dir or None
        )
    except (ValueError, KeyError):  # missing, or not a name or path that it can parse
        return None


def prepare(name: str, data_dir: str) -> Any:
    """Downloads and prepares a set of TFDS's catalogue; returns its builder.

    Raises:
      ValueError: the name is not in the catalogue, or preparing it failed.
      BucketError: data_dir is in a bucket and cannot be used.
    """
    import tensorflow_datasets as tfds

    catalogue = tfds.list_builders(with_community_datasets=False)
    folder = data_dir or tfds.core.constants.DATA_DIR
    if name.partition(":")[0].partition("/")[0] not in catalogue:
        raise ValueError(_unknown(name, folder, catalogue))
    if data_dir and not storage_of(folder).is_dir(folder):
        raise ValueError(
            f"data.data_dir={folder} does not exist. Correct it, or create it to have "
            f"{name} prepared there."
        )
    print(f"{name} is not prepared in {folder}; trying to do so ...", file=sys.stderr)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
        _check_reach(builder)
        builder.download_and_prepare(download_config=config, file_format="tfrecord")
    except BucketError:
        raise
    except Exception as error:  # any error of the set's code or of the network
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"The TFDS set {name} is not prepared in {folder} and cannot be prepared "
            f"here ({reason[:400]}). Prepare it where the network or the manually "
            "downloaded files are: tfds build "
            f"{name} --data_dir={folder}, then set data.data_dir to that folder."
        ) from error
    return builder


def open_split(builder: Any, split: str, workdir: str) -> Records:
    """One split of a prepared set as a source.

    Args:
      builder: from `find_prepared` or `prepare`.
      split: the name of a split.
      workdir: for an index that cannot be written beside the data; "" for none.

    Raises:
      ValueError: unknown split, no picture feature, another file format than TFRecord,
        or files that are damaged or not complete.
    """
    image, label = _features(builder.info)
    source = _open_records(builder, split, workdir, image, label)
    # TFDS writes -1 for a missing label, as in all of STL-10's `unlabelled`.
    if label and source.read(np.array([0]))["label"][0] < 0:
        return _open_records(builder, split, workdir, image, "")
    return source


def open_masks(builder: Any, split: str, workdir: str) -> tuple[Records, Records]:
    """The pictures and the masks of a split, record by record.

    Args:
      builder, split, workdir: as for `open_split`.

    Raises:
      ValueError: as in `open_split`; or the set has no masks.
    """
    import tensorflow_datasets as tfds

    info = builder.info
    names = [n for n, x in info.features.items() if isinstance(x, tfds.features.Image)]
    if MASK not in names:
        raise ValueError(
            f"{info.full_name} has no masks, a picture feature '{MASK}'; it has "
            f"{', '.join(sorted(info.features))}. TFDS's voc has only boxes: name the "
            "folder VOCdevkit/VOC2012 of the original archive instead."
        )
    image, _ = _features(info)
    pictures, masks = (
        _open_records(builder, split, workdir, name, "") for name in (image, MASK)
    )
    return pictures, masks


def _open_records(builder, split, workdir, image, label) -> Records:
    info = builder.info
    if split not in info.splits:
        raise ValueError(
            f"{info.full_name} has no split '{split}'; it has "
            f"{', '.join(info.splits)}.{did_you_mean(split, info.splits)}"
        )
    if info.file_format is None or info.file_format.value != "tfrecord":
        raise ValueError(
            f"{info.full_name} is stored as {info.file_format}; only TFRecord files "
            "are read. Prepare it again with --file_format=tfrecord."
        )
    files = [os.fspath(path) for path in info.splits[split].filepaths]
    index_folders = [os.path.dirname(files[0])]
    if workdir:
        index_folders.append(os.path.join(workdir, "index"))
    source = Records(
        _check_present(files, info),
        name=f"{info.name}/{split}",
        image=image,
        label=label,
        file_name=_file_name(info),
        classes=info.features[label].num_classes if label else 0,
        class_names=tuple(info.features[label].names) if label else (),
        index_folders=index_folders,
    )
    _check_counts(source.index, info.splits[split].shard_lengths)
    return source


def _check_reach(builder):
    """Fails at once if a set's server is unreachable; TFDS would try for minutes."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS or urllib.request.getproxies():
        return
    urls = map(urllib.parse.urlsplit, builder.url_infos)
    for scheme, host in {(url.scheme, url.hostname) for url in urls}:
        try:
            socket.create_connection((host, PORTS[scheme]), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"{host} cannot be reached: {error}") from error


def _features(info):
    """The names of the features of the picture and of the class; "" for no class."""
    import tensorflow_datasets as tfds

    types = {name: type(feature) for name, feature in info.features.items()}
    images = [n for n, t in types.items() if t is tfds.features.Image]
    labels = [n for n, t in types.items() if t is tfds.features.ClassLabel]
    labels = [n for n in labels if info.features[n].num_classes]
    if not images or (len(images) > 1 and "image" not in images):
        raise ValueError(
            f"{info.full_name} has {len(images)} picture features; one is needed, or "
            f"one of them called 'image'. Its features: {', '.join(types)}."
        )
    image = "image" if "image" in images else images[0]
    if "label" in labels or len(labels) == 1:
        return image, "label" if "label" in labels else labels[0]
    return image, ""


def _file_name(info):
    """The feature with the name of a picture's file; "" without one."""
    import tensorflow_datasets as tfds

    features = info.features
    texts = [n for n in features if isinstance(features[n], tfds.features.Text)]
    return next((name for name in FILE_NAMES if name in texts), "")


def _check_present(files, info):
    storage = storage_of(files[0])
    names = set(storage.entries(os.path.dirname(files[0]))[1])
    missing = [path for path in files if os.path.basename(path) not in names]
    if missing:
        raise ValueError(
            f"{info.full_name} is not complete: {len(missing)} of {len(files)} files "
            f"are missing, the first {missing[0]}. Copy or prepare it again."
        )
    return files


def _check_counts(index, expected):
    counts = np.bincount(index.file, minlength=len(index.files))
    for path, count, length in zip(index.files, counts, expected, strict=True):
        if count != length:
            raise ValueError(
                f"{path} has {count} records, but dataset_info.json says "
                f"{length}: the file is not complete. Copy or prepare it again."
            )


def _unknown(name, folder, catalogue):
    storage = storage_of(folder)
    contents, prepared = "there is no such folder", []
    if storage.is_dir(folder):
        prepared = [entry for entry in storage.entries(folder)[0] if entry[0] != "."]
        contents = f"it contains {', '.join(prepared) or 'nothing'}"
    return (
        f"data.name='{name}' is no folder of pictures, no TFDS set prepared in "
        f"{folder} ({contents}), and not in TFDS's catalogue."
        f"{did_you_mean(name, ['cifar10_mini', *prepared, *catalogue])} Give a folder "
        "by its path, or a TFDS name with data.data_dir set to its folder (tfds "
        "build NAME --data_dir=DIR), or 'cifar10_mini', the "
        "embedded pictures."
    )
