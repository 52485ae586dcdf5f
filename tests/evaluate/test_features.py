"""Features of every picture once, in order, with one compilation, on any mesh."""

import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.evaluate.features import (
    FrozenEncoder,
    check,
    embedder,
    extract,
    in_blocks,
)
from simclr_jax.sharding import make_mesh
from tests.tools import with_devices

F, D, SIDE = 6, 3, 4


def encode(params, stats, images):
    x = images.reshape(len(images), -1).astype(jnp.float32) / 255
    return jnp.matmul(x, params["w"], precision="highest") + stats["b"]


def h_and_z(outputs):
    return {"h": outputs[None], "z": outputs[None, :, :D] * 2}


def encoder(encode=encode):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(SIDE * SIDE * 3, F)).astype(np.float32)
    stats = {"b": np.arange(F, dtype=np.float32)}
    return FrozenEncoder(encode, h_and_z, {"w": w}, stats)


def pictures(n):
    return np.random.default_rng(1).integers(0, 256, (n, SIDE, SIDE, 3)).astype("u1")


def batches(n, size, label=True, process=0, processes=1):
    """In index order, the last one filled up with rows of picture 0, not valid."""
    x, rows = pictures(n), size // processes
    for begin in range(process * rows, n + process * rows, size):
        index = np.arange(begin, begin + rows)
        valid, index = index < n, np.where(index < n, index, 0).astype(np.int32)
        batch = Batch(index=index, valid=valid, views=(x[index],))
        yield batch.replace(label=(index % 10).astype(np.int32)) if label else batch


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("n", [1, 37, 48])
def test_every_picture_once_and_in_order(n, devices):
    mesh = make_mesh(jax.devices()[:devices])
    features = extract(encoder(), batches(n, 16), mesh)
    params, stats = encoder()[2:]
    h = pictures(n).reshape(n, -1) / 255.0 @ params["w"] + stats["b"]
    assert list(features.values) == ["h", "z"]
    np.testing.assert_allclose(features.values["h"], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features.values["z"], 2 * h[:, :D], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.index, np.arange(n))
    np.testing.assert_array_equal(features.label, np.arange(n) % 10)
    leaves = jax.tree.leaves(features)
    assert all(isinstance(x, np.ndarray) for x in leaves)
    assert [x.dtype for x in leaves] == [np.float32, np.float32, np.int32, np.int32]


def test_pictures_without_labels_give_an_empty_label_array():
    features = extract(encoder(), batches(5, 8, label=False), make_mesh())
    assert features.label.shape == (0,)
    assert features.label.dtype == np.int32
    assert features.values["h"].shape == (5, F)


def test_compiles_once_over_batches_and_calls():
    traced = []

    def counted(params, stats, images):
        traced.append(images.shape)
        return encode(params, stats, images)

    for n in (40, 24):
        extract(encoder(counted), batches(n, 8), make_mesh())
    assert traced == [(8, SIDE, SIDE, 3)]


def test_only_features_move_between_devices():
    """The encoder runs where the pictures are; h and z are gathered afterwards."""
    mesh = make_mesh()
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batch = jax.device_put(next(batches(16, 16)), rows)
    plan = str(embedder(mesh).lower(*encoder(), batch).compile().as_text())
    moved = [line for line in plan.splitlines() if "all-gather(" in line]
    assert moved
    assert not any("u8[" in line or f",{SIDE},3" in line for line in moved)


def test_a_split_without_pictures_is_an_error():
    with pytest.raises(ValueError, match="no pictures"):
        extract(encoder(), [], make_mesh())


def test_blocks_contain_all_rows_and_the_fill_value():
    mesh = make_mesh(jax.devices()[:4])
    x = np.arange(10, dtype=np.int32)
    blocks = in_blocks(x, 6, mesh, fill=-1)  # 6 rounds up to 8, which 4 divides
    assert blocks.shape == (2, 8)
    assert blocks.sharding.shard_shape(blocks.shape) == (2, 2)
    np.testing.assert_array_equal(blocks.ravel(), [*x, *[-1] * 6])
    assert in_blocks(x, 4096, mesh).shape == (1, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_label": np.empty(0, np.int32)}, "train split has no labels"),
        ({"test_label": np.empty(0, np.int32)}, "test split has no labels"),
        ({"test_label": np.array([0, 3])}, "from 0 to 3, but there are 3"),
        ({"test_label": np.array([0, -1])}, "from -1 to 0"),
        ({"train_label": np.array([0])}, r"got \(2, 4\) and \(1,\)"),
        ({"test": np.zeros((2, 5), np.float32)}, "width 4 .* width 5"),
        ({"train": np.full((2, 4), np.nan, np.float32)}, "diverged"),
        ({"train": np.full((2, 4), np.inf, np.float32)}, "diverged"),
    ],
)
def test_check_reports_the_error(change, message):
    good = {
        "train": np.zeros((2, 4), np.float32),
        "train_label": np.array([0, 1]),
        "test": np.zeros((2, 4), np.float32),
        "test_label": np.array([1, 2]),
        "classes": 3,
    }
    check(**good)
    with pytest.raises((ValueError, FloatingPointError), match=message):
        check(**good | change)


@pytest.mark.long
def test_two_processes_each_get_all_rows(tmp_path):
    """Two processes with two devices each against this one."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = with_devices(2)
    root = pathlib.Path(__file__).parents[2]
    env |= {"PYTHONPATH": str(root)}
    jobs = [
        subprocess.Popen(
            [sys.executable, __file__, str(port), str(i), str(tmp_path)],
            env=env,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors.decode()
    alone = extract(encoder(), batches(37, 16), make_mesh())
    for i in range(2):
        arrays = np.load(tmp_path / f"{i}.npz")
        for name, x in alone.values.items():
            np.testing.assert_allclose(arrays[name], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(arrays["label"], alone.label)
        np.testing.assert_array_equal(arrays["index"], alone.index)


def process(port, i, folder):
    jax.distributed.initialize(f"localhost:{port}", 2, int(i))
    rows = batches(37, 16, process=int(i), processes=2)
    values, label, index = extract(encoder(), rows, make_mesh())
    arrays: Any = {"label": label, "index": index, **values}
    np.savez(pathlib.Path(folder) / f"{i}.npz", **arrays)


if __name__ == "__main__":
    process(*sys.argv[1:])
