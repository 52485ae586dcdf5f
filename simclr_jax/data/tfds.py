"""Data sets prepared by TensorFlow Datasets, read from their TFRecord files.

TFDS says where the files are, which features hold picture and class, and prepares what
is not there yet; its own reading pipeline is not used.
"""

import os
import socket
import sys
import urllib.parse
import urllib.request

import numpy as np

from simclr_jax.data.records import Records
from simclr_jax.storage.errors import BucketError
from simclr_jax.storage.files import storage_of
from simclr_jax.suggest import did_you_mean

PORTS = {"http": 80, "https": 443, "ftp": 21}


def find(name: str, data_dir: str):
    """The builder of a prepared set, found offline by its files; None without them.

    Args:
      name: "imagenet2012", "cifar10:3.0.2", "imagenet_resized/64x64", ...
      data_dir: where TFDS keeps its sets; "" for its default folder.
    """
    import tensorflow_datasets as tfds  # takes seconds

    try:
        return tfds.core.read_only_builder.builder_from_files(
            name, data_dir=data_dir or None
        )
    except (ValueError, KeyError):  # not found, or no name or path that it can parse
        return None


def prepare(name: str, data_dir: str):
    """Downloads and prepares a set that TFDS knows and that is not there yet.

    Raises:
      ValueError: TFDS does not know the name, or cannot prepare it here.
    """
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    folder = data_dir or tfds.core.constants.DATA_DIR
    if name.partition(":")[0].partition("/")[0] not in known:
        raise ValueError(_unknown(name, folder, known))
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
    except Exception as error:  # whatever the set's own code or the network raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"The TFDS set {name} is not prepared in {folder} and cannot be prepared "
            f"here ({reason[:400]}). Prepare it where the network or the files to "
            "fetch by hand are: tfds build "
            f"{name} --data_dir={folder}, then set data.data_dir to that folder."
        ) from error
    return builder


def open_split(builder, split: str, workdir: str) -> Records:
    """One split of a prepared set as a source.

    Args:
      builder: from `find` or `prepare`.
      split: the plain name of a split.
      workdir: where the index may be kept if not beside the data; "" for nowhere.

    Raises:
      ValueError: no such split, no picture in it, another file format than TFRecord, or
        files that are damaged or not complete.
    """
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
    image, label = _features(info)
    chosen = info.splits[split]
    kept = [os.path.join(workdir, "index")] if workdir else []
    files = [os.fspath(path) for path in chosen.filepaths]

    def opened(label):
        return Records(
            _present(files, info),
            name=f"{info.name}/{split}",
            image=image,
            label=label,
            classes=info.features[label].num_classes if label else 0,
            class_names=tuple(info.features[label].names) if label else (),
            places=[os.path.dirname(files[0]), *kept],
        )

    source = opened(label)
    _check_counts(source.index, chosen.shard_lengths)
    # TFDS writes -1 where there is no label, as in all of STL-10's `unlabelled`.
    known = not label or source.read(np.array([0]))["label"][0] >= 0
    return source if known else opened("")


def _check_reach(builder):
    """Fails at once where TFDS would try for minutes to reach a set's server."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS or urllib.request.getproxies():
        return
    urls = map(urllib.parse.urlsplit, builder.url_infos)
    for scheme, host in {(url.scheme, url.hostname) for url in urls}:
        try:
            socket.create_connection((host, PORTS[scheme]), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"{host} cannot be reached: {error}") from error


def _features(info):
    """The names of the picture's and the class's feature; "" for no class."""
    import tensorflow_datasets as tfds

    kinds = {name: type(feature) for name, feature in info.features.items()}
    images = [n for n, kind in kinds.items() if kind is tfds.features.Image]
    labels = [n for n, kind in kinds.items() if kind is tfds.features.ClassLabel]
    labels = [n for n in labels if info.features[n].num_classes]
    if not images or (len(images) > 1 and "image" not in images):
        raise ValueError(
            f"{info.full_name} has {len(images)} picture features; one is needed, or "
            f"one of them called 'image'. Its features: {', '.join(kinds)}."
        )
    image = "image" if "image" in images else images[0]
    if "label" in labels or len(labels) == 1:
        return image, "label" if "label" in labels else labels[0]
    return image, ""


def _present(files, info):
    storage = storage_of(files[0])
    there = set(storage.entries(os.path.dirname(files[0]))[1])
    missing = [path for path in files if os.path.basename(path) not in there]
    if missing:
        raise ValueError(
            f"{info.full_name} is not complete: {len(missing)} of {len(files)} files "
            f"are missing, the first {missing[0]}. Copy or prepare it again."
        )
    return files


def _check_counts(index, promised):
    counts = np.bincount(index.file, minlength=len(index.files))
    for path, count, length in zip(index.files, counts, promised, strict=True):
        if count != length:
            raise ValueError(
                f"{path} holds {count} records, but dataset_info.json promises "
                f"{length}: the file is not complete. Copy or prepare it again."
            )


def _unknown(name, folder, known):
    storage = storage_of(folder)
    listed, there = "there is no such folder", []
    if storage.is_dir(folder):
        there = [entry for entry in storage.entries(folder)[0] if entry[0] != "."]
        listed = f"it holds {', '.join(there) or 'nothing'}"
    return (
        f"data.name='{name}' is no folder of pictures, no TFDS set prepared in "
        f"{folder} ({listed}), and no name that TFDS knows."
        f"{did_you_mean(name, ['cifar10_mini', *there, *known])} Give a folder by its "
        "path, or a TFDS name with data.data_dir set to where it is prepared (tfds "
        "build NAME --data_dir=DIR), or 'cifar10_mini', the "
        "embedded pictures."
    )
