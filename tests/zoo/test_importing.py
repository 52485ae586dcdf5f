"""A foreign file becomes a work directory that the doors take for their own."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import sharding
from simclr_jax.cli import pretrain
from simclr_jax.experiment import build, config, importing
from simclr_jax.train.checkpoint import restore_latest
from simclr_jax.tree import by_path
from simclr_jax.zoo import name_map
from simclr_jax.zoo.torch.names import linear, under, vit
from tests.tools import plain
from tests.zoo import torch_arrays

CHANGES = [("data.name", "cifar10_mini"), ("data.eval_split", "test")]
CHANGES += [("data.batch_size", "32"), ("method.hidden", "16"), ("method.out", "8")]
CLASSES = 5

pytestmark = pytest.mark.usefixtures("in_process")


def numbers(path, shape):
    """Others for each path."""
    seed = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def vit_mini():
    """Arrays by timm's names, with a classifier."""
    arrays = torch_arrays.vit_mini("") | torch_arrays.dense("head", CLASSES, 128)
    return {name: numbers(name, x.shape) for name, x in arrays.items()}


def save(path, arrays):
    safetensors.numpy.save_file(arrays, path)
    return str(path)


def test_what_went_in_comes_out(tmp_path):
    arrays = vit_mini()
    source = save(tmp_path / "a.safetensors", arrays)
    workdir = tmp_path / "run"
    said = importing.bring("timm", source, str(workdir), CHANGES)
    assert said.taken == len(arrays)
    assert said.left == {}
    assert {layer.split("/")[1] for layer in said.fresh} >= {"projector"}
    assert not [layer for layer in said.fresh if "encoder" in layer or "probe" in layer]
    assert (
        said.sha256
        == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    )
    assert json.loads((workdir / "import.json").read_text()) == said._asdict()

    c = config.restored(build.read_saved(workdir))
    assert (c.encoder.name, c.encoder.patch, c.data.image_size) == ("vit_mini", 4, 32)
    assert c.encoder.mean == (0.485, 0.456, 0.406)
    assert c.encoder.dtype == "float32"
    assert build.sizes(workdir)["classes"] == CLASSES
    job = build.assemble(c, sharding.make_mesh(), **build.sizes(workdir))
    state, step = restore_latest(workdir / "checkpoints", build.abstract(job))
    assert step == job.total == state.step
    ours = {k: np.asarray(x) for k, x in by_path(state.params).items()}
    places = {}
    for path in ours:
        part, _, inside = path.partition("/")
        if part in ("encoder", "probe"):
            naming = {"encoder": vit, "probe": under("head.", linear)}[part]
            places[path] = naming(inside)
    back = name_map.give(places, ours)
    assert back.keys() == arrays.keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(back[name], x)


@pytest.mark.long
def test_a_map_begins_with_it(tmp_path):
    """t-SimCNE's second stage, from an encoder of no method of ours."""
    arrays = {
        name: 0.01 * numbers(name, x.shape) if x.ndim == 4 else x
        for name, x in torch_arrays.resnet18("", kernel=3).items()
    }
    source = save(tmp_path / "net.safetensors", arrays)
    importing.bring("timm", source, f"{tmp_path}/come", CHANGES)
    words = ["data.name=cifar10_mini", "data.batch_size=16", "steps=1", "optim.lr=0"]
    pretrain.main(
        [
            "--config",
            f"configs/tsimcne_cifar10.py:stage=2,init_from={tmp_path}/come",
            f"--workdir={tmp_path}/map",
            *(f"--config.{word}" for word in words),
        ]
    )
    c = config.restored(json.loads((tmp_path / "map/config.json").read_text()))
    job = build.assemble(c, sharding.make_mesh(), **build.sizes(tmp_path / "map"))
    state, _ = restore_latest(tmp_path / "map/checkpoints", build.abstract(job))
    kernel = state.params["encoder"]["layer4_1"]["conv2"]["kernel"]
    theirs = arrays["layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, theirs)


def test_both_branches_beside_an_optimiser_of_masked_parts(tmp_path):
    """DINO's AdamW has placeholders in its state, which are no leaves."""
    arrays = {k: x for k, x in vit_mini().items() if not k.startswith("head.")}
    source = save(tmp_path / "a.safetensors", arrays)
    changes = [*CHANGES, ("method.prototypes", "16"), ("augment.local_size", "16")]
    said = importing.bring("dino", source, str(tmp_path / "run"), changes)
    assert said.taken == 2 * len(arrays)
    c = config.restored(build.read_saved(tmp_path / "run"))
    job = build.assemble(c, sharding.make_mesh(), **build.sizes(tmp_path / "run"))
    where = tmp_path / "run" / "checkpoints"
    state, _ = restore_latest(where, build.abstract(job))
    for params in (state.params, state.target_params):
        positions = params["encoder"]["positions"]
        np.testing.assert_array_equal(positions, arrays["pos_embed"])


def test_no_work_directory_of_a_file_that_does_not_fit(tmp_path):
    arrays = vit_mini()
    del arrays["blocks.3.attn.proj.bias"]
    source = save(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match=r"Missing: blocks\.3\.attn\.proj\.bias"):
        importing.bring("timm", source, str(tmp_path / "run"), CHANGES)
    assert not (tmp_path / "run").exists()


def test_a_stopped_import_can_be_repeated(tmp_path, monkeypatch):
    source = save(tmp_path / "a.safetensors", vit_mini())
    with monkeypatch.context() as patch:
        patch.setattr(importing.Checkpoints, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            importing.bring("timm", source, str(tmp_path / "run"), CHANGES)
    assert importing.bring("timm", source, str(tmp_path / "run"), CHANGES).taken


def test_a_work_directory_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not empty; take another --workdir"):
        importing.bring("timm", "a.pth", str(tmp_path / "run"), CHANGES)


def test_a_packed_source_is_unpacked_first(tmp_path):
    with pytest.raises(ValueError, match=r"--source=net.zip: unpack it"):
        importing.bring("timm", "net.zip", str(tmp_path / "run"), [])


def test_a_source_that_is_not_in_the_bucket(tmp_path, cloud):
    with pytest.raises(ValueError, match=r"net.pth: there is no such file"):
        importing.bring("timm", "gs://bucket/net.pth", str(tmp_path / "run"), [])


def test_unknown_formats_have_a_near_spelling(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'timm'"):
        importing.bring("tim", "a.pth", str(tmp_path / "run"), [])


def test_from_a_bucket_into_a_bucket(tmp_path, cloud):
    source = save(tmp_path / "a.safetensors", vit_mini())
    cloud.put("bucket", "nets/a.safetensors", (tmp_path / "a.safetensors").read_bytes())
    far = importing.bring(
        "timm", "gs://bucket/nets/a.safetensors", "gs://bucket/run", CHANGES
    )
    here = importing.bring("timm", source, str(tmp_path / "run"), CHANGES)
    assert far == here
    states = []
    for workdir in ("gs://bucket/run", str(tmp_path / "run")):
        c = config.restored(build.read_saved(workdir))
        job = build.assemble(c, sharding.make_mesh(), **build.sizes(workdir))
        states.append(restore_latest(f"{workdir}/checkpoints", build.abstract(job))[0])
    for a, b in zip(*map(plain, states), strict=True):
        np.testing.assert_array_equal(a, b)
