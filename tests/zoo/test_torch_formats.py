"""Readers of what others published: what they find and what they refuse."""

import json
import math

import numpy as np
import pytest

from simclr_jax.zoo.name_map import Found
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
from tests.zoo.taking import Taken, built
from tests.zoo.torch_arrays import (
    conv,
    dense,
    dino_arrays,
    moco_arrays,
    resnet18,
    simsiam_arrays,
    vit_mini,
)

READERS = {
    **{"moco": moco, "mocov3": mocov3, "simsiam": simsiam, "dino": dino},
    **{"torchvision": torchvision, "timm": timm, "lightly": lightly},
    **{"solo_learn": solo_learn, "tsimcne": tsimcne},
}


# Sizes, from shapes alone.


ENCODER, HEADS = "params/encoder", "params/projector params/prototypes"
BOTH = "params target_params"


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ("moco_imagenet.py:version=v1", {ENCODER: 23_508_032, BOTH: 47_540_608}),
        ("moco_imagenet.py:version=v2", {BOTH: 55_933_312}),
        ("mocov3_imagenet.py", {BOTH: 68_012_160}),
        # less two arrays of positions, which are none here
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
def test_as_many_parameters_as_published(config, counts):
    _, _, shapes = built(Found(config, [], {}, []))
    sizes = {path: math.prod(x.shape) for path, x in shapes.items()}
    for parts, count in counts.items():
        roots = tuple(f"{part}/" for part in parts.split())
        assert sum(n for path, n in sizes.items() if path.startswith(roots)) == count


# What is found, by arrays that NumPy makes.


@pytest.fixture
def holding(monkeypatch):
    """Lets every path lead to a file of the arrays that the test gives."""

    def hold(arrays):
        for module in (torch_formats, torch_libraries):
            monkeypatch.setattr(module, "read", lambda path: dict(arrays))
        monkeypatch.setattr(torch_libraries, "beside", lambda path: {})

    return hold


@pytest.mark.parametrize("version", [1, 2])
def test_moco_by_its_head(holding, version):
    holding(moco_arrays(version))
    found = moco("a.pth.tar")
    assert found.config == f"moco_imagenet.py:version=v{version}"
    taken = Taken(found)
    assert taken.c.encoder.name == "resnet18"
    assert (taken.c.method.out, taken.c.method.queue) == (8, 4)
    assert not taken.fresh
    queue = taken.arrays["method_state/queue"]
    np.testing.assert_array_equal(queue, np.arange(32).reshape(8, 4).T)
    assert taken.arrays["method_state/oldest"] == 3


@pytest.mark.parametrize("lost", ["encoder_k.bn1.running_var", "encoder_q.fc.2.bias"])
def test_what_moco_lacks_is_named(holding, lost):
    arrays = moco_arrays(2)
    del arrays[f"state_dict.module.{lost}"]
    holding(arrays)
    with pytest.raises(ValueError, match=f"Missing: {lost}. Not expected: nothing"):
        Taken(moco("a.pth.tar"))


def test_what_is_more_is_named(holding):
    holding(moco_arrays(2) | {"state_dict.module.encoder_q.fc.4.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"Not expected: encoder_q\.fc\.4\.weight"):
        Taken(moco("a.pth.tar"))


def test_simsiams_frozen_bias_goes_into_the_mean(holding):
    holding(simsiam_arrays())
    taken = Taken(simsiam("a.pth.tar"))
    assert not taken.fresh
    assert (taken.c.method.out, taken.c.method.bottleneck) == (512, 16)
    mean = taken.arrays["model_state/online/projector/bn3/mean"]
    np.testing.assert_array_equal(mean, np.zeros(512))  # 1 - 1
    assert (taken.arrays["model_state/online/projector/bn2/mean"] == 1).all()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("lengths", "learnt"), [(1, False), (2, True)])
def test_dinos_lengths_are_leaves_where_they_are_not_one(
    holding, lengths, learnt, wrapped
):
    holding(dino_arrays(resnet18(""), 512, lengths, wrapped))
    found = dino("a.pth")
    assert found.config == "dino_imagenet.py:run=resnet50"
    taken = Taken(found)
    assert taken.c.method.norm_last_layer is not learnt
    assert ("params/prototypes/g" in taken.arrays) is learnt
    assert ("target_params/prototypes/g" in taken.arrays) is learnt
    assert not taken.fresh
    np.testing.assert_array_equal(taken.arrays["method_state"], np.arange(6))


def test_dinos_small_vits_have_lengths_even_of_one(holding):
    holding(dino_arrays(vit_mini(""), 128, 1, wrapped=False))
    taken = Taken(dino("a.pth"))
    assert taken.c.method.norm_last_layer is False
    assert (taken.arrays["params/prototypes/g"] == 1).all()


def test_dinos_encoder_alone_is_both_branches(holding):
    holding(vit_mini(""))
    taken = Taken(dino("a.pth"))
    assert taken.c.encoder.patch == 4
    assert taken.c.data.image_size == 32
    parts = {path.split("/")[1] for path in taken.fresh if path != "method_state"}
    assert parts == {"projector", "prototypes"}
    assert "target_params/encoder/positions" in taken.arrays


def test_moco_v3s_positions_must_be_those_of_the_paper(holding):
    holding(
        {
            f"{who}_encoder.{k}": x
            for who in ("base", "momentum")
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
@pytest.mark.parametrize("other", ["nothing of it", "simsiam", "moco", "vit"])
def test_another_format_is_an_error(holding, name, other):
    """At the reader, or when its arrays are taken; never a network of noise."""
    arrays = {
        "nothing of it": {"a.weight": np.zeros(3)},
        "simsiam": simsiam_arrays(),
        "moco": moco_arrays(2),
        "vit": vit_mini("vit."),
    }[other]
    if name == other:
        return
    holding(arrays)
    with pytest.raises(
        ValueError, match=r"Files of this format hold|does not hold what|as in SimSiam"
    ):
        Taken(READERS[name]("a.pth"))


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (resnet18("") | conv("layer4.2.conv1", 512, 512, 3, 3), "no ResNet"),
        (vit_mini("") | {"blocks.4.norm1.weight": np.ones(128)}, "with 5 blocks"),
    ],
)
def test_networks_that_there_are_not_here(holding, arrays, word):
    holding(arrays)
    with pytest.raises(ValueError, match=word):
        timm("a.pth")


# A Hugging Face folder.

SETTINGS = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3]}}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (None, "There is no file.*config.json"),
        ("{", "cannot be read"),
        ("[]", "names no architecture"),
        (json.dumps({"model_type": "resnet"}), "not by timm"),
        (json.dumps({"architecture": "resnetaa50"}), "'resnetaa50' is none that is"),
        (json.dumps({"architecture": "vit_huge_patch14_224"}), "vit_huge.* none that"),
        (
            json.dumps(SETTINGS | {"model_args": {"act_layer": "gelu"}}),
            "act_layer = 'gelu' makes another network.*a plain one takes num_classes",
        ),
        (json.dumps(SETTINGS | {"global_pool": "max"}), "global_pool = 'max'"),
    ],
)
def test_a_folder_that_is_not_timms(tmp_path, settings, word):
    if settings is not None:
        (tmp_path / "config.json").write_text(settings)
    with pytest.raises(ValueError, match=word):
        huggingface(str(tmp_path))


def test_pixels_of_a_folder(holding, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    holding(resnet18(""))
    taken = Taken(huggingface(str(tmp_path)))
    assert taken.c.encoder.mean == (0.5, 0.4, 0.3)
    assert taken.c.encoder.std == (0.229, 0.224, 0.225)


def test_networks_for_small_pictures_are_for_32_pixels(holding):
    holding(resnet18("", kernel=3))
    taken = Taken(timm("a.pth"))
    assert taken.c.encoder.stem == "cifar"
    assert taken.c.data.image_size == 32
