"""Records: the same pictures from memory, from a disk and from a slow bucket."""

import concurrent.futures
import itertools
import pathlib
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data.records import BlockCache, Records
from simclr_jax.data.sampler import Sampler
from simclr_jax.storage.files import Disk

N = 2000


def example(i, **features):
    types = {
        int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])),
        bytes: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])),
    }
    features = features or {"image": picture(i), "label": i % 7}
    made = {key: types[type(value)](value) for key, value in features.items()}
    message = tf.train.Example(features=tf.train.Features(feature=made))
    return message.SerializeToString()


def picture(i):
    return b"%d:" % i + b"x" * (200 + i % 100)


def write(path, messages):
    with tf.io.TFRecordWriter(str(path)) as out:
        for message in messages:
            out.write(message)
    return str(path)


class Slow(Disk):
    """A bucket: every request is counted and takes its time."""

    remote = True

    def __init__(self, latency=0.0):
        super().__init__()
        self.latency, self.requests, self.lock = latency, [], threading.Lock()
        self.waiting = self.most_waiting = 0

    def read(self, path, offset, length):
        with self.lock:
            self.requests.append((path, offset, length))
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        time.sleep(self.latency)
        with self.lock:
            self.waiting -= 1
        return super().read(path, offset, length)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    cuts = [0, 700, 701, 1500, N]
    return [
        write(folder / f"x-{k}", [example(i) for i in range(*span)])
        for k, span in enumerate(itertools.pairwise(cuts))
    ]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def bucket(files, latency=0.0, block_bytes=16 * 310, cache_bytes=2**30):
    storage = Slow(latency)
    source = Records(
        files,
        name="x/train",
        storage=storage,
        memory_bytes=0,
        block_bytes=block_bytes,
        cache_bytes=cache_bytes,
    )
    storage.requests.clear()
    return source, storage


def check(source, indices):
    batch = source.read(indices)
    assert batch["image"].tolist() == [picture(i) for i in indices]
    assert batch["label"].tolist() == [i % 7 for i in indices]
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize("storage_name", ["memory", "disk", "bucket", "small blocks"])
def test_memory_disk_and_bucket_give_the_same_records(files, storage_name):
    if storage_name == "memory":
        source = Records(files, name="x/train")
    elif storage_name == "disk":
        source = Records(files, name="x/train", memory_bytes=0)
    else:
        size = 16 * 310 if storage_name == "bucket" else 1
        source, _ = bucket(files, block_bytes=size)
        assert source.block == (16 if storage_name == "bucket" else 1)
    assert len(source) == N
    check(source, np.random.default_rng(0).integers(0, N, 300))
    check(source, np.array([699, 700, 701, 0, N - 1]))  # around the files' ends
    check(source, np.array([], np.int64))
    assert "x/train record 700 (x-1, byte 0)" in source.describe(700)


def test_without_labels(files):
    source = Records(files, name="x/train", label="")
    assert source.read(np.arange(3)).keys() == {"image"}


def test_several_threads_read_concurrently(files):
    source, _ = bucket(files, cache_bytes=16 * 310 * 4)
    rng = np.random.default_rng(1)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        batches = [rng.integers(0, N, 50) for _ in range(40)]
        list(pool.map(lambda indices: check(source, indices), batches))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_batch_from_a_bucket_takes_few_requests(files, count):
    """Each process reads its share of blocks, evenly, and almost every block once."""
    order_of = {"batch_size": 64, "seed": 0, "window": 1}
    total = 0
    for process in range(count):
        source, storage = bucket(files, cache_bytes=16 * 310 * 128)
        order = Sampler(N, block=source.block, **order_of)
        asked = []
        for step in range(order.steps_per_epoch):
            indices, _ = order.indices(step, process, count)
            check(source, indices)
            asked.append(len(storage.requests))
            storage.requests.clear()
        rows = 64 // count
        assert max(asked) <= 1.5 * rows  # a lane's block, and a few in two files
        assert sum(asked[1:]) < 0.5 * rows * (len(asked) - 1)  # a record each: 1.0
        total += sum(asked)
    blocks = N / 16
    assert total < 2.1 * blocks  # lanes of 31 records share nearly every block of 16


@pytest.mark.parametrize("rows", [512, 1024])
def test_a_pass_fetches_the_set_about_once(files, rows):
    """Also where the blocks of one batch are more than the cache was made for."""
    source, storage = bucket(files, block_bytes=4 * 310, cache_bytes=4 * 310 * 160)
    order = Sampler(N, rows, seed=0, block=source.block)
    for step in range(order.steps_per_epoch):
        check(source, order.indices(step)[0])
    fetched = sum(length for *_, length in storage.requests)
    passed = order.steps_per_epoch * rows / N
    total = sum(int(x) for x in source.index.length)
    assert fetched < 1.3 * passed * total


def test_requests_are_concurrent(files):
    source, storage = bucket(files, latency=0.05)
    indices, _ = Sampler(N, 64, seed=0, block=source.block).indices(0)
    check(source, indices)
    assert storage.most_waiting >= 16


def test_consecutive_records_take_one_request(files):
    source, storage = bucket(files)
    check(source, np.arange(160, 176))
    assert len(storage.requests) == 1
    check(source, np.arange(160, 176)[::-1])
    assert len(storage.requests) == 1
    check(source, np.arange(696, 704))  # one block in three files
    assert len(storage.requests) == 4


def test_a_small_set_in_a_bucket_is_kept_in_memory(files):
    storage = Slow()
    source = Records(files, name="x/train", storage=storage)
    assert source.block == 1
    check(source, np.arange(N))
    assert not storage.requests


def test_in_a_real_bucket(files, cloud):
    far = [f"gs://bucket/records/{pathlib.Path(path).name}" for path in files]
    for path in files:
        cloud.put(
            "bucket",
            f"records/{pathlib.Path(path).name}",
            pathlib.Path(path).read_bytes(),
        )
    size = sum(pathlib.Path(path).stat().st_size for path in files)
    for first in (True, False):  # builds the index, then finds it
        cloud.clear_requests()
        source = Records(
            far, name="x/train", index_folders=["gs://bucket/records"], memory_bytes=0
        )
        fetched = sum(request.bytes_out for request in cloud.requests)
        assert fetched < (1.1 if first else 0.2) * size
        assert source.block == 256
        check(source, np.random.default_rng(2).integers(0, N, 100))
    kept = [name for name in cloud.objects("bucket") if name.endswith(".npz")]
    assert len(kept) == 1
    cloud.clear_requests()
    check(source, np.arange(N))
    assert sum(request.bytes_out for request in cloud.requests) < 1.1 * size
    check(Records(far, name="x/train"), np.arange(N))


def test_the_index_of_read_only_data_is_written_elsewhere(files, cloud):
    for path in files[:1]:
        cloud.put("bucket", "records/x-0", pathlib.Path(path).read_bytes())
    cloud.permissions = {"storage.objects.get", "storage.objects.list"}
    far, folders = ["gs://bucket/records/x-0"], ["gs://bucket/records"]
    source = Records(far, name="x/train", index_folders=folders, memory_bytes=0)
    assert source.read(np.array([3]))["image"].tolist() == [picture(3)]
    assert [*cloud.objects("bucket")] == ["records/x-0"]


def test_a_failed_request_is_repeated_by_the_next_read(files, monkeypatch):
    def fail(*_):
        raise OSError("503")

    source, storage = bucket(files)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read", fail)
        with pytest.raises(OSError, match="503"):
            source.read(np.arange(4))
    check(source, np.arange(4))


def test_the_oldest_block_is_dropped():
    fetched = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        blocks = BlockCache(lambda n: fetched.append(n) or n, 2, pool)
        for number in (1, 2, 1, 3, 1, 2):
            assert blocks.get([number]) == [number]
    assert fetched == [1, 2, 3, 2]


def test_a_record_without_a_picture_is_named(tmp_path):
    messages = [example(0), example(1, label=3), example(2)]
    path = write(tmp_path / "x", messages)
    source = Records([path], name="x/train", memory_bytes=0)
    with pytest.raises(ValueError, match=r"x/train record 1 .*'image' and 'label'"):
        source.read(np.array([0, 2, 1]))


def test_a_file_truncated_after_indexing_is_named(tmp_path):
    path = write(tmp_path / "x", [example(i) for i in range(5)])
    source = Records([path], name="x/train", memory_bytes=0)
    with open(path, "r+b") as file:
        file.truncate(700)
    with pytest.raises(
        ValueError, match=r"record 4 .*shorter than when it was indexed"
    ):
        source.read(np.array([4]))
