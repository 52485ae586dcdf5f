"""Cards of work directories that are written by hand."""

import json
import re

import pytest

from simclr_jax.experiment import cards, config
from simclr_jax.experiment.reproduction import row_config
from simclr_jax.reproduce.card import committed, is_intact, report
from simclr_jax.reproduce.rows import ROWS, entry, runs
from tests.reproduce.workdirs import DINO, MAP, QUICK, alter, finish, save


def make(row, workdir):
    return cards.make(row, str(workdir), "afterwards")


def recipe_fingerprint(row):
    configs = [row_config(row, text, []) for text, _ in runs(row, "DIR")]
    return cards.fingerprint_of_recipe([config.plain(c) for c in configs])


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def put(tree, path, change):
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = change(tree[last])


@pytest.mark.parametrize("row", [QUICK, DINO, MAP], ids=lambda row: row.name)
def test_an_unchanged_run_is_a_reproduction(row, tmp_path):
    finish(tmp_path, row)
    card = make(row, tmp_path)
    assert card["reproduction"]
    assert card["departures"] == card["refused"] == []
    assert (card["published"], card["measured"]) == (row.published, 45.21)
    assert card["difference"] == round(45.21 - row.published, 2)
    assert card["fingerprints"]["config"] == recipe_fingerprint(row)


def test_each_field_of_the_recipe_is_compared_unless_it_is_free(tmp_path, monkeypatch):
    folder = finish(tmp_path, QUICK)
    saved = json.loads((folder / "config.json").read_text())
    original = row_config(QUICK, "quickstart", [])
    monkeypatch.setattr(cards, "row_config", lambda *_: original)  # read once
    free = (
        *("seed", "placement", "patience", "evaluate.", "log_every", "checkpoint."),
        *("data.data_dir", "data.colour", "profile", "health_every", "health_stop"),
    )
    fields = list(leaves(saved))
    assert len(fields) > 60
    for field in fields:
        changed = json.loads(json.dumps(saved))
        put(changed, field, lambda x: f"{x}!" if isinstance(x, str) else [x, x])
        save(folder, "config.json", changed)
        lines = cards.departures(QUICK, "quickstart", str(tmp_path))
        if field.startswith(free):
            assert lines == []
        else:
            (line,) = lines
            assert line.startswith(f"{field}: was ")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("optim.lr", "0.01"), "optim.lr: was 0.005, now 0.01"),
        (("method.name", "byol"), "method.name: was 'simclr', now 'byol'"),
        (("init_from", "runs/other"), "init_from: was '', now 'other'"),
        (("recipe_batch_size", "512"), "recipe_batch_size: was 0, now 512"),
    ],
)
def test_a_changed_recipe_is_listed_on_the_card(tmp_path, change, line):
    finish(tmp_path, QUICK, changes=[change])
    card = make(QUICK, tmp_path)
    assert not card["reproduction"]
    assert line in card["departures"]
    assert f"- {line}" in report(card)


def test_another_seed_is_the_same_recipe(tmp_path):
    finish(tmp_path / "a", QUICK)
    finish(tmp_path / "b", QUICK, changes=[("seed", "7")])
    a, b = (make(QUICK, tmp_path / name) for name in ("a", "b"))
    assert b["reproduction"]
    assert (a["seed"], b["seed"]) == (0, 7)
    assert a["fingerprints"]["config"] == b["fingerprints"]["config"]


def test_a_field_may_have_the_published_value(tmp_path):
    finish(tmp_path / "a", DINO, changes=[("encoder.dtype", "float32")])
    assert make(DINO, tmp_path / "a")["reproduction"]
    finish(tmp_path / "b", DINO, changes=[("optim.clip", "0.0")])
    card = make(DINO, tmp_path / "b")
    assert card["departures"] == ["optim.clip: was 0.3, now 0.0"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda x: x["settings"].update(k=200), "evaluate.knn.k: was 20, now 200"),
        (
            lambda x: x["settings"].update(temperature=0.1),
            "evaluate.knn.temperature: was 0.07, now 0.1",
        ),
        (lambda x: x.update(data="imagenet2012 (train, test)"), "data: was"),
    ],
)
def test_a_score_with_other_settings_is_not_compared(tmp_path, change, field):
    folder = finish(tmp_path, DINO)
    alter(folder / "results.json", lambda results: change(results["knn"]["h"]))
    card = make(DINO, tmp_path)
    assert card["difference"] is None
    (line,) = card["refused"]
    assert line.startswith(field)
    assert f"not comparable:\n\n- {line}" in report(card)
    assert card["reproduction"]  # the training was


def test_the_seed_of_an_evaluation_is_free(tmp_path):
    row = ROWS["dino_vit_b16_linear"]
    folder = finish(tmp_path, row)
    alter(
        folder / "results.json",
        lambda results: results["linear_augmented"]["h"]["settings"].update(seed=5),
    )
    assert make(row, tmp_path)["refused"] == []


def test_an_early_score_fewer_pictures_and_imported_weights_are_departures(tmp_path):
    folder = finish(tmp_path, QUICK)
    alter(folder / "results.json", lambda x: x["linear"]["h"].update(step=190))
    alter(folder / "data.json", lambda x: x.update(pictures=4_999))
    save(folder, "import.json", {"format": "simclr"})
    assert make(QUICK, tmp_path)["departures"] == [
        "pictures: was 5000, now 4999",
        "import.json: the weights were trained elsewhere",
        "step: was 570, now 190",
    ]


def test_without_a_score_nothing_is_measured(tmp_path):
    folder = finish(tmp_path, QUICK)
    (folder / "results.json").unlink()
    card = make(QUICK, tmp_path)
    assert card["measured"] is card["difference"] is None
    assert "- measured: not run" in report(card)


def test_each_stage_of_a_row_is_compared(tmp_path):
    finish(tmp_path, MAP)
    alter(
        tmp_path / "stage3" / "config.json",
        lambda c: c.update(init_from=c["init_from"].replace("stage2", "stage1")),
    )
    alter(tmp_path / "stage1" / "config.json", lambda c: c.update(epochs=1.0))
    assert make(MAP, tmp_path)["departures"] == [
        "stage1, epochs: was 30.0, now 1.0",
        "stage3, init_from: was 'stage2', now 'stage1'",
    ]


def test_a_run_that_matches_several_rows_needs_the_row(tmp_path, monkeypatch):
    few = {n: row for n, row in ROWS.items() if "vit_b" in n or row.internal}
    monkeypatch.setattr(cards, "ROWS", few)
    folder = finish(tmp_path, DINO)
    (folder / "results.json").unlink()
    with pytest.raises(ValueError, match="dino_vit_b16_knn, dino_vit_b16_linear"):
        cards.find_row(str(tmp_path))
    finish(tmp_path, DINO)
    assert cards.find_row(str(tmp_path)) == DINO.name
    alter(folder / "config.json", lambda c: c["optim"].update(lr=1.0))
    with pytest.raises(ValueError, match="nearest is dino_vit_b16_"):
        cards.find_row(str(tmp_path))


@pytest.mark.parametrize("name", committed())
def test_a_committed_card_agrees_with_its_row(name):
    card, row = committed()[name], ROWS[name]
    assert is_intact(card)
    assert card["reproduction"]
    assert card["refused"] == []
    assert card["row"] == json.loads(json.dumps(entry(row)))
    assert card["fingerprints"]["config"] == recipe_fingerprint(row)
    assert not re.search(r"/(tmp|home|root|work|Users)\b", json.dumps(card))
