"""Imports of foreign files as work directories that all commands accept."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import fingerprint
from simclr_jax.cli import pretrain
from simclr_jax.experiment import importing
from simclr_jax.experiment.workdir import data_sizes
from simclr_jax.tree import by_path
from simclr_jax.zoo import name_map
from simclr_jax.zoo.torch.names import linear, under, vit
from tests.tools import plain
from tests.zoo import torch_arrays
from tests.zoo.workdirs import saved_run

CHANGES = [("data.name", "cifar10_mini"), ("data.eval_split", "test")]
CHANGES += [("data.batch_size", "32"), ("method.hidden", "16"), ("method.out", "8")]
CLASSES = 5

pytestmark = pytest.mark.usefixtures("in_process")


def noise(path, shape):
    """Random numbers that depend on the path."""
    seed = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def vit_mini():
    """Random arrays of a vit_mini with a classifier, by timm's names."""
    arrays = torch_arrays.vit_mini("") | torch_arrays.dense("head", CLASSES, 128)
    return {name: noise(name, x.shape) for name, x in arrays.items()}


def save(path, arrays):
    safetensors.numpy.save_file(arrays, path)
    return str(path)


def test_the_arrays_of_the_file_are_those_of_the_checkpoint(tmp_path):
    arrays = vit_mini()
    source = save(tmp_path / "a.safetensors", arrays)
    workdir = tmp_path / "run"
    result = importing.import_checkpoint("timm", source, str(workdir), CHANGES)
    assert result.num_arrays == len(arrays)
    assert result.unused == {}
    layers = result.newly_initialised
    assert {layer.split("/")[1] for layer in layers} >= {"projector"}
    assert not [layer for layer in layers if "encoder" in layer or "probe" in layer]
    assert result.sha256 == fingerprint.of_file(source)
    content = json.loads((workdir / "import.json").read_text())
    assert content == result.to_json()
    keys = ("format", "source", "sha256", "config", "taken", "fresh", "left", "notes")
    assert tuple(content) == keys

    saved = saved_run(workdir)
    c = saved.config
    assert (c.encoder.name, c.encoder.patch, c.data.image_size) == ("vit_mini", 4, 32)
    assert c.encoder.mean == (0.485, 0.456, 0.406)
    assert c.encoder.dtype == "float32"
    assert data_sizes(workdir)["classes"] == CLASSES
    assert saved.step == saved.run.total == saved.state.step
    ours = {k: np.asarray(x) for k, x in by_path(saved.state.params).items()}
    namings = {"encoder": vit, "probe": under("head.", linear)}
    entries: dict[str, Any] = {}
    for path in ours:
        part, _, inner = path.partition("/")
        if part in namings:
            entries[path] = namings[part](inner)
    back = name_map.from_flax(entries, ours)
    assert back.keys() == arrays.keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(back[name], x)


@pytest.mark.long
def test_a_run_can_be_initialised_from_an_import(tmp_path):
    """t-SimCNE's second stage, from a supervised encoder."""
    arrays = {
        name: 0.01 * noise(name, x.shape) if x.ndim == 4 else x
        for name, x in torch_arrays.resnet18("", kernel=3).items()
    }
    source = save(tmp_path / "net.safetensors", arrays)
    importing.import_checkpoint("timm", source, f"{tmp_path}/imported", CHANGES)
    changes = ["data.name=cifar10_mini", "data.batch_size=16", "steps=1", "optim.lr=0"]
    pretrain.main(
        [
            "--config",
            f"configs/tsimcne_cifar10.py:stage=2,init_from={tmp_path}/imported",
            f"--workdir={tmp_path}/map",
            *(f"--config.{change}" for change in changes),
        ]
    )
    state = saved_run(tmp_path / "map").state
    kernel = state.params["encoder"]["layer4_1"]["conv2"]["kernel"]
    expected = arrays["layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


def test_an_import_beside_a_masked_optimiser(tmp_path):
    """DINO's AdamW has placeholders in its state, which are not leaves."""
    arrays = {k: x for k, x in vit_mini().items() if not k.startswith("head.")}
    source = save(tmp_path / "a.safetensors", arrays)
    changes = [*CHANGES, ("method.prototypes", "16"), ("augment.local_size", "16")]
    workdir = tmp_path / "run"
    result = importing.import_checkpoint("dino", source, str(workdir), changes)
    assert result.num_arrays == 2 * len(arrays)
    state = saved_run(workdir).state
    for params in (state.params, state.target_params):
        positions = params["encoder"]["positions"]
        np.testing.assert_array_equal(positions, arrays["pos_embed"])


def test_a_file_that_does_not_match_leaves_no_work_directory(tmp_path):
    arrays = vit_mini()
    del arrays["blocks.3.attn.proj.bias"]
    source = save(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match=r"Missing: blocks\.3\.attn\.proj\.bias"):
        importing.import_checkpoint("timm", source, str(tmp_path / "run"), CHANGES)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_import_can_be_repeated(tmp_path, monkeypatch):
    source = save(tmp_path / "a.safetensors", vit_mini())
    with monkeypatch.context() as patch:
        patch.setattr(importing.Checkpoints, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            importing.import_checkpoint("timm", source, str(tmp_path / "run"), CHANGES)
    workdir = str(tmp_path / "run")
    assert importing.import_checkpoint("timm", source, workdir, CHANGES).num_arrays


def test_a_work_directory_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not empty; choose another --workdir"):
        importing.import_checkpoint("timm", "a.pth", str(tmp_path / "run"), CHANGES)


def test_an_archive_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--source=net.zip: unpack it"):
        importing.import_checkpoint("timm", "net.zip", str(tmp_path / "run"), [])


def test_a_missing_source_in_a_bucket_is_an_error(tmp_path, cloud):
    with pytest.raises(ValueError, match=r"net.pth: there is no such file"):
        importing.import_checkpoint(
            "timm", "gs://bucket/net.pth", str(tmp_path / "run"), []
        )


def test_an_unknown_format_is_an_error_with_the_nearest_name(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'timm'"):
        importing.import_checkpoint("tim", "a.pth", str(tmp_path / "run"), [])


def test_an_import_from_a_bucket_into_a_bucket(tmp_path, cloud):
    source = save(tmp_path / "a.safetensors", vit_mini())
    cloud.put("bucket", "nets/a.safetensors", (tmp_path / "a.safetensors").read_bytes())
    workdirs = "gs://bucket/run", str(tmp_path / "run")
    remote = importing.import_checkpoint(
        "timm", "gs://bucket/nets/a.safetensors", workdirs[0], CHANGES
    )
    local = importing.import_checkpoint("timm", source, workdirs[1], CHANGES)
    assert remote == local
    states = [saved_run(workdir).state for workdir in workdirs]
    for a, b in zip(*map(plain, states), strict=True):
        np.testing.assert_array_equal(a, b)
