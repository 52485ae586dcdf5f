"""The readers of PyTorch files: the checkpoints that they return, and errors."""

import json
import math

import jax
import numpy as np
import pytest

from simclr_jax.data.recipes import expand
from simclr_jax.experiment import build, config
from simclr_jax.tree import by_path
from simclr_jax.zoo.torch import formats as torch_formats
from simclr_jax.zoo.torch import libraries as torch_libraries
from simclr_jax.zoo.torch.formats import dino, moco, mocov3, simsiam, tsimcne
from simclr_jax.zoo.torch.libraries import (
    huggingface,
    lightly,
    solo_learn,
    timm,
    torchvision,
)
from tests.zoo.torch_arrays import (
    conv,
    dense,
    dino_arrays,
    moco_arrays,
    resnet18,
    simsiam_arrays,
    vit_mini,
)
from tests.zoo.workdirs import convert, imported_run

READERS = {
    **{"moco": moco, "mocov3": mocov3, "simsiam": simsiam, "dino": dino},
    **{"torchvision": torchvision, "timm": timm, "lightly": lightly},
    **{"solo_learn": solo_learn, "tsimcne": tsimcne},
}


# Sizes, from shapes alone.


ENCODER, HEADS = "params/encoder", "params/projector params/prototypes"
BOTH = "params target_params"


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("moco_imagenet.py:version=v1", {ENCODER: 23_508_032, BOTH: 47_540_608}),
        ("moco_imagenet.py:version=v2", {BOTH: 55_933_312}),
        ("mocov3_imagenet.py", {BOTH: 68_012_160}),
        # less two arrays of positions, which are not stored
        ("mocov3_imagenet.py:encoder=vit_s", {BOTH: 84_266_752 - 2 * 197 * 384}),
        ("mocov3_imagenet.py:encoder=vit_b", {BOTH: 215_678_464 - 2 * 197 * 768}),
        # less the frozen bias
        ("simsiam_imagenet.py", {"params": 38_201_408 - 2048}),
        ("dino_imagenet.py:run=vit_s16", {ENCODER: 21_665_664, HEADS: 22_352_128}),
        ("dino_imagenet.py:run=vit_s8", {ENCODER: 21_670_272}),
        ("dino_imagenet.py:run=vit_b16", {ENCODER: 85_798_656}),
        # less the lengths of the prototypes, which are all 1
        ("dino_imagenet.py:run=resnet50", {HEADS: 24_345_440 - 60_000}),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, counts):
    c = config.read(f"configs/{name}", [])
    method = build.build_method(c, images=1_281_167, classes=0)
    views = [
        jax.ShapeDtypeStruct((2, view.size, view.size, 3), np.uint8)
        for view in expand(build.recipe(c))
    ]
    state = jax.eval_shape(method.init, jax.random.key(0), views)
    sizes = {path: math.prod(x.shape) for path, x in by_path(state).items()}
    for parts, count in counts.items():
        roots = tuple(f"{part}/" for part in parts.split())
        assert sum(n for path, n in sizes.items() if path.startswith(roots)) == count


# Checkpoints of NumPy arrays.


@pytest.fixture
def holding(monkeypatch):
    """Replaces the content of every file by arrays of the test."""

    def hold(arrays):
        for module in (torch_formats, torch_libraries):
            monkeypatch.setattr(module, "read", lambda path: dict(arrays))
        monkeypatch.setattr(torch_libraries, "metadata", lambda path: {})

    return hold


@pytest.mark.parametrize("version", [1, 2])
def test_mocos_version_follows_from_its_head(holding, version):
    holding(moco_arrays(version))
    checkpoint = moco("a.pth.tar")
    assert checkpoint.config == f"moco_imagenet.py:version=v{version}"
    c, conversion = imported_run(checkpoint).config, convert(checkpoint)
    assert c.encoder.name == "resnet18"
    assert (c.method.out, c.method.queue) == (8, 16)
    assert not conversion.newly_initialised
    queue = conversion.arrays["method_state/queue"]
    np.testing.assert_array_equal(queue, np.arange(128).reshape(8, 16).T)
    assert conversion.arrays["method_state/oldest"] == 3


@pytest.mark.parametrize("lost", ["encoder_k.bn1.running_var", "encoder_q.fc.2.bias"])
def test_missing_arrays_are_named(holding, lost):
    arrays = moco_arrays(2)
    del arrays[f"state_dict.module.{lost}"]
    holding(arrays)
    with pytest.raises(ValueError, match=f"Missing: {lost}. Not expected: nothing"):
        convert(moco("a.pth.tar"))


def test_unexpected_arrays_are_named(holding):
    holding(moco_arrays(2) | {"state_dict.module.encoder_q.fc.4.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"Not expected: encoder_q\.fc\.4\.weight"):
        convert(moco("a.pth.tar"))


def test_simsiams_frozen_bias_is_folded_into_the_mean(holding):
    holding(simsiam_arrays())
    checkpoint = simsiam("a.pth.tar")
    arrays, newly_initialised, _ = convert(checkpoint)
    assert not newly_initialised
    method = imported_run(checkpoint).config.method
    assert (method.out, method.bottleneck) == (512, 16)
    mean = arrays["model_state/online/projector/bn3/mean"]
    np.testing.assert_array_equal(mean, np.zeros(512))  # 1 - 1
    assert (arrays["model_state/online/projector/bn2/mean"] == 1).all()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("lengths", "trained"), [(1, False), (2, True)])
def test_dinos_lengths_are_arrays_where_they_are_not_one(
    holding, lengths, trained, wrapped
):
    holding(dino_arrays(resnet18(""), 512, lengths, wrapped))
    checkpoint = dino("a.pth")
    assert checkpoint.config == "dino_imagenet.py:run=resnet50"
    arrays, newly_initialised, _ = convert(checkpoint)
    assert imported_run(checkpoint).config.method.norm_last_layer is not trained
    assert ("params/prototypes/g" in arrays) is trained
    assert ("target_params/prototypes/g" in arrays) is trained
    assert not newly_initialised
    np.testing.assert_array_equal(arrays["method_state"], np.arange(6))


def test_dinos_small_vits_have_lengths_even_of_one(holding):
    holding(dino_arrays(vit_mini(""), 128, 1, wrapped=False))
    checkpoint = dino("a.pth")
    assert imported_run(checkpoint).config.method.norm_last_layer is False
    assert (convert(checkpoint).arrays["params/prototypes/g"] == 1).all()


def test_dinos_encoder_alone_is_imported_into_both_branches(holding):
    holding(vit_mini(""))
    checkpoint = dino("a.pth")
    c = imported_run(checkpoint).config
    assert (c.encoder.patch, c.data.image_size) == (4, 32)
    arrays, newly_initialised, _ = convert(checkpoint)
    parts = {path.split("/")[1] for path in newly_initialised if "/" in path}
    assert parts == {"projector", "prototypes"}
    assert "target_params/encoder/positions" in arrays


def test_moco_v3s_positions_must_be_those_of_the_paper(holding):
    holding(
        {
            f"{branch}_encoder.{k}": x
            for branch in ("base", "momentum")
            for k, x in vit_mini("").items()
        }
    )
    with pytest.raises(ValueError, match="not the fixed sines and cosines"):
        mocov3("a.pth.tar")


def test_solo_learns_networks_for_cifar_are_refused(holding):
    holding(resnet18("backbone.", kernel=3) | dense("projector.0", 4, 512))
    with pytest.raises(ValueError, match="pads by two pixels"):
        solo_learn("a.ckpt")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("other", ["unknown", "simsiam", "moco", "vit"])
def test_another_format_is_an_error(holding, name, other):
    """Raised by the reader or by the conversion."""
    arrays = {
        "unknown": {"a.weight": np.zeros(3)},
        "simsiam": simsiam_arrays(),
        "moco": moco_arrays(2),
        "vit": vit_mini("vit."),
    }[other]
    if name == other:
        return
    holding(arrays)
    with pytest.raises(
        ValueError, match=r"Files of this format|does not match its|as in SimSiam"
    ):
        convert(READERS[name]("a.pth"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (resnet18("") | conv("layer4.2.conv1", 512, 512, 3, 3), "no ResNet"),
        (vit_mini("") | {"blocks.4.norm1.weight": np.ones(128)}, "with 5 blocks"),
    ],
)
def test_networks_of_other_sizes_are_refused(holding, arrays, message):
    holding(arrays)
    with pytest.raises(ValueError, match=message):
        timm("a.pth")


# A Hugging Face folder.

SETTINGS = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file.*config.json"),
        ("{", "cannot be read"),
        ("[]", "has no architecture"),
        (json.dumps({"model_type": "resnet"}), "not of timm"),
        (json.dumps({"architecture": "resnetaa50"}), "'resnetaa50' is not supp"),
        (
            json.dumps({"architecture": "vit_huge_patch14_224"}),
            "vit_huge.* is not supp",
        ),
        (
            json.dumps(SETTINGS | {"model_args": {"act_layer": "gelu"}}),
            "act_layer = 'gelu' makes another network.*supported are num_classes",
        ),
        (json.dumps(SETTINGS | {"global_pool": "max"}), "global_pool = 'max'"),
    ],
)
def test_folders_of_other_networks_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        huggingface(str(tmp_path))


def test_mean_and_std_of_a_folder(holding, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    holding(resnet18(""))
    encoder = imported_run(huggingface(str(tmp_path))).config.encoder
    assert encoder.mean == (0.5, 0.4, 0.3)
    assert encoder.std == (0.229, 0.224, 0.225)


def test_a_small_stem_is_for_32_pixels(holding):
    holding(resnet18("", kernel=3))
    c = imported_run(timm("a.pth")).config
    assert (c.encoder.stem, c.data.image_size) == ("cifar", 32)
