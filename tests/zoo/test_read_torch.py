"""Reading files of torch.save, written by the tests, and refusing others."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from simclr_jax.zoo.torch.read import MAGIC, read


class Global:
    """Pickles as a function or class of some module."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise RuntimeError("never to be called")


class Stored:
    """Pickles as a storage, by a persistent id."""

    def __init__(self, storage_type, key, size, *view):
        self.pid = ("storage", Global("torch", storage_type), key, "cpu", size, *view)


class Call:
    """Pickles as the result of a call, possibly with a state that is set afterwards."""

    def __init__(self, function, *args, state=None):
        self.reduced: tuple[Any, ...] = (function, args)
        if state is not None:
            self.reduced += (state,)

    def __reduce__(self):
        return self.reduced


class Writer(pickle._Pickler):
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            # pyrefly: ignore[missing-attribute]  # not in the stubs of pickle
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        else:
            # pyrefly: ignore[missing-attribute]
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Stored) else None


def pickled(tree) -> bytes:
    stream = io.BytesIO()
    Writer(stream, protocol=2).dump(tree)
    return stream.getvalue()


def tensor(storage, shape, strides, offset=0):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(rebuild, storage, offset, shape, strides, False, hooks)


def write_zip(path, tree, storages, order=b"little"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(tree))
        archive.writestr("archive/byteorder", order)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)


def write_legacy(path, tree, storages, itemsize=4, little=True):
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    with path.open("wb") as stream:
        for part in (MAGIC, 1001, system, tree, list(storages)):
            stream.write(pickled(part))
        for raw in storages.values():
            stream.write(struct.pack("<q", len(raw) // itemsize) + raw)


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
ROW = np.arange(12, dtype=np.float32) / 7
STORAGE = Stored("FloatStorage", "0", 12, None)


@WRITERS
def test_arrays_have_their_path_as_name(write, tmp_path):
    """Views of one storage: all, transposed, a part, a single number, empty."""
    parameter = Global("torch._utils", "_rebuild_parameter")
    tree = {
        "state_dict": {
            "all": tensor(STORAGE, (3, 4), (4, 1)),
            "transposed": Call(parameter, tensor(STORAGE, (4, 3), (1, 4)), True, {}),
            "part": tensor(STORAGE, (2, 2), (4, 1), offset=5),
            "number": tensor(STORAGE, (), (), offset=11),
            "empty": tensor(STORAGE, (0, 3), (3, 1)),
        },
        "optimizer": {"state": {0: [tensor(STORAGE, (2,), (6,))]}, "lr": 0.1},
        "args": Call(Global("argparse", "Namespace"), state={"queue": 3}),
        "epoch": 200,
    }
    write(tmp_path / "a.pth", tree, {"0": ROW.tobytes()})
    arrays = read(str(tmp_path / "a.pth"))
    grid = ROW.reshape(3, 4)
    expected = {
        "state_dict.all": grid,
        "state_dict.transposed": grid.T,
        "state_dict.part": grid[1:, 1:3],
        "state_dict.number": ROW[11],
        "state_dict.empty": np.zeros((0, 3), np.float32),
        "optimizer.state.0.0": ROW[::6],
    }
    assert arrays.keys() == expected.keys()
    for name, x in expected.items():
        assert arrays[name].shape == np.shape(x)
        np.testing.assert_array_equal(arrays[name], x)


def test_views_of_a_storage_in_older_files(tmp_path):
    part = Stored("FloatStorage", "0", 12, ("0", 4, 6))
    tree = {"x": tensor(part, (2, 2), (3, 1), offset=1)}
    write_legacy(tmp_path / "a.pth", tree, {"0": ROW.tobytes()})
    x = read(str(tmp_path / "a.pth"))["x"]
    np.testing.assert_array_equal(x, ROW[4:10].reshape(2, 3)[:, 1:])


@pytest.mark.parametrize(
    ("storage_type", "dtype"),
    [
        ("DoubleStorage", "f8"),
        ("HalfStorage", "f2"),
        ("LongStorage", "i8"),
        ("IntStorage", "i4"),
        ("ShortStorage", "i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
    ],
)
def test_types(storage_type, dtype, tmp_path):
    x = np.array([0, 1, 3, 2], dtype)
    tree = {"x": tensor(Stored(storage_type, "0", 4), (4,), (1,))}
    write_zip(tmp_path / "a.pth", tree, {"0": x.tobytes()})
    (array,) = read(str(tmp_path / "a.pth")).values()
    assert array.dtype == x.dtype
    np.testing.assert_array_equal(array, x)


def test_bfloat16_is_converted_to_float32(tmp_path):
    """The upper half of a float32's bits."""
    bits = np.array([0x3F80, 0xC020, 0x0000], "<u2")  # 1, -2.5, 0
    tree = {"x": tensor(Stored("BFloat16Storage", "0", 3), (3,), (1,))}
    write_zip(tmp_path / "a.pth", tree, {"0": bits.tobytes()})
    header = {"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    header = json.dumps(header).encode()
    raw = struct.pack("<Q", len(header)) + header + bits.tobytes()
    (tmp_path / "a.safetensors").write_bytes(raw)
    for name in ("a.pth", "a.safetensors"):
        x = read(str(tmp_path / name))["x"]
        assert x.dtype == np.float32
        assert x.tolist() == [1, -2.5, 0]


def test_safetensors(tmp_path):
    arrays = {"a.b": ROW.reshape(3, 4), "n": np.array(7)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    actual = read(str(tmp_path / "a.safetensors"))
    assert actual.keys() == arrays.keys()
    for name, x in arrays.items():
        assert actual[name].shape == x.shape
        np.testing.assert_array_equal(actual[name], x)


# Objects beside the tensors.


@WRITERS
def test_objects_of_libraries_are_replaced_by_placeholders(write, tmp_path):
    """A module, a list of modules, a dictionary of a special type."""
    state = {"weight": tensor(STORAGE, (12,), (1,))}
    module = Call(Global("torch.nn.modules.linear", "Linear"), state=state)
    listed = Call(Global("torch.nn.modules.container", "ModuleList"))
    listed.reduced = (*listed.reduced, None, iter([module, module]))
    config = Call(Global("omegaconf.dictconfig", "DictConfig"))
    config.reduced = (*config.reduced, None, None, iter([("lr", 0.1)]))
    rate = Call(Global("numpy.core.multiarray", "scalar"), "f8", b"12345678")
    counter = Call(Global("collections", "Counter"), {30: 1})
    numbers = Call(Global("__builtin__", "set"), [1, 2])
    tree = {
        "model": [module, listed, config, rate, counter, numbers],
        "model_sd": {"weight": tensor(STORAGE, (12,), (1,))},
    }
    write(tmp_path / "a.pth", tree, {"0": ROW.tobytes()})
    (name,) = read(str(tmp_path / "a.pth"))
    assert name == "model_sd.weight"


class Malicious:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@WRITERS
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, ".system"), (eval, "builtins.eval"), (getattr, "builtins.getattr")],
)
def test_other_functions_are_refused_and_not_run(write, function, name, tmp_path):
    mark = tmp_path / "mark"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    malicious = Malicious(function, argument, *["real"] * (function is getattr))
    tree = {"x": tensor(STORAGE, (12,), (1,)), "y": malicious}
    write(tmp_path / "a.pth", tree, {"0": ROW.tobytes()})
    with pytest.raises(ValueError, match=rf"asks for \w*\{name[name.index('.') :]}, "):
        read(str(tmp_path / "a.pth"))
    assert not mark.exists()


def test_functions_in_the_first_pickle_are_refused(tmp_path):
    mark = tmp_path / "mark"
    malicious = pickle.dumps(Malicious(os.system, f"touch {mark}"), 2)
    (tmp_path / "a.pth").write_bytes(malicious)
    with pytest.raises(ValueError, match=r"system, which no checkpoint needs"):
        read(str(tmp_path / "a.pth"))
    assert not mark.exists()


# Damaged and foreign files.


@WRITERS
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3, 4), (4, 1), 1),
        ((3, 4), (5, 1), 0),
        ((12,), (1,), -1),
        ((2, 2), (-1, 1), 4),
        ((-1, 4), (4, 1), 0),
        ((10**9, 12), (0, 1), 0),
        ((3, 4), (4,), 0),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    write, shape, strides, offset, tmp_path
):
    tree = {"x": tensor(STORAGE, shape, strides, offset)}
    write(tmp_path / "a.pth", tree, {"0": ROW.tobytes()})
    with pytest.raises(ValueError, match=r"a\.pth cannot be read: "):
        read(str(tmp_path / "a.pth"))


@WRITERS
def test_a_truncated_storage(write, tmp_path):
    tree = {"x": tensor(STORAGE, (12,), (1,))}
    write(tmp_path / "a.pth", tree, {"0": ROW[:11].tobytes()})
    with pytest.raises(ValueError, match="truncated: x has 11 of 12 numbers"):
        read(str(tmp_path / "a.pth"))


@WRITERS
def test_a_file_truncated_anywhere(write, tmp_path):
    tree = {"x": tensor(STORAGE, (12,), (1,))}
    path = tmp_path / "a.pth"
    write(path, tree, {"0": ROW.tobytes()})
    content = path.read_bytes()
    for length in (3, 20, 60, 120, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.pth cannot be read: "):
            read(str(path))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "neither a zip"),
        (b"\x89PNG....", "neither a zip"),
        (pickle.dumps({"x": 1}, 2), "not by torch.save"),
    ],
)
def test_other_files(raw, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read(str(tmp_path / "a.pth"))


def test_unsupported_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("word/document.xml", "")
    write_zip(tmp_path / "empty", {"epoch": 3, "names": ["a"]}, {})
    write_zip(tmp_path / "big", {}, {}, order=b"big")
    write_legacy(tmp_path / "older", {}, {}, little=False)
    quantised = {"x": tensor(Stored("QInt8Storage", "0", 4), (4,), (1,))}
    write_zip(tmp_path / "quantised", quantised, {"0": b"1234"})
    sparse = {"x": Call(Global("torch._utils", "_rebuild_sparse_tensor"), 0)}
    write_zip(tmp_path / "sparse", sparse, {})
    (tmp_path / "a.safetensors").write_bytes(b"12")
    for name, message in (
        ("nowhere", "There is no file"),
        ("zip", "not torch.save's"),
        ("empty", "has no arrays"),
        ("big", "big-endian"),
        ("older", "big-endian"),
        ("quantised", "are not supported"),
        ("sparse", "_rebuild_sparse_tensor are not supported"),
        ("a.safetensors", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            read(str(tmp_path / name))


@pytest.mark.zoo
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_written_by_pytorch(zipped, tmp_path):
    """A network, its optimiser, numbers of all types, arguments, a module."""
    import argparse

    import torch

    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    rule = torch.optim.SGD(net.parameters(), lr=np.float64(0.1), momentum=0.9)
    with warnings.catch_warnings():  # a CUDA build misses its driver
        warnings.simplefilter("ignore")
        net(torch.ones(2, 3)).sum().backward()
    rule.step()
    types = (
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int8",
        "uint8",
        "bool",
    )
    base = torch.arange(24.0).reshape(4, 6)
    numbers = {t: base.to(getattr(torch, t))[1:, ::2] for t in types}
    tree = {
        "state_dict": net.state_dict(),
        "optimizer": rule.state_dict(),
        "args": argparse.Namespace(arch="resnet50", lr=0.03),
        "more": [numbers, base.T],
        "best": np.float64(0.5),
    }
    if zipped:
        tree["model"] = net
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tree, tmp_path / "a", _use_new_zipfile_serialization=zipped)
    arrays = read(str(tmp_path / "a"))
    expected = {f"state_dict.{name}": x for name, x in net.state_dict().items()}
    expected |= {
        f"more.0.{t}": x.float() if t == "bfloat16" else x for t, x in numbers.items()
    }
    expected |= {"more.1": base.T}
    for i, state in enumerate(rule.state_dict()["state"].values()):
        expected |= {f"optimizer.state.{i}.momentum_buffer": state["momentum_buffer"]}
    assert arrays.keys() == expected.keys()
    for name, x in expected.items():
        assert arrays[name].dtype == x.numpy().dtype
        np.testing.assert_array_equal(arrays[name], x.numpy())
