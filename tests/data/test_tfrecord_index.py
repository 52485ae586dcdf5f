"""The index of TFRecord files: offsets, saving, renewal, damaged files."""

import os
import threading

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data import tfrecord_index
from simclr_jax.data.tfrecord_index import index_bytes, index_files
from simclr_jax.storage.files import Disk

PAYLOADS = [b"a" * size for size in (1, 0, 17, 5000, 3)]


def write(path, payloads):
    with tf.io.TFRecordWriter(str(path)) as out:
        for payload in payloads:
            out.write(payload)
    return str(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return [
        write(tmp_path / "data" / f"x.tfrecord-{i}", PAYLOADS[: 3 * i])
        for i in range(3)
    ]


def kept(folder):
    return [path.name for path in folder.rglob("simclr_jax.*.npz")]


def build(files, tmp_path, **keywords):
    folders = [str(tmp_path / "data"), str(tmp_path / "work")]
    return index_files(files, title="x/train", index_folders=folders, **keywords)


def test_the_index_gives_the_positions_of_records(files, tmp_path):
    made = build(files, tmp_path)
    assert made.file.tolist() == [1] * 3 + [2] * 5  # the first file is empty
    payloads = [
        Disk().read(files[f], int(o), int(n))
        for f, o, n in zip(made.file, made.offset, made.length, strict=True)
    ]
    assert payloads == PAYLOADS[:3] + PAYLOADS


def test_bytes_and_chunks_give_the_same_index(files, tmp_path):
    class Far(Disk):
        remote = True

    made = build(files, tmp_path)
    (tmp_path / "data" / kept(tmp_path)[0]).unlink()
    others = [
        build(files, tmp_path, storage=Far()),
        index_bytes(files, {path: Disk().read_all(path) for path in files}),
    ]
    for other in others:
        for a, b in zip(made[1:], other[1:], strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_index_is_saved_and_renewed(files, tmp_path, monkeypatch, capsys):
    first = build(files, tmp_path)
    assert "indexing 3 files" in capsys.readouterr().err
    assert kept(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(tfrecord_index, "_build", None)  # a second build would fail
        second = build(files, tmp_path)
    np.testing.assert_array_equal(first.offset, second.offset)

    write(files[0], [b"new"])
    assert len(build(files, tmp_path).file) == len(first.file) + 1
    os.utime(files[0], (1, 1))  # same size, other time
    capsys.readouterr()
    build(files, tmp_path)
    assert "indexing" in capsys.readouterr().err


def test_a_truncated_index_is_rebuilt(files, tmp_path):
    first = build(files, tmp_path)
    path = tmp_path / "data" / kept(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(build(files, tmp_path).offset, first.offset)
    np.load(path)["lengths"]  # complete again


@pytest.mark.parametrize("unwritable", [1, 2])
def test_an_index_of_read_only_folders(files, tmp_path, monkeypatch, unwritable):
    blocked = [str(tmp_path / name) for name in ("data", "work")][:unwritable]
    write_file = Disk.write

    def deny(self, path, data):
        if os.path.dirname(path) in blocked:
            raise PermissionError(path)
        write_file(self, path, data)

    monkeypatch.setattr(Disk, "write", deny)
    build(files, tmp_path)
    folder = tmp_path / ("work" if unwritable == 1 else "cache/simclr_jax")
    assert kept(folder)
    assert not kept(tmp_path / "data")
    monkeypatch.setattr(tfrecord_index, "_build", None)
    build(files, tmp_path)  # loaded from there


def test_concurrent_processes_write_one_complete_index(files, tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(build(files, tmp_path)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(list((tmp_path / "data").iterdir())) == len(files) + 1


@pytest.mark.parametrize("cut", [1, 4, 8, 5000, 5018])
def test_a_truncated_file_is_named(files, tmp_path, cut):
    data = Disk().read_all(files[2])
    with open(files[2], "wb") as file:
        file.write(data[:-cut])
    begin = len(data) - 19 if cut < 19 else len(data) - 19 - 5016
    with pytest.raises(ValueError, match=rf"{files[2]} is truncated.* byte {begin}\."):
        build(files, tmp_path)
    assert not kept(tmp_path)


@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_damaged_header_is_named(files, tmp_path, at):
    data = bytearray(Disk().read_all(files[1]))
    data[17 + at] ^= 4  # in the second record's header
    with open(files[1], "wb") as file:
        file.write(data)
    with pytest.raises(ValueError, match=rf"{files[1]} is damaged at byte 17"):
        build(files, tmp_path)


def test_a_file_that_is_not_tfrecord_is_an_error(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="no TFRecord file"):
        index_files([str(path)], title="x", index_folders=[])
