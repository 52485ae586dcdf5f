"""The table of published weights has the numbers that the projects publish."""

import pytest

from simclr_jax.zoo import catalog, published

ROWS = published.checkpoints()
FILES = [  # copied a second time from the projects' READMEs: location, top-1, protocol
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
NETWORKS = [  # of projects whose file names are not known: model, top-1, protocol
    ("MoCo v3 ResNet-50, 1000 epochs", 74.6, "linear"),
    ("MoCo v3 ViT-B/16, 300 epochs", 76.7, "linear"),
    ("SimSiam ResNet-50, batch 256", 68.3, "linear"),
    ("DINO ViT-S/16", 77.0, "linear; kNN 74.5"),
    ("DINO ViT-B/8", 80.1, "linear; kNN 77.4"),
    ("DINO ResNet-50", 75.3, "linear; kNN 67.5"),
]


@pytest.mark.parametrize(("location", "top1", "protocol"), FILES)
def test_a_file_has_its_number(location, top1, protocol):
    (row,) = [row for row in ROWS if row.location == location]
    assert (row.top1, row.protocol) == (top1, protocol)


@pytest.mark.parametrize(("model", "top1", "protocol"), NETWORKS)
def test_a_network_has_its_number(model, top1, protocol):
    (row,) = [row for row in ROWS if row.model == model]
    assert (row.top1, row.protocol) == (top1, protocol)


def test_no_file_is_listed_twice():
    files = [(row.format, row.model, row.location) for row in ROWS]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("format", ["byol", "mocov3", "simsiam", "moco"])
def test_non_commercial_licences_are_marked(format):
    licences = {row.licence for row in ROWS if row.format == format}
    assert all("NON-COMMERCIAL" in licence for licence in licences)
    assert "NON-COMMERCIAL" in " ".join(published.licence_notes(format))


def test_unstated_licences_have_no_note():
    assert published.licence_notes("simclr") == []


def test_the_table_has_every_file_and_every_command():
    text = published.table()
    assert max(map(len, text.splitlines())) <= 100
    groups = [" ".join(group.split()) for group in text.split("\n\n")]
    for row in ROWS:
        top1 = "-" if row.top1 is None else row.top1
        last = row.location.rstrip("/").rpartition("/")[2]
        assert any(
            group.startswith(f"{row.format}: {row.file}")
            and f"licence: {row.licence} " in group
            and f" {row.model} {top1} {row.protocol}" in group
            and last in group
            for group in groups
        )
        assert text.count(f"\n{row.command}") == 1


def test_every_format_can_be_imported():
    assert {row.format for row in ROWS} <= catalog.READERS.keys()
