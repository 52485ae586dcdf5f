"""Pictures in TFRecord files, read in any order.

A small set is loaded into memory. A large one on a disk is read record by record; in a
bucket, where a request costs more than many records, by blocks of consecutive records,
of which the most recent are cached.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfrecord_index import index_bytes, index_files
from simclr_jax.storage.files import storage_of

MEMORY_BYTES = 2**28  # the largest set that is loaded into memory, encoded
BLOCK_BYTES = 2**22  # about as much as a request to a bucket should read
BLOCK_RECORDS = 256  # largest number of records in a block, so that they mix well
CACHE_BYTES = 2**30  # of cached blocks; more for large batches, see BlockCache
THREADS = 32
NAMES_RECORDS = 32  # records that a thread reads at a time to look up the file names


class Records:
    """A source (see `simclr_jax.data.sources.Source`) over TFRecord files.

    Args:
      files: paths of the files, in the order of their records.
      name: of the set and its split, "imagenet2012/train".
      image: the feature of `tf.train.Example` that holds the encoded picture.
      label: the feature with the class as int64; "" without labels.
      file_name: the feature with the name of the picture's file; "" without names.
      classes: number of classes; 0 without labels.
      class_names: their names, or empty.
      index_folders: where to look for the index and to write it, in this order.
      storage: of the files; by default that of their paths.
      memory_bytes, block_bytes, cache_bytes: see the module's constants.

    Raises:
      ValueError: a file is damaged or truncated.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        name: str,
        image: str = "image",
        label: str = "label",
        file_name: str = "",
        classes: int = 0,
        class_names: tuple[str, ...] = (),
        index_folders: Sequence[str] = (),
        storage: Any = None,
        memory_bytes: int = MEMORY_BYTES,
        block_bytes: int = BLOCK_BYTES,
        cache_bytes: int = CACHE_BYTES,
    ):
        self.name, self.classes, self.class_names = name, classes, class_names
        self.block = 1
        self._image, self._label, self._file_name = image, label, file_name
        self._storage = storage or storage_of(files[0])
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        size = sum(stat.size for stat in self._storage.stats(files))
        if size <= memory_bytes:
            self._load = self._load_all(files)
            return
        self.index = index_files(
            files, title=name, index_folders=index_folders, storage=self._storage
        )
        self._load = self._load_records
        if self._storage.remote:
            mean = max(1, size // len(self))
            self.block = int(np.clip(block_bytes // mean, 1, BLOCK_RECORDS))
            capacity = max(1, cache_bytes // (mean * self.block))
            self._cache = BlockCache(self._fetch, capacity, self._pool)
            self._load = self._load_blocks

    def __len__(self) -> int:
        return len(self.index.length)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded pictures, {"image": object [n] of bytes, "label": int32 [n]}.

        Args:
          indices: int64 [n], in any order.

        Raises:
          UnreadablePicture: a record cannot be parsed, or its file has become shorter.
        """
        image, label = self._load(np.asarray(indices))
        return {"image": image, "label": label} if self._label else {"image": image}

    def describe(self, index: int) -> str:
        return f"{self.name} record {index} ({self.index.describe(index)})"

    def file_names(self) -> list[str]:
        """The names of the pictures' files, in order; reads all records once.

        Raises:
          ValueError: the set has no such names.
          UnreadablePicture: as in `read`.
        """
        if not self._file_name:
            raise ValueError(f"{self.name} does not store the names of its files.")
        parts = np.array_split(
            np.arange(len(self)), -(-len(self) // NAMES_RECORDS) or 1
        )
        names = self._pool.map(self._names, parts)
        return [name for part in names for name in part]

    def _names(self, rows):
        features = {self._file_name: tf.io.FixedLenFeature([], tf.string)}
        parsed = self._parse(self._consecutive(rows), rows, features)
        return [name.decode() for name in parsed[self._file_name].numpy()]

    def _load_all(self, files):
        contents = dict(
            zip(files, self._pool.map(self._storage.read_all, files), strict=True)
        )
        self.index = index_bytes(files, contents)
        spans = zip(self.index.file, self.index.offset, self.index.length, strict=True)
        payloads = [contents[files[f]][o : o + n] for f, o, n in spans]
        image, label = self._pictures(payloads, np.arange(len(payloads)))
        return lambda indices: (image[indices], label[indices])

    def _load_records(self, indices):
        """One read for each record, by several threads, as a disk may be remote."""
        parts = np.array_split(indices, min(THREADS, max(1, len(indices))))
        payloads = self._pool.map(lambda part: [*map(self._payload, part)], parts)
        return self._pictures([p for part in payloads for p in part], indices)

    def _payload(self, i):
        file, offset, length = (int(a[i]) for a in self.index[1:])
        data = self._storage.read(self.index.files[file], offset, length)
        self._check(data, length, i)
        return data

    def _load_blocks(self, indices):
        blocks, inverse = np.unique(indices // self.block, return_inverse=True)
        image, label = np.empty(len(indices), object), np.empty(len(indices), np.int32)
        for j, (images, labels) in enumerate(self._cache.get(blocks.tolist())):
            rows = np.flatnonzero(inverse == j)
            offset = indices[rows] - blocks[j] * self.block
            image[rows], label[rows] = images[offset], labels[offset]
        return image, label

    def _fetch(self, block):
        rows = np.arange(block * self.block, min((block + 1) * self.block, len(self)))
        return self._pictures(self._consecutive(rows), rows)

    def _consecutive(self, rows):
        """Consecutive records, with one request for each of their files."""
        payloads = []
        for file in np.unique(self.index.file[rows]):
            records = rows[self.index.file[rows] == file]
            offset, length = self.index.offset[records], self.index.length[records]
            begin, end = int(offset[0]), int(offset[-1] + length[-1])
            data = self._storage.read(self.index.files[file], begin, end - begin)
            self._check(data, end - begin, records[0])
            spans = zip(offset - begin, length, strict=True)
            payloads += [data[o : o + n] for o, n in spans]
        return payloads

    def _check(self, data, length, i):
        if len(data) < length:
            raise UnreadablePicture(
                f"{self.describe(i)}: the file is shorter than when it was indexed. "
                "Copy or prepare it again, then start again."
            )

    def _pictures(self, payloads, indices):
        features = {self._image: tf.io.FixedLenFeature([], tf.string)}
        if self._label:
            features[self._label] = tf.io.FixedLenFeature([], tf.int64)
        parsed = self._parse(payloads, indices, features)
        image = parsed[self._image].numpy()
        if not self._label:
            return image, np.zeros(len(image), np.int32)
        return image, parsed[self._label].numpy().astype(np.int32)

    def _parse(self, payloads, indices, features):
        try:
            return tf.io.parse_example(tf.constant(payloads, tf.string), features)
        except tf.errors.InvalidArgumentError as error:
            if len(payloads) > 1:  # parse one by one to find the damaged one
                for payload, i in zip(payloads, indices, strict=True):
                    self._parse([payload], [i], features)
            names = " and ".join(f"'{name}'" for name in features)
            raise UnreadablePicture(
                f"{self.describe(indices[0])} is no tf.train.Example with {names}: "
                f"{error.message}"
            ) from error


class BlockCache:
    """The most recent blocks; each is fetched once, even if several threads need it.

    Most blocks of a step are needed by the next one, too. So if a read needs many, more
    than `capacity` are kept: one and a half times the number it needs.

    Args:
      fetch: number of a block -> its content; runs on the pool.
      capacity: the number of blocks that are kept.
      pool: runs the requests concurrently.
    """

    def __init__(
        self,
        fetch: Callable[[int], Any],
        capacity: int,
        pool: concurrent.futures.Executor,
    ):
        self._fetch, self._capacity, self._pool = fetch, capacity, pool
        self._futures: dict[int, concurrent.futures.Future] = {}  # most recent last
        self._lock = threading.Lock()

    def get(self, numbers: Sequence[int]) -> list[Any]:
        """The contents of the blocks; raises the error of a failed fetch."""
        with self._lock:
            futures = [self._touch(number) for number in numbers]
            capacity = max(self._capacity, len(numbers) * 3 // 2)
            while len(self._futures) > capacity:
                del self._futures[next(iter(self._futures))]
        return [future.result() for future in futures]

    def _touch(self, number):
        future = self._futures.pop(number, None)
        if future is None or (future.done() and future.exception()):
            future = self._pool.submit(self._fetch, number)
        self._futures[number] = future
        return future
