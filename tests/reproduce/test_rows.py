"""The table of rows agrees with the configs and the papers."""

import functools
import operator
import pathlib
import re

import pytest

from simclr_jax.experiment import build, config, schema, values
from simclr_jax.experiment.reproduction import row_config
from simclr_jax.reproduce.rows import DIFFERENCES, PLANS, ROWS, chip_hours, runs
from simclr_jax.suggest import check_name

PUBLISHED = {  # read again from the papers, the projects' READMEs and configs/
    "simclr_100_256": 57.5,
    "simclr_100_256_sqrt": 62.8,
    "simclr_800_512": 67.8,
    "simclr_400_1024_sqrt": 67.2,
    "simclr_200_2048": 66.1,
    "simclr_100_4096": 64.6,
    "simclr_800_4096_sqrt": 69.1,
    "simclr_400_8192": 67.8,
    "simclr_1000_1x": 69.3,
    "simclr_1000_4x": 76.5,
    "simclr_100_strength_0.125": 59.6,
    "simclr_100_temperature_0.5": 60.7,
    "simclr_v2_r50_1x": 71.7,
    "simclr_v2_r101_2x_sk": 79.0,
    "simclr_v2_r152_3x_sk": 79.8,
    "byol_300": 72.5,
    "byol_1000": 74.3,
    "byol_1000_512": 73.7,
    "byol_1000_r200_2x": 79.6,
    "byol_1000_r50_4x": 78.6,
    "byol_300_lr_0.1": 65.0,
    "byol_300_weight_decay_1e-5": 69.6,
    "moco_v1_1x": 60.6,
    "moco_v2_200": 67.5,
    "moco_v2_800": 71.1,
    "mocov3_r50_100": 68.9,
    "mocov3_r50_1000": 74.6,
    "mocov3_vit_s": 73.2,
    "mocov3_vit_b": 76.7,
    "simsiam_100": 68.1,
    "simsiam_800": 71.3,
    "simsiam_100_4096": 64.0,
    "dino_vit_s16_100_knn": 69.3,
    "dino_vit_s16_linear": 76.0,
    "dino_vit_s8_linear": 79.7,
    "dino_vit_b8_knn": 77.4,
    "dino_resnet50_linear": 75.3,
    "simclr_cifar10": 91.0,
    "simclr_cifar10_r50": 94.0,
    "simsiam_cifar10": 91.8,
    "byol_cifar10": 92.58,
    "dino_cifar10": 89.52,
    "tsimcne_cifar10": 88.8,
    "quickstart": 46.8,
    "simclr_cifar10_laptop": 67.7,
}
FAMILIES = {"ResNet": "resnet", "ViT-S": "vit_s", "ViT-B": "vit_b"}


@functools.cache
def configs(name):
    """The configs of a row's runs."""
    row = ROWS[name]
    return [row_config(row, text, []) for text, _ in runs(row, "DIR")]


def field(c, path):
    return functools.reduce(operator.getitem, path.split("."), c)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_describes_its_config(name):
    row, last = ROWS[name], configs(name)[-1]
    ours = {
        difference.field: float(difference.ours)
        for difference in (DIFFERENCES["larger_batch"], DIFFERENCES["fewer_epochs"])
        if difference in row.differences
    }
    assert sum(c.epochs for c in configs(name)) == ours.get("epochs", row.epochs)
    batch = ours.get("data.batch_size", row.batch)
    assert {c.data.batch_size for c in configs(name)} == {batch}
    assert row.protocol in schema.PROTOCOLS
    family, _, rest = row.model.partition("-")
    prefix = FAMILIES[f"{family}-{rest[0]}" if family == "ViT" else family]
    depth = "".join(re.findall(r"^\d+", rest)) if family == "ResNet" else ""
    assert last.encoder.name == prefix + depth
    width = re.search(r"(\d)x", row.model)
    assert last.encoder.to_dict().get("width", 1) == int(width[1] if width else 1)
    for key, text in (row.changes | row.evaluation).items():
        assert field(last, key) == values.parse(text, field(last, key), key)


@pytest.mark.parametrize("name", ROWS)
def test_the_steps_of_a_row_are_those_of_its_configs(name):
    row = ROWS[name]
    assert row.steps == sum(build.length(c, row.images)[0] for c in configs(name))


@pytest.mark.parametrize("name", ROWS)
def test_a_difference_of_a_field_has_the_value_of_the_config(name):
    last = configs(name)[-1]
    for difference in ROWS[name].differences:
        assert difference.published != difference.ours
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", difference.field):
            value = field(last, difference.field)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            assert difference.ours.split(" ")[0] == text


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_a_row_is_the_published_one(name):
    assert ROWS[name].published == PUBLISHED[name]


def test_rows_differ_from_each_other():
    keys = [
        (row.config, row.protocol, *row.changes.items(), *row.evaluation.items())
        for row in ROWS.values()
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.internal])
def test_our_own_numbers_are_in_the_docstrings_of_the_configs(name):
    row = ROWS[name]
    text = pathlib.Path("configs", row.config).read_text()
    assert f"{row.published} %" in text.partition('"""\n\nfrom')[0]


def test_published_rows_have_differences_and_internal_ones_have_none():
    assert all(bool(row.differences) != row.internal for row in ROWS.values())


def test_every_difference_is_used():
    used = {x for row in ROWS.values() for x in row.differences}
    assert used == set(DIFFERENCES.values())


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan[0]}-{plan[2]}")
def test_the_hours_of_a_plan_follow_from_its_steps(plan):
    stem, _, arguments = plan.config.partition(":")
    c = config.load(f"configs/{stem}.py:{arguments}")
    assert plan.batch == c.data.batch_size
    steps, _ = build.length(c, 1_281_167)
    for hours, ms in (
        (plan.roof_hours, plan.roof_ms),
        (plan.estimate_hours, plan.estimate_ms),
    ):
        assert hours == pytest.approx(steps * ms / 3.6e6, abs=0.06)


def test_the_chip_hours_of_a_row_are_those_of_its_plan():
    planned = [row for row in ROWS.values() if row.plan]
    assert planned
    for row in planned:
        assert row.plan
        assert row.batch == row.plan.batch
        times = (row.plan.roof_ms, row.plan.estimate_ms)
        expected = tuple(row.plan.chips * row.steps * ms / 3.6e6 for ms in times)
        assert chip_hours(row) == pytest.approx(expected)


def test_a_misspelt_row_has_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean 'byol_300'"):
        check_name("byol_30", ROWS, "ROW")
