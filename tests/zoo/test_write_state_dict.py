"""State dicts: PyTorch's own networks, built and loaded by the card's lines."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from simclr_jax.experiment import exporting
from simclr_jax.models.resnet import resnet18
from simclr_jax.models.vit import vit_ti
from simclr_jax.tree import by_path
from simclr_jax.zoo.name_map import table, take
from simclr_jax.zoo.network import Network
from simclr_jax.zoo.torch import libraries as torch_libraries
from simclr_jax.zoo.torch import models as torch_models
from simclr_jax.zoo.torch import write as torch_write
from simclr_jax.zoo.verification import verify
from tests.zoo.trained import close, left, said

CHECKED = 1e-5
RESNET18 = {"encoder__name": "resnet18"}
VIT_S = {"encoder__name": "vit_s", "encoder__patch": "16", "data__image_size": "64"}


def network(part="encoder", side=32, **changes):
    """A ResNet-50 as torchvision has it, but for these changes."""
    usual = {"depth": 50, "channels": 64, "sk_ratio": 0.0, "stem": "imagenet"}
    usual |= {"pool": "torch", "pad": "even", "shortcut": "needed"}
    encoder = SimpleNamespace(**usual | changes)
    still = (0.0,) * 3, (1.0,) * 3
    return Network({}, lambda *_: {}, encoder, "resnet", *still, side, part, "float")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"channels": 128}, "128 channels"),
        ({"sk_ratio": 0.0625}, "selective kernels"),
        ({"pad": "same"}, "padded as XLA's SAME"),
        ({"depth": 10, "channels": 16}, "depth of 10"),
    ],
)
@pytest.mark.parametrize("library", [torch_models.torchvision, torch_models.timm])
def test_what_torch_cannot_build_is_refused(library, changes, word):
    with pytest.raises(ValueError, match=f"builds no ResNet with.*{word}.*Take saved"):
        library(network(**changes))


def test_torchvision_has_no_resnet200():
    with pytest.raises(ValueError, match="depth of 200"):
        torch_models.torchvision(network(depth=200))
    assert torch_models.timm(network(depth=200)).builder == "resnet200"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pool": "same"}, "ceil_mode=True"),
        ({"stem": "cifar"}, "model.maxpool = torch.nn.Identity"),
        ({"depth": 18, "shortcut": "always"}, "downsample"),
    ],
)
def test_a_folder_cannot_tell_of_changed_modules(tmp_path, changes, word):
    with pytest.raises(ValueError, match=f"Hugging Face folder.*{word}.*Take timm"):
        torch_write.write_huggingface(network(**changes), tmp_path / "x")


def test_max_pool_of_an_odd_side_needs_no_change():
    assert torch_models.torchvision(network(pool="same", side=34)).changes == (
        "model.fc = torch.nn.Identity()",
    )


def test_without_pytorch_the_arrays_are_compared_and_that_is_said(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(verify, "installed", lambda *names: False)
    changes = {"encoder__name": "vit_mini", "encoder__positions": "sincos"}
    workdir = left(tmp_path / "run", "quickstart.py", **changes)
    done = exporting.take_out(str(workdir), "timm", f"{tmp_path}/x.safetensors")
    assert "not run by timm, torch" in done.checked
    arrays = load_file(tmp_path / "x.safetensors")
    assert arrays["pos_embed"].shape == (1, 65, 128)  # fixed here, an array there
    assert arrays["blocks.3.attn.qkv.weight"].shape == (384, 128)
    with safe_open(tmp_path / "x.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["num_heads"]) == ("pt", "4")
    card = (tmp_path / "x.safetensors.card.md").read_text()
    assert "timm.create_model('vit_tiny_patch16_224'" in card
    assert "not run by timm, torch" in card


@pytest.mark.parametrize("name", ["torchvision", "timm"])
@pytest.mark.parametrize(
    "encoder",
    [resnet18(pool="torch", shortcut="needed"), vit_ti()],
    ids=["conv", "vit"],
)
def test_what_is_written_can_be_brought_back(tmp_path, name, encoder):
    picture = jnp.zeros((1, 32, 32, 3))
    init = functools.partial(encoder.init, train=False)
    shapes = by_path(jax.eval_shape(init, jax.random.key(0), picture))
    draw = np.random.default_rng(0)
    arrays = {
        path.replace("/", "/encoder/", 1): draw.normal(size=x.shape).astype("float32")
        for path, x in shapes.items()
    }
    written = network()._replace(arrays=arrays, encoder=encoder)
    writers = {
        "torchvision": torch_write.write_torchvision,
        "timm": torch_write.write_timm,
    }
    writers[name](written, tmp_path / "x.safetensors")
    found = getattr(torch_libraries, name)(f"{tmp_path}/x.safetensors")
    ours = {
        path.replace("batch_stats/", "model_state/online/"): x
        for path, x in arrays.items()
    }
    sizes = {path: x.shape for path, x in ours.items()}
    taken = take(table(found, ours), found.arrays, sizes, found.spare)
    told = dict(found.changes)
    assert told["encoder.mean"] == "(0.0, 0.0, 0.0)"  # not ImageNet's, as theirs
    assert told.get("encoder.pool", "torch") == "torch"
    assert told.get("encoder.heads", "3") == "3"
    assert taken.keys() == ours.keys()
    assert all(np.array_equal(taken[path], x) for path, x in ours.items())


def taken_out(folder, to, part="encoder", **changes):
    """Exports; what the card's lines say of the three pictures, and what Flax says."""
    changes = {"method__hidden": "32", "encoder__mean": "(0.4, 0.5, 0.6)"} | changes
    workdir = left(folder / "run", "quickstart.py", **changes)
    done = exporting.take_out(str(workdir), to, f"{folder}/x", part)
    inside = "/" if (folder / "x").is_dir() else "."
    card = json.loads((folder / f"x{inside}card.json").read_text())
    side, mean, std = (card["input"][k] for k in ("shape", "mean", "std"))
    pictures = verify.pictures(side[1])
    x = (pictures / np.float32(255) - np.float32(mean)) / np.float32(std)
    known = {"path": f"{folder}/x"}
    exec(card["load"][0], known)
    assert "torch" in done.checked
    assert "not run" not in done.checked
    return known["network"](x), said(workdir, pictures), card


LONG = pytest.mark.long  # one network tells nearly as much as all of them
NETWORKS = {
    "small": {**RESNET18, "encoder__stem": "small"},
    "cifar": {**RESNET18, "encoder__stem": "cifar", "encoder__shortcut": "needed"},
    "same": {**RESNET18, "encoder__stem": "imagenet"},  # TensorFlow's max-pool
    "odd": {**RESNET18, "encoder__stem": "imagenet", "data__image_size": "34"},
    "vit": {"encoder__name": "vit_mini"},
}


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("torchvision", "same"),
        ("timm", "vit"),
        *(pytest.param("timm", x, marks=LONG) for x in NETWORKS if x != "vit"),
        *(pytest.param("torchvision", x, marks=LONG) for x in NETWORKS if x != "same"),
    ],
)
def test_networks_of_torch(tmp_path, to, name):
    changes = NETWORKS[name]
    outputs, wanted, _ = taken_out(tmp_path, to, **changes)
    assert close(wanted["h"], outputs["h"]) < CHECKED


@pytest.mark.zoo
@pytest.mark.long
@pytest.mark.parametrize("to", ["torchvision", "timm", "huggingface"])
def test_resnet50(tmp_path, to):
    changes = {"encoder__name": "resnet50", "data__image_size": "64"}
    changes |= {"encoder__stem": "imagenet", "encoder__pool": "torch"}
    outputs, wanted, _ = taken_out(tmp_path, to, **changes)
    assert close(wanted["h"], outputs["h"]) < CHECKED


@pytest.mark.zoo
@pytest.mark.long
@pytest.mark.parametrize("to", ["timm", "huggingface"])
@pytest.mark.parametrize("heads", ["6", "12"])
def test_vit_s_with_the_heads_of_dino_and_of_moco_v3(tmp_path, to, heads):
    changes = {**VIT_S, "encoder__heads": heads, "encoder__positions": "sincos"}
    outputs, wanted, card = taken_out(tmp_path, to, **changes)
    assert close(wanted["h"], outputs["h"]) < CHECKED
    if to == "timm":
        assert ("num_heads=12" in card["load"][0]) == (heads == "12")


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("torchvision", "resnet18"),
        pytest.param("torchvision", "vit_mini", marks=LONG),
        pytest.param("timm", "resnet18", marks=LONG),
        pytest.param("timm", "vit_mini", marks=LONG),
    ],
)
def test_the_head_comes_along(tmp_path, to, name):
    outputs, wanted, _ = taken_out(tmp_path, to, "encoder+head", encoder__name=name)
    assert close(wanted["h"], outputs["h"]) < CHECKED
    assert close(wanted["z"], outputs["z"]) < CHECKED


@pytest.mark.zoo
@pytest.mark.parametrize(
    "to",
    [
        "huggingface",
        pytest.param("torchvision", marks=LONG),
        pytest.param("timm", marks=LONG),
    ],
)
def test_the_classifier_comes_along(tmp_path, to):
    outputs, wanted, _ = taken_out(
        tmp_path, to, "encoder+classifier", encoder__name="vit_mini"
    )
    assert close(wanted["h"], outputs["h"]) < CHECKED
    assert outputs["logits"].shape == (3, 10)


@pytest.mark.zoo
def test_a_wrong_weight_is_found_by_pytorch(tmp_path, monkeypatch):
    write = torch_write.state_dict

    def swapped(*told):
        arrays = write(*told)
        weight = arrays["blocks.2.attn.qkv.weight"]
        return arrays | {"blocks.2.attn.qkv.weight": weight[::-1].copy()}

    monkeypatch.setattr(torch_write, "state_dict", swapped)
    with pytest.raises(ValueError, match="deleted again: h differs by"):
        taken_out(tmp_path, "timm", encoder__name="vit_mini")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
