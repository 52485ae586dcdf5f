"""Reads PyTorch's files without PyTorch, and without running their content.

A file written by torch.save is a pickle, which may call any function. This reader only
allows the functions that make tensors. Objects that libraries save beside them (an
argparse.Namespace, a whole module) become placeholders that do nothing; anything else
is refused. The values of the tensors are outside the pickle. Since PyTorch 1.6 the file
is a zip archive with a file for each storage; in older files the storages follow the
pickle.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors

MAGIC = 0x1950A86A20F9469CFC6C  # of files older than PyTorch 1.6
BFLOAT16 = "bfloat16"  # not a dtype of NumPy
DTYPES = {  # by torch's and safetensors' names
    **{"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"},
    **{"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2"},
    **{"CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?"},
    **{"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4"},
    **{"I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "?"},
    **{"BFloat16Storage": BFLOAT16, "BF16": BFLOAT16},
}
PACKAGES = {  # whose objects are read as a Placeholder
    *("argparse", "collections", "numpy", "_codecs", "typing", "pathlib", "omegaconf"),
    *("torch", "torchvision", "timm", "lightly", "solo", "cnexp", "tsimcne"),
    *("lightning", "lightning_fabric", "pytorch_lightning"),
}


class Storage(NamedTuple):
    """A range of the elements stored under one key."""

    key: str
    dtype: str
    size: int
    offset: int = 0  # size and offset in elements, not bytes


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Placeholder:
    """Replaces any object, class or function; accepts any arguments, does nothing."""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_):
        return self

    def ignore(self, *_):
        pass

    __setstate__ = __setitem__ = append = extend = add = ignore


def read(path: str) -> dict[str, np.ndarray]:
    """All arrays of a file by their path in it, such as state_dict.conv1.weight.

    bfloat16 is converted to float32; other dtypes stay as they are.

    Args:
      path: of a file by any version of torch.save, or one that ends in .safetensors.

    Raises:
      ValueError: there is no such file, it is of another type, truncated or damaged,
        asks for something that a checkpoint does not need, or has no arrays.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        arrays = _reader(file)(file)
    except Exception as error:  # damaged pickles and archives raise many types
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if not arrays:
        raise ValueError(f"{path} has no arrays: it is no checkpoint.")
    return arrays


def metadata(path: str) -> dict[str, str]:
    """The metadata of a .safetensors file; {} of any other file."""
    if not path.endswith(".safetensors"):
        return {}
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata() or {}


def _reader(file: pathlib.Path) -> Callable:
    if file.suffix == ".safetensors":
        return _read_safetensors
    with file.open("rb") as stream:
        first = stream.read(4)
    if first[:2] == b"PK":
        return _read_zip
    if first[:1] == b"\x80":  # the start of any pickle
        return _read_legacy
    raise ValueError(
        "it is neither a zip archive nor a pickle; files by torch.save and "
        ".safetensors can be read."
    )


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    return {
        name: _decoded(x["data"], _dtype(x["dtype"])).reshape(x["shape"])
        for name, x in safetensors.deserialize(file.read_bytes())
    }


def _read_zip(file: pathlib.Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                "this zip archive has no data.pkl: it is not torch.save's."
            )
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            _check_order(archive.read(f"{root}byteorder") == b"little")
        tree = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        return _arrays(tree, lambda key: archive.read(f"{root}data/{key}"))


def _read_legacy(file: pathlib.Path) -> dict[str, np.ndarray]:
    with file.open("rb") as stream:
        if _Unpickler(stream).load() != MAGIC:
            raise ValueError("it is a pickle, but not by torch.save.")
        _, system = (_Unpickler(stream).load() for _ in range(2))
        _check_order(system["little_endian"])
        unpickler = _Unpickler(stream)
        tree, data = unpickler.load(), {}
        for key in _Unpickler(stream).load():
            count = int.from_bytes(stream.read(8), "little")
            data[key] = stream.read(count * _itemsize(unpickler.dtypes[key]))
    return _arrays(tree, data.__getitem__)


def _check_order(little: bool) -> None:
    if not little:
        raise ValueError("it was written on a big-endian machine.")


class _Unpickler(pickle.Unpickler):
    """Unpickles trees with a Tensor in place of each tensor."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(stream, encoding="utf-8")
        self.dtypes: dict[str, str] = {}  # by key of a storage

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and name in DTYPES:
            return name
        if module in ("torch._utils", "torch._tensor"):
            raise ValueError(f"tensors by {module}.{name} are not supported.")
        if module.partition(".")[0] in PACKAGES:
            return Placeholder
        raise ValueError(
            f"it asks for {module}.{name}, which no checkpoint needs. Loaded by "
            "PyTorch, such a file can run any code; nothing of it was run."
        )

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class, and its source
            return pid[1]
        _, type_name, key, _, size, *view = pid
        dtype = self.dtypes[key] = _dtype(type_name)
        if view and view[0]:
            _, offset, size = view[0]
            return Storage(key, dtype, size, offset)
        return Storage(key, dtype, size)


def _tensor(storage, offset, shape, strides, *_) -> Tensor:
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    inside = not count or (last < storage.size and count <= storage.size)
    if min((offset, *shape, *strides)) < 0 or not inside:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} reaches "
            f"outside its storage of {storage.size} numbers."
        )
    return Tensor(storage, offset, tuple(shape), tuple(strides))


ALLOWED: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("__builtin__", "set"): set,  # Python 2's name, which torch.save writes
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}


def _arrays(tree: Any, load: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """The tensors of a tree by dotted paths; load: key -> data of its storage."""
    arrays, data = {}, {}
    for name, x in _leaves(tree):
        if name in arrays:
            raise ValueError(f"two tensors have the name {name}.")
        key, dtype, size, offset = x.storage
        if key not in data:
            data[key] = _decoded(load(key), dtype)
        row = data[key][offset : offset + size]
        if row.size < size:
            raise ValueError(
                f"it is truncated: {name} has {row.size} of {size} numbers."
            )
        strides = [row.itemsize * stride for stride in x.strides]
        view = np.lib.stride_tricks.as_strided(row[x.offset :], x.shape, strides)
        arrays[name] = np.ascontiguousarray(view).reshape(x.shape)
    return arrays


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, child in items:
            yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _dtype(name: Any) -> str:
    if name not in DTYPES:
        raise ValueError(
            f"numbers of type {name} are not supported; there are: {', '.join(DTYPES)}."
        )
    return DTYPES[name]


def _itemsize(dtype: str) -> int:
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def _decoded(raw: bytes | bytearray, dtype: str) -> np.ndarray:
    """The elements in the bytes, without an incomplete one at the end."""
    whole = len(raw) // _itemsize(dtype)
    if dtype != BFLOAT16:
        return np.frombuffer(raw, dtype, whole)
    bits = np.frombuffer(raw, "<u2", whole).astype(np.uint32) << 16
    return bits.view(np.float32)
