"""The table of rows: that each is what it says, and stands in the papers."""

import functools
import math
import operator
import pathlib
import re

import pytest

from simclr_jax.cli import reproduce
from simclr_jax.experiment import build, cards, config
from simclr_jax.reproduce.row import LARGER, PLANNED, SHORTER
from simclr_jax.reproduce.rows import ROWS
from simclr_jax.suggest import check_name

READ = {  # once more from the papers, the projects' READMEs and configs/, by hand
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
WORDS = {"ResNet": "resnet", "ViT-S": "vit_s", "ViT-B": "vit_b"}


@functools.cache
def configs(name):
    """Of a row's runs."""
    row = ROWS[name]
    return [cards.effective(row, text, []) for text, _ in cards.stages(row, "DIR")]


def at(c, path):
    return functools.reduce(operator.getitem, path.split("."), c)


@pytest.mark.parametrize("name", ROWS)
def test_its_config_is_what_it_says(name):
    row, last = ROWS[name], configs(name)[-1]
    ours = {
        each.field: float(each.ours)
        for each in (LARGER, SHORTER)
        if each in row.differs
    }
    assert sum(c.epochs for c in configs(name)) == ours.get("epochs", row.epochs)
    batch = ours.get("data.batch_size", row.batch)
    assert {c.data.batch_size for c in configs(name)} == {batch}
    assert row.protocol in config.PROTOCOLS
    family, _, rest = row.model.partition("-")
    word = f"{family}-{rest[0]}" if family == "ViT" else family
    depth = re.match(r"\d+", rest)[0] if family == "ResNet" else ""
    assert last.encoder.name == WORDS[word] + depth
    wide = re.search(r"(\d)x", row.model)
    assert last.encoder.to_dict().get("width", 1) == int(wide[1] if wide else 1)
    for key, text in (row.changes | row.judged).items():
        assert at(last, key) == config.value(text, at(last, key), key)


@pytest.mark.parametrize("name", ROWS)
def test_where_it_differs_ours_is_what_it_says(name):
    last = configs(name)[-1]
    for each in ROWS[name].differs:
        assert each.published != each.ours
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", each.field):
            said = at(last, each.field)
            said = f"{said:g}" if isinstance(said, float) else str(said)
            assert each.ours.split(" ")[0] == said


@pytest.mark.parametrize("name", READ)
def test_its_number_is_the_published_one(name):
    assert ROWS[name].published == READ[name]


def test_no_two_rows_are_one():
    same = [
        (row.config, row.protocol, *row.changes.items(), *row.judged.items())
        for row in ROWS.values()
    ]
    assert len(set(same)) == len(same)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.own])
def test_our_own_numbers_stand_in_the_configs(name):
    row = ROWS[name]
    text = pathlib.Path("configs", row.config).read_text()
    assert f"{row.published} %" in text.partition('"""\n\nfrom')[0]


def test_only_a_papers_row_may_have_a_published_recipe():
    assert all(bool(row.differs) != row.own for row in ROWS.values())


@pytest.mark.parametrize("plan", PLANNED)
def test_plans_are_those_of_the_readme(plan):
    topology, low, high = PLANNED[plan]
    line = (
        rf"^\| `{re.escape(plan)}` \| (\d+) \| {topology} .* {low} to {high} \| (.*) \|"
    )
    found = re.search(line, pathlib.Path("README.md").read_text(), re.M)
    hours = [float(word) for word in found[2].split(" to ")]
    chips = math.prod(map(int, re.findall(r"\d+", topology.partition(":")[2])))
    c = config.load(
        f"configs/{plan.replace(':', '.py:') if ':' in plan else plan + '.py'}"
    )
    rows = [row for row in ROWS.values() if row.planned == plan]
    assert rows
    for row in rows:  # its chip-hours are the README's, for as many steps
        ours = re.match(r"(\d+) to (\d+) v5e", reproduce.chip_hours(row)).groups()
        steps = build.length(configs(row.name)[0], row.images)[0]
        ratio = chips * steps / build.length(c, row.images)[0]
        for mine, theirs in zip(map(float, ours), hours, strict=True):
            assert abs(mine - theirs * ratio) <= 0.05 * ratio + 0.5
        assert row.batch == int(found[1])


def test_a_misspelt_row_is_told_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'byol_300'"):
        check_name("byol_30", ROWS, "ROW")
