"""The catalogue of weights: that it says what the projects say."""

import re

import pytest

from simclr_jax.zoo import published
from simclr_jax.zoo.formats import FORMATS
from simclr_jax.zoo.published import PUBLISHED

READ = [  # once more from the projects' READMEs, by hand: where, top-1, protocol
    ("simclr-gcs/checkpoints/ResNet50_1x.zip", 69.1, "linear"),
    ("simclr-gcs/checkpoints/ResNet50_4x.zip", 76.6, "linear"),
    ("simclr-checkpoints-tf2/simclrv1/pretrain/1x/saved_model/", 69.0, "linear"),
    (
        "simclr-checkpoints-tf2/simclrv1/finetune_10pct/2x/saved_model/",
        71.6,
        "fine-tuned, 10 % of labels",
    ),
    ("simclr-checkpoints/simclrv2/pretrained/r50_1x_sk0/", 71.7, "linear"),
    ("simclr-checkpoints/simclrv2/pretrained/r152_3x_sk1/", 79.8, "linear"),
    (
        "simclr-checkpoints/simclrv2/finetuned_1pct/r101_2x_sk1/",
        73.2,
        "fine-tuned, 1 % of labels",
    ),
    (
        "simclr-checkpoints/simclrv2/finetuned_100pct/r50_2x_sk0/",
        79.1,
        "fine-tuned, all labels",
    ),
    ("simclr-checkpoints/simclrv2/supervised/r152_2x_sk0/", 79.1, "supervised"),
    ("deepmind-byol/checkpoints/pretrain_res50x1.pkl", 74.3, "linear"),
    ("deepmind-byol/checkpoints/pretrain_res200x2.pkl", 79.6, "linear"),
    ("facebookresearch/moco, MD5 59fd9945...", 67.7, "linear"),
    ("facebookresearch/moco, MD5 a04e12f8...", 71.1, "linear"),
]
NETS = [  # where a project's names are not known: network, top-1, protocol
    ("MoCo v3 ResNet-50, 1000 epochs", 74.6, "linear"),
    ("MoCo v3 ViT-B/16, 300 epochs", 76.7, "linear"),
    ("SimSiam ResNet-50, batch 256", 68.3, "linear"),
    ("DINO ViT-S/16", 77.0, "linear; kNN 74.5"),
    ("DINO ViT-B/8", 80.1, "linear; kNN 77.4"),
    ("DINO ResNet-50", 75.3, "linear; kNN 67.5"),
]


@pytest.mark.parametrize(("where", "number", "protocol"), READ)
def test_a_file_has_its_number(where, number, protocol):
    (found,) = [each for each in PUBLISHED if each.where == where]
    assert (found.number, found.protocol) == (number, protocol)


@pytest.mark.parametrize(("model", "number", "protocol"), NETS)
def test_a_network_has_its_number(model, number, protocol):
    (found,) = [each for each in PUBLISHED if each.model == model]
    assert (found.number, found.protocol) == (number, protocol)


def test_no_file_is_there_twice():
    files = [(each.format, each.model, each.where) for each in PUBLISHED]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", ["byol", "mocov3", "simsiam", "moco"])
def test_what_is_not_for_commerce_says_so_loudly(name):
    licences = {each.licence for each in PUBLISHED if each.format == name}
    assert all("NON-COMMERCIAL" in licence for licence in licences)


def test_the_table_has_every_file_and_every_command():
    text = published.table()
    for each in PUBLISHED:
        row = rf"^{each.format} +{re.escape(each.model)} .*{re.escape(each.where)} "
        number = "-" if each.number is None else each.number
        assert re.search(rf"{row}.* {number} .*{re.escape(each.licence)}$", text, re.M)
        assert text.count(f"\n{each.command}") == 1


def test_every_format_can_be_read():
    assert {each.format for each in PUBLISHED} <= FORMATS.keys()
