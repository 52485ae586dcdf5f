"""Pictures in TFRecord files, read in any order.

A small set is held in memory. A large one on a disk is read record by record; in a
bucket, where a request costs more than many records, by blocks of neighbours of which
the latest stay in memory.
"""

import concurrent.futures
import threading

import numpy as np

from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfrecord_index import index_bytes, index_files
from simclr_jax.storage.files import storage_of

HOLD_BYTES = 2**28  # a set up to this size is held in memory, encoded
BLOCK_BYTES = 2**22  # about what one request to a bucket should bring
BLOCK_RECORDS = 256  # at most, so that small records still mix well
CACHE_BYTES = 2**30  # of blocks kept, or more where a batch is large; see Blocks
THREADS = 32


class Records:
    """A source (see `simclr_jax.data.sources.Source`) over TFRecord files.

    Args:
      files: paths of the files, in the order of their records.
      name: what the set and its split are called, "imagenet2012/train".
      image: the feature of `tf.train.Example` that holds the encoded picture.
      label: the feature with the class as int64; "" without labels.
      classes: number of classes; 0 without labels.
      class_names: their names, or nothing.
      places: folders where the index may be kept, the best first.
      storage: how to reach the files; by their paths if not given.
      hold_bytes, block_bytes, cache_bytes: see the module's constants.

    Raises:
      ValueError: a file is damaged or truncated.
    """

    def __init__(
        self,
        files,
        *,
        name: str,
        image: str = "image",
        label: str = "label",
        classes: int = 0,
        class_names: tuple[str, ...] = (),
        places=(),
        storage=None,
        hold_bytes: int = HOLD_BYTES,
        block_bytes: int = BLOCK_BYTES,
        cache_bytes: int = CACHE_BYTES,
    ):
        self.name, self.classes, self.class_names = name, classes, class_names
        self.block = 1
        self._image, self._label = image, label
        self._storage = storage or storage_of(files[0])
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        size = sum(stat.size for stat in self._storage.stats(files))
        if size <= hold_bytes:
            self._load = self._held(files)
            return
        self.index = index_files(
            files, title=name, places=places, storage=self._storage
        )
        self._load = self._load_records
        if self._storage.remote:
            mean = max(1, size // len(self))
            self.block = int(np.clip(block_bytes // mean, 1, BLOCK_RECORDS))
            capacity = max(1, cache_bytes // (mean * self.block))
            self._blocks = Blocks(self._fetch, capacity, self._pool)
            self._load = self._load_blocks

    def __len__(self) -> int:
        return len(self.index.length)

    def read(self, indices) -> dict[str, np.ndarray]:
        """Encoded pictures, {"image": object [n] of bytes, "label": int32 [n]}.

        Args:
          indices: int64 [n], in any order.

        Raises:
          ValueError: a record cannot be parsed, or the file has changed; names it.
        """
        image, label = self._load(np.asarray(indices))
        return {"image": image, "label": label} if self._label else {"image": image}

    def describe(self, index: int) -> str:
        return f"{self.name} record {index} ({self.index.describe(index)})"

    def _held(self, files):
        contents = dict(
            zip(files, self._pool.map(self._storage.read_all, files), strict=True)
        )
        self.index = index_bytes(files, contents)
        spans = zip(self.index.file, self.index.offset, self.index.length, strict=True)
        payloads = [contents[files[f]][o : o + n] for f, o, n in spans]
        image, label = self._parse(payloads, np.arange(len(payloads)))
        return lambda indices: (image[indices], label[indices])

    def _load_records(self, indices):
        """One read a record, shared among threads: a disk may be far away too."""
        parts = np.array_split(indices, min(THREADS, max(1, len(indices))))
        payloads = self._pool.map(lambda part: [*map(self._payload, part)], parts)
        return self._parse([p for part in payloads for p in part], indices)

    def _payload(self, i):
        file, offset, length = (int(a[i]) for a in self.index[1:])
        data = self._storage.read(self.index.files[file], offset, length)
        self._check(data, length, i)
        return data

    def _load_blocks(self, indices):
        which, inverse = np.unique(indices // self.block, return_inverse=True)
        image, label = np.empty(len(indices), object), np.empty(len(indices), np.int32)
        for j, (images, labels) in enumerate(self._blocks.get(which.tolist())):
            rows = np.flatnonzero(inverse == j)
            within = indices[rows] - which[j] * self.block
            image[rows], label[rows] = images[within], labels[within]
        return image, label

    def _fetch(self, block):
        """One block, by one request for each file that it reaches into."""
        rows = np.arange(block * self.block, min((block + 1) * self.block, len(self)))
        payloads = []
        for file in np.unique(self.index.file[rows]):
            own = rows[self.index.file[rows] == file]
            offset, length = self.index.offset[own], self.index.length[own]
            start, end = int(offset[0]), int(offset[-1] + length[-1])
            data = self._storage.read(self.index.files[file], start, end - start)
            self._check(data, end - start, own[0])
            spans = zip(offset - start, length, strict=True)
            payloads += [data[o : o + n] for o, n in spans]
        return self._parse(payloads, rows)

    def _check(self, data, length, i):
        if len(data) < length:
            raise UnreadablePicture(
                f"{self.describe(i)}: the file is shorter than when it was indexed. "
                "Copy or prepare it again, then start again."
            )

    def _parse(self, payloads, indices):
        features = {self._image: tf.io.FixedLenFeature([], tf.string)}
        if self._label:
            features[self._label] = tf.io.FixedLenFeature([], tf.int64)
        try:
            parsed = tf.io.parse_example(tf.constant(payloads, tf.string), features)
        except tf.errors.InvalidArgumentError as error:
            if len(payloads) > 1:  # parse one by one to find the culprit
                for payload, i in zip(payloads, indices, strict=True):
                    self._parse([payload], [i])
            wanted = " and ".join(f"'{name}'" for name in features)
            raise UnreadablePicture(
                f"{self.describe(indices[0])} is no tf.train.Example with {wanted}: "
                f"{error.message}"
            ) from error
        image = parsed[self._image].numpy()
        if not self._label:
            return image, np.zeros(len(image), np.int32)
        return image, parsed[self._label].numpy().astype(np.int32)


class Blocks:
    """The latest blocks, fetched once each even when several threads want them.

    A block that a step has begun is mostly needed by the next one, too. So more than
    `capacity` stay where one read asks for many: half as many again as it asks for.

    Args:
      fetch: number of a block -> its content, run on the pool.
      capacity: how many blocks stay.
      pool: where the requests run side by side.
    """

    def __init__(self, fetch, capacity: int, pool):
        self._fetch, self._capacity, self._pool = fetch, capacity, pool
        self._kept: dict[int, concurrent.futures.Future] = {}  # the latest last
        self._lock = threading.Lock()

    def get(self, numbers) -> list:
        """The contents of the blocks; raises what the fetch of one of them raised."""
        with self._lock:
            futures = [self._touch(number) for number in numbers]
            capacity = max(self._capacity, len(numbers) * 3 // 2)
            while len(self._kept) > capacity:
                del self._kept[next(iter(self._kept))]
        return [future.result() for future in futures]

    def _touch(self, number):
        future = self._kept.pop(number, None)
        if future is None or (future.done() and future.exception()):
            future = self._pool.submit(self._fetch, number)
        self._kept[number] = future
        return future
