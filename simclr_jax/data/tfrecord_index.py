"""The position of each record in a set of TFRecord files, computed once and saved.

A TFRecord file is a chain: length (uint64), masked CRC-32C of those 8 bytes, the
payload, masked CRC-32C of the payload. Reading only the lengths gives all positions.
"""

import concurrent.futures
import hashlib
import io
import os
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from simclr_jax.data.errors import STORAGE
from simclr_jax.storage.errors import BucketUnavailable
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.paths import cache_folder

HEADER, FOOTER = 12, 4  # bytes around a payload
CHUNK = 2**23  # bytes of a request to a bucket; whole files are read
THREADS = 16
POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected


class Index(NamedTuple):
    """The records of some files, in the files' order.

    Attributes:
      files: the paths.
      file: int32 [n], the number of a record's file.
      offset: int64 [n], of its payload in the file, in bytes.
      length: int64 [n], of its payload, in bytes.
    """

    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def describe(self, i: int) -> str:
        name = os.path.basename(self.files[self.file[i]])
        return f"{name}, byte {self.offset[i] - HEADER}"


def index_files(
    files: Sequence[str],
    *,
    title: str,
    index_folders: Sequence[str],
    storage: Any = None,
) -> Index:
    """The saved index of TFRecord files; it is built and saved if there is none.

    Its name has a hash of the files' names, sizes and times, so that a changed file
    gets a new index. Processes that build it at once all write the same content.

    Args:
      files: paths, all on one storage.
      title: describes the files, in messages and in the index's name.
      index_folders: where to look for the index and to write it, in this order; the
        user's cache folder is always the last.
      storage: of the files; by default that of their paths.

    Raises:
      ValueError: a file is damaged or truncated; the message has its path and the byte.
    """
    files = tuple(files)
    storage = storage or storage_of(files[0])
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        stats = [(stat.size, stat.version) for stat in storage.stats(files)]
        names = [os.path.basename(path) for path in files]
        key = hashlib.sha256(repr((names, stats)).encode()).hexdigest()[:16]
        name = f"simclr_jax.{title.replace('/', '-')}.{key}.npz"
        folders = (*index_folders, cache_folder())
        paths = [os.path.join(folder, name) for folder in folders]
        for path in paths:
            saved = _load(path, len(files))
            if saved is not None:
                return _assemble(files, *saved)
        sizes = [size for size, _ in stats]
        lengths = _build(pool, storage, files, sizes, title)
    counts = np.array([len(part) for part in lengths], np.int64)
    lengths = np.concatenate(lengths)
    path = _save(paths, counts, lengths)
    print(f"{title}: {len(lengths)} records, index in {path}.", file=sys.stderr)
    return _assemble(files, counts, lengths)


def index_bytes(files: Sequence[str], contents: Mapping[str, bytes]) -> Index:
    """The index of files with known contents, {path: bytes}."""
    lengths = [_scan_bytes(path, contents[path]) for path in files]
    counts = np.array([len(part) for part in lengths], np.int64)
    return _assemble(tuple(files), counts, np.concatenate(lengths))


def _scan_bytes(path, data):
    def read(offset, length):
        return data[offset : offset + length]

    return scan(read, path, len(data), HEADER)


def scan(
    read: Callable[[int, int], bytes], path: str, size: int, chunk: int
) -> np.ndarray:
    """The payload lengths of the records of one file, int64 [n].

    Args:
      read: (offset, length) -> bytes of the file.
      path: for messages.
      size: of the file, in bytes.
      chunk: bytes to read at once, at least the header's 12.

    Raises:
      ValueError: a checksum does not match, or the file ends inside a record.
    """
    lengths, offset, begin, buffer = [], 0, 0, b""
    while offset < size:
        if offset - begin + HEADER > len(buffer):
            begin, buffer = offset, read(offset, chunk)
        header = buffer[offset - begin : offset - begin + HEADER]
        if len(header) == HEADER and _masked_crc(header[:8]) != header[8:]:
            raise ValueError(
                f"{path} is damaged at byte {offset}, or it is no TFRecord file: the "
                "checksum of a record's length does not match. Copy or prepare it "
                "again."
            )
        end = size + 1
        if len(header) == HEADER:
            lengths.append(struct.unpack_from("<Q", header)[0])
            end = offset + HEADER + lengths[-1] + FOOTER
        if end > size:
            raise ValueError(
                f"{path} is truncated: it ends at byte {size}, inside the record that "
                f"begins at byte {offset}. Copy or prepare it again."
            )
        offset = end
    return np.array(lengths, np.int64)


def _build(pool, storage, files, sizes, title):
    chunk = CHUNK if storage.remote else HEADER
    start = time.monotonic()

    def scan_file(path, size):
        def read(offset, length):  # TensorStore fails for reads beyond the end
            return storage.read(path, offset, min(length, size - offset))

        return scan(read, path, size, chunk)

    print(f"{title}: indexing {len(files)} files, once ...", file=sys.stderr)
    results = pool.map(scan_file, files, sizes)
    bar = tqdm(results, total=len(files), unit="file", disable=None)  # on a terminal
    lengths = list(bar)
    seconds = time.monotonic() - start
    print(f"{title}: indexed in {seconds:.1f} s.", file=sys.stderr)
    return lengths


def _assemble(files, counts, lengths):
    stride = lengths + HEADER + FOOTER
    end = np.cumsum(stride)
    file = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    first = np.concatenate([[0], end])[np.cumsum(counts) - counts]
    return Index(files, file, end - stride - first[file] + HEADER, lengths)


def _load(path, files):
    try:
        data = storage_of(path).read_all(path)
        with np.load(io.BytesIO(data)) as arrays:
            counts, lengths = arrays["counts"], arrays["lengths"]
    except BucketUnavailable:
        raise
    except (*STORAGE, ValueError, KeyError, zipfile.BadZipFile):
        return None  # missing, not readable, or truncated on a full disk
    good = len(counts) == files and counts.sum() == len(lengths)
    return (counts, lengths) if good else None


def _save(paths, counts, lengths):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=counts, lengths=lengths)
    for path in paths:
        try:
            storage_of(path).write(path, buffer.getvalue())
        except BucketUnavailable:
            raise
        except STORAGE:
            continue  # read-only: the next folder
        return path
    return "memory only: no folder could be written"


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked)
