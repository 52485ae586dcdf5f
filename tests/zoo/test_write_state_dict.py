"""State dicts: networks of PyTorch's libraries, built by the code on the card."""

import functools
import json
from types import SimpleNamespace
from typing import Any

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
from simclr_jax.zoo import name_map
from simclr_jax.zoo.network import ExportedNetwork
from simclr_jax.zoo.torch import libraries as torch_libraries
from simclr_jax.zoo.torch import models as torch_models
from simclr_jax.zoo.torch import write as torch_write
from simclr_jax.zoo.verification import verify
from tests.zoo.workdirs import outputs, random_workdir, relative_difference

TOLERANCE = 1e-5
RESNET18 = {"encoder__name": "resnet18"}
VIT_S = {"encoder__name": "vit_s", "encoder__patch": "16", "data__image_size": "64"}


def network(part="encoder", side=32, **changes):
    """torchvision's ResNet-50 with these changes."""
    settings = {"depth": 50, "channels": 64, "sk_ratio": 0.0, "stem": "imagenet"}
    settings |= {"pool_padding": "torch", "padding": "even", "shortcut": "needed"}
    encoder = SimpleNamespace(**settings | changes)
    pixels = (0.0,) * 3, (1.0,) * 3
    forward = lambda *_: {}  # noqa: E731
    return ExportedNetwork({}, forward, encoder, "resnet", *pixels, side, part, "float")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 128}, "128 channels"),
        ({"sk_ratio": 0.0625}, "selective kernels"),
        ({"padding": "same"}, "padded as XLA's SAME"),
        ({"depth": 10, "channels": 16}, "depth of 10"),
    ],
)
@pytest.mark.parametrize("library", [torch_models.torchvision, torch_models.timm])
def test_networks_that_torch_cannot_build_are_refused(library, changes, message):
    match = f"builds no ResNet with.*{message}.*Use saved"
    with pytest.raises(ValueError, match=match):
        library(network(**changes))


def test_torchvision_has_no_resnet200():
    with pytest.raises(ValueError, match="depth of 200"):
        torch_models.torchvision(network(depth=200))
    assert torch_models.timm(network(depth=200)).builder == "resnet200"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool_padding": "same"}, "ceil_mode=True"),
        ({"stem": "cifar"}, "model.maxpool = torch.nn.Identity"),
        ({"depth": 18, "shortcut": "always"}, "downsample"),
    ],
)
def test_a_folder_of_a_network_with_changed_modules_is_refused(
    tmp_path, changes, message
):
    with pytest.raises(ValueError, match=f"Hugging Face folder.*{message}.*Use timm"):
        torch_write.write_huggingface(network(**changes), tmp_path / "x")


def test_max_pool_of_an_odd_side_needs_no_change():
    assert torch_models.torchvision(network(pool_padding="same", side=34)).changes == (
        "model.fc = torch.nn.Identity()",
    )


def test_without_pytorch_the_arrays_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "installed", lambda *names: False)
    changes = {"encoder__name": "vit_mini", "encoder__positions": "sincos"}
    workdir = random_workdir(tmp_path / "run", "quickstart.py", **changes)
    result = exporting.export_network(str(workdir), "timm", f"{tmp_path}/x.safetensors")
    assert "not run by timm, torch" in result.verification
    arrays = load_file(tmp_path / "x.safetensors")
    assert arrays["pos_embed"].shape == (
        1,
        65,
        128,
    )  # fixed in ours, an array in timm's
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
    [resnet18(pool_padding="torch", shortcut="needed"), vit_ti()],
    ids=["conv", "vit"],
)
def test_a_written_file_can_be_imported(tmp_path, name, encoder):
    image = jnp.zeros((1, 32, 32, 3))
    init = functools.partial(encoder.init, train=False)
    shapes = by_path(jax.eval_shape(init, jax.random.key(0), image))
    draw = np.random.default_rng(0)
    arrays = {
        path.replace("/", "/encoder/", 1): draw.normal(size=x.shape).astype("float32")
        for path, x in shapes.items()
    }
    exported = network()._replace(arrays=arrays, encoder=encoder)
    writers = {
        "torchvision": torch_write.write_torchvision,
        "timm": torch_write.write_timm,
    }
    writers[name](exported, tmp_path / "x.safetensors")
    checkpoint = getattr(torch_libraries, name)(f"{tmp_path}/x.safetensors")
    ours = {
        path.replace("batch_stats/", "model_state/online/"): x
        for path, x in arrays.items()
    }
    sizes = {path: x.shape for path, x in ours.items()}
    conversion = name_map.convert(checkpoint, sizes)
    changes = dict(checkpoint.changes)
    assert changes["encoder.mean"] == "(0.0, 0.0, 0.0)"  # and not ImageNet's
    assert changes.get("encoder.pool_padding", "torch") == "torch"
    assert changes.get("encoder.heads", "3") == "3"
    assert conversion.arrays.keys() == ours.keys()
    assert all(np.array_equal(conversion.arrays[path], x) for path, x in ours.items())


def export_and_run(folder, to, part="encoder", **changes):
    """Exports and runs the card's code on the sample images.

    Returns its outputs, the outputs of Flax, and the card.
    """
    changes = {"method__hidden": "32", "encoder__mean": "(0.4, 0.5, 0.6)"} | changes
    workdir = random_workdir(folder / "run", "quickstart.py", **changes)
    result = exporting.export_network(str(workdir), to, f"{folder}/x", part)
    separator = "/" if (folder / "x").is_dir() else "."
    card = json.loads((folder / f"x{separator}card.json").read_text())
    shape, mean, std = (card["input"][k] for k in ("shape", "mean", "std"))
    images = verify.sample_images(shape[1])
    x = (images / np.float32(255) - np.float32(mean)) / np.float32(std)
    variables: dict[str, Any] = {"path": f"{folder}/x"}
    exec(card["load"][0], variables)
    assert "torch" in result.verification
    assert "not run" not in result.verification
    return variables["network"](x), outputs(workdir, images), card


LONG = pytest.mark.long  # one network covers nearly as much as all of them
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
    actual, expected, _ = export_and_run(tmp_path, to, **changes)
    assert relative_difference(actual["h"], expected["h"]) < TOLERANCE


@pytest.mark.zoo
@pytest.mark.long
@pytest.mark.parametrize("to", ["torchvision", "timm", "huggingface"])
def test_resnet50(tmp_path, to):
    changes = {"encoder__name": "resnet50", "data__image_size": "64"}
    changes |= {"encoder__stem": "imagenet", "encoder__pool_padding": "torch"}
    actual, expected, _ = export_and_run(tmp_path, to, **changes)
    assert relative_difference(actual["h"], expected["h"]) < TOLERANCE


@pytest.mark.zoo
@pytest.mark.long
@pytest.mark.parametrize("to", ["timm", "huggingface"])
@pytest.mark.parametrize("heads", ["6", "12"])
def test_vit_s_with_the_heads_of_dino_and_of_moco_v3(tmp_path, to, heads):
    changes = {**VIT_S, "encoder__heads": heads, "encoder__positions": "sincos"}
    actual, expected, card = export_and_run(tmp_path, to, **changes)
    assert relative_difference(actual["h"], expected["h"]) < TOLERANCE
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
def test_the_head_is_exported(tmp_path, to, name):
    actual, expected, _ = export_and_run(
        tmp_path, to, "encoder+head", encoder__name=name
    )
    assert relative_difference(actual["h"], expected["h"]) < TOLERANCE
    assert relative_difference(actual["z"], expected["z"]) < TOLERANCE


@pytest.mark.zoo
@pytest.mark.parametrize(
    "to",
    [
        "huggingface",
        pytest.param("torchvision", marks=LONG),
        pytest.param("timm", marks=LONG),
    ],
)
def test_the_classifier_is_exported(tmp_path, to):
    actual, expected, _ = export_and_run(
        tmp_path, to, "encoder+classifier", encoder__name="vit_mini"
    )
    assert relative_difference(actual["h"], expected["h"]) < TOLERANCE
    assert actual["logits"].shape == (3, 10)


@pytest.mark.zoo
def test_pytorch_detects_a_wrong_weight(tmp_path, monkeypatch):
    write = torch_write.state_dict

    def swapped(network, model):
        arrays = write(network, model)
        weight = arrays["blocks.2.attn.qkv.weight"]
        return arrays | {"blocks.2.attn.qkv.weight": weight[::-1].copy()}

    monkeypatch.setattr(torch_write, "state_dict", swapped)
    with pytest.raises(ValueError, match=r"failed verification.*h differs by"):
        export_and_run(tmp_path, "timm", encoder__name="vit_mini")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
