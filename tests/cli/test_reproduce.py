"""The reproducing door and its cards, on work directories written down by hand."""

import json
import os
import pathlib
import re
import signal
import sys
import threading

import pytest

from simclr_jax.cli import common, reproduce
from simclr_jax.experiment import cards, config
from simclr_jax.reproduce.rows import ROWS

QUICK, DINO, MAP = (
    ROWS[name] for name in ("quickstart", "dino_vit_b16_knn", "tsimcne_quickstart")
)
STEPS = {"quickstart": 570, "dino_vit_b16_knn": 500_400, "tsimcne_quickstart": 552}


def save(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def finish(workdir, row, accuracy=0.4521, changes=()):
    """What pretrain and evaluate leave of a row's runs, as far as a card knows."""
    runs = cards.stages(row, str(workdir))
    for text, folder in runs:
        c = config.plain(cards.effective(row, text, list(changes)))
        folder = pathlib.Path(folder)
        save(folder, "config.json", c)
        data = {"pictures": row.images, "classes": 10, "pictures read together": 1}
        save(folder, "data.json", data)
    splits = (
        f"{c['data']['bank_split'] or c['data']['split']}, {c['data']['eval_split']}"
    )
    score = {
        "accuracy": accuracy,
        "count": 1000,
        "step": STEPS[row.name],
        "settings": c["evaluate"][row.protocol],
        "data": f"{c['data']['name']} ({splits})",
    }
    save(folder, "results.json", {row.protocol: {row.features: score}})
    return folder


def alter(path, change):
    """Changes what a JSON file holds; `change` gets it."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def leaves(tree, inside=""):
    for key, x in tree.items():
        if isinstance(x, dict):
            yield from leaves(x, f"{inside}{key}.")
        else:
            yield f"{inside}{key}"


def put(tree, path, change):
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = change(tree[last])


@pytest.mark.parametrize("row", [QUICK, DINO, MAP], ids=lambda row: row.name)
def test_a_run_as_the_row_says_is_its_reproduction(row, tmp_path):
    finish(tmp_path, row)
    said = cards.make(row, str(tmp_path), "afterwards")
    assert said["reproduction"]
    assert said["departures"] == said["refused"] == []
    assert (said["published"], said["measured"]) == (row.published, 45.21)
    assert said["difference"] == round(45.21 - row.published, 2)
    recipes = [cards.effective(row, text, []) for text, _ in cards.stages(row, "DIR")]
    plain = [cards.bare(config.plain(c)) for c in recipes]
    assert said["fingerprints"]["config"] == cards.fingerprint(plain)


def test_any_changed_field_of_the_recipe_turns_the_card(tmp_path, monkeypatch):
    folder = finish(tmp_path, QUICK)
    saved = json.loads((folder / "config.json").read_text())
    own = cards.effective(QUICK, "configs/quickstart.py", [])
    monkeypatch.setattr(cards, "effective", lambda *_: own)
    free = "seed", "placement", "patience", "evaluate.", "log_every", "checkpoint."
    free = *free, "data.data_dir", "data.colour"
    fields = list(leaves(saved))
    assert len(fields) > 60
    for field in fields:
        changed = json.loads(json.dumps(saved))
        put(changed, field, lambda x: f"{x}!" if isinstance(x, str) else [x, x])
        save(folder, "config.json", changed)
        lines = cards.recipe(QUICK, "configs/quickstart.py", str(tmp_path))
        if field.startswith(free):
            assert lines == []
        else:
            (line,) = lines
            assert line.startswith(f"{field}: was ")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("optim.lr", "0.01"), "optim.lr: was 0.005, now 0.01"),
        (("method.name", "byol"), "method.name: was 'simclr', now 'byol'"),
        (("init_from", "runs/other"), "init_from: was '', now 'other'"),
        (("transfer_from", "512"), "transfer_from: was 0, now 512"),
    ],
)
def test_what_was_changed_is_named_on_the_card(tmp_path, change, word):
    finish(tmp_path, QUICK, changes=[change])
    said = cards.make(QUICK, str(tmp_path), "afterwards")
    assert not said["reproduction"]
    assert word in said["departures"]
    assert f"- {word}" in cards.report(said)
    assert "not a reproduction" in cards.report(said)


def test_another_seed_is_no_other_recipe(tmp_path):
    finish(tmp_path / "a", QUICK)
    finish(tmp_path / "b", QUICK, changes=[("seed", "7")])
    one, two = (
        cards.make(QUICK, str(tmp_path / name), "afterwards") for name in ("a", "b")
    )
    assert two["reproduction"]
    assert (one["seed"], two["seed"]) == (0, 7)
    assert one["fingerprints"]["config"] == two["fingerprints"]["config"]


def test_a_field_may_be_as_the_paper_has_it(tmp_path):
    finish(tmp_path / "a", DINO, changes=[("encoder.dtype", "float32")])
    assert cards.make(DINO, str(tmp_path / "a"), "afterwards")["reproduction"]
    finish(tmp_path / "b", DINO, changes=[("optim.clip", "0.0")])
    said = cards.make(DINO, str(tmp_path / "b"), "afterwards")
    assert said["departures"] == ["optim.clip: was 0.3, now 0.0"]


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
def test_a_score_made_otherwise_is_not_compared(tmp_path, change, field):
    folder = finish(tmp_path, DINO)
    alter(folder / "results.json", lambda said: change(said["knn"]["h"]))
    said = cards.make(DINO, str(tmp_path), "afterwards")
    assert said["difference"] is None
    (line,) = said["refused"]
    assert line.startswith(field)
    assert "not to be compared" in cards.report(said)
    assert said["reproduction"]  # the training was


def test_the_seed_of_an_evaluation_may_be_any(tmp_path):
    row = ROWS["dino_vit_b16_linear"]
    STEPS[row.name] = STEPS[DINO.name]
    folder = finish(tmp_path, row)
    score = ("linear_augmented", "h")
    alter(
        folder / "results.json",
        lambda said: said[score[0]][score[1]]["settings"].update(seed=5),
    )
    assert cards.make(row, str(tmp_path), "afterwards")["refused"] == []


def test_a_score_before_the_end_fewer_pictures_and_imported_weights(tmp_path):
    folder = finish(tmp_path, QUICK)
    alter(folder / "results.json", lambda said: said["linear"]["h"].update(step=190))
    alter(folder / "data.json", lambda said: said.update(pictures=4_999))
    save(folder, "import.json", {"format": "simclr"})
    assert cards.make(QUICK, str(tmp_path), "afterwards")["departures"] == [
        "pictures: was 5000, now 4999",
        "import.json: the weights were trained elsewhere",
        "step: was 570, now 190",
    ]


def test_without_its_score_a_row_was_not_run(tmp_path):
    folder = finish(tmp_path, QUICK)
    (folder / "results.json").unlink()
    said = cards.make(QUICK, str(tmp_path), "afterwards")
    assert said["measured"] is said["difference"] is None
    assert "- measured: not run" in cards.report(said)


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        (
            "results.json",
            lambda said: said["linear"]["h"].update(accuracy=0.4522),
            "fingerprints.score",
        ),
        (
            "results.json",
            lambda said: said["linear"]["h"]["settings"].update(l2=1e-2),
            "fingerprints.evaluation",
        ),
        ("config.json", lambda said: said.update(epochs=40.0), "fingerprints.config"),
        ("data.json", lambda said: said.update(classes=11), "fingerprints.data"),
        ("card.json", lambda said: said.update(measured=99.0), "measured"),
        ("card.json", lambda said: said["environment"].update(jax="9"), "fingerprint"),
    ],
)
def test_what_was_altered_after_the_card_is_found(
    tmp_path, capsys, name, change, field
):
    folder, words = finish(tmp_path, QUICK), ["--card", str(tmp_path)]
    reproduce.main(["quickstart", *words])
    assert {"card.json", "card.md"} <= {path.name for path in folder.iterdir()}
    reproduce.main(words)
    assert "card.json: quickstart, as it says" in capsys.readouterr().out
    alter(folder / name, change)
    with pytest.raises(SystemExit) as end:
        reproduce.main(words)
    assert end.value.code == common.FAILED
    assert re.search(rf"^  {field}: ", capsys.readouterr().out, re.M)


def test_what_is_no_card_is_said_to_be_none(tmp_path):
    save(finish(tmp_path, QUICK), "card.json", {"measured": 50.0})
    with pytest.raises(common.UsageError, match="is no card"):
        reproduce.main(["--card", str(tmp_path)])


def test_a_map_takes_three_runs_and_each_must_be_the_rows(tmp_path):
    finish(tmp_path, MAP)
    first, second, third, judging = reproduce.commands(MAP, "DIR", [])
    config_of = ["configs/tsimcne_quickstart.py"]
    config_of += [
        f"{config_of[0]}:stage={n},init_from=DIR/stage{n - 1}" for n in (2, 3)
    ]
    for n, (order, text) in enumerate(
        zip((first, second, third), config_of, strict=True), 1
    ):
        assert order[1:] == [
            *("simclr_jax.cli.pretrain", "--config", text, "--workdir", f"DIR/stage{n}")
        ]
    assert judging[1:4] == ["simclr_jax.evaluate", "--workdir", "DIR/stage3"]

    def from_one(said):
        said["init_from"] = said["init_from"].replace("stage2", "stage1")

    alter(tmp_path / "stage3" / "config.json", from_one)
    alter(tmp_path / "stage1" / "config.json", lambda said: said.update(epochs=1.0))
    assert cards.make(MAP, str(tmp_path), "afterwards")["departures"] == [
        "stage1, epochs: was 30.0, now 1.0",
        "stage3, init_from: was 'stage2', now 'stage1'",
    ]


# The door.


def test_the_list_has_every_row_and_says_what_was_not_run(capsys):
    reproduce.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1 : len(ROWS) + 1]]
    assert names == list(ROWS)
    byol = next(line for line in lines if line.startswith("byol_300 "))
    assert re.search(r"72\.5 +85 to 197 v5e +not run$", byol)


def test_a_row_says_where_it_differs_and_what_it_stands_for(capsys):
    words = ["byol_300", "--config.optim.lr=0.2", "--config.evaluate.knn.k=20"]
    reproduce.main([*words, "--config.evaluate.every=100"])
    said = capsys.readouterr().out
    for line in (
        "byol_300: arXiv:2006.07733, ablations: ResNet-50, 300 epochs, batch 4096",
        "encoder.dtype: not said; ours bfloat16",
        "optim.lr: was 0.3, now 0.2",
        "python -m simclr_jax pretrain --config configs/byol_imagenet.py:epochs=300 "
        "--workdir DIR --config.optim.lr=0.2 --config.evaluate.every=100\n",
        "--protocol linear_augmented --features h "
        "--config.evaluate.linear_augmented.epochs=80 ",
        " --config.evaluate.knn.k=20\n",
    ):
        assert line in said


def test_launch_only_says_lines(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "obey", None)  # nothing to call
    words = ["byol_1000_r101_2x", "--launch", "--workdir", "gs://bucket/run"]
    reproduce.main(words)
    said = capsys.readouterr().out
    tail = (
        "--config configs/byol_imagenet.py:epochs=1000 --workdir gs://bucket/run "
        "--config.encoder.name=resnet101 --config.encoder.width=2\n"
    )
    for launcher in reproduce.LAUNCHERS:
        assert f"{launcher} {tail}" in said
    assert "reproduce byol_1000_r101_2x --card gs://bucket/run" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["byol_30"], "ROW: unknown 'byol_30'. Did you mean 'byol_300'?"),
        (["byol_300", "--config.optim.shedule=x"], "Did you mean 'schedule'?"),
        (["--card", "nowhere"], "nowhere is no work directory"),
    ],
)
def test_mistakes_are_said_in_a_line(words, said):
    with pytest.raises(common.UsageError, match=re.escape(said)):
        reproduce.main(words)


@pytest.mark.parametrize(
    "words",
    [[], ["--list", "byol_300"], ["--list", "--launch"], ["--card", "x", "--launch"]],
)
def test_words_that_do_not_go_together(words, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(words)
    assert "simclr_jax.reproduce: " in capsys.readouterr().err


def test_a_run_of_several_rows_asks_whose_it_is(tmp_path, monkeypatch):
    few = {name: row for name, row in ROWS.items() if "vit_b" in name or row.own}
    monkeypatch.setattr(reproduce, "ROWS", few)
    folder = finish(tmp_path, DINO)
    (folder / "results.json").unlink()
    with pytest.raises(ValueError, match="dino_vit_b16_knn, dino_vit_b16_linear"):
        reproduce.owner(str(tmp_path))
    finish(tmp_path, DINO)
    assert reproduce.owner(str(tmp_path)) == DINO.name
    alter(folder / "config.json", lambda said: said["optim"].update(lr=1.0))
    with pytest.raises(ValueError, match="nearest is dino_vit_b16_"):
        reproduce.owner(str(tmp_path))


def test_a_row_is_run_and_its_card_written(tmp_path, monkeypatch, capsys):
    asked = []

    def obey(command):
        asked.append(command)
        finish(tmp_path, QUICK)

    monkeypatch.setattr(reproduce, "obey", obey)
    reproduce.main(["quickstart", "--workdir", str(tmp_path)])
    training, judging = asked
    assert training[:3] == [sys.executable, "-m", "simclr_jax", "pretrain"]
    assert judging[:3] == [sys.executable, "-m", "simclr_jax", "evaluate"]
    assert json.loads((tmp_path / "card.json").read_text())["measured"] == 45.21
    assert "- difference: -1.59 points" in capsys.readouterr().out


def test_how_a_door_ends_is_passed_on_and_so_is_a_signal():
    with pytest.raises(SystemExit) as end:
        reproduce.obey([sys.executable, "-c", "raise SystemExit(75)"])
    assert end.value.code == common.TRY_AGAIN
    told = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    told.start()
    with pytest.raises(SystemExit) as end:
        reproduce.obey([sys.executable, "-c", "import time; time.sleep(60)"])
    assert end.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("name", cards.kept())
def test_a_committed_card_is_of_the_row_as_it_is_now(name):
    said = cards.kept()[name]
    row = ROWS[name]
    assert cards.broken(said) == []
    assert said["reproduction"]
    assert said["refused"] == []
    assert said["row"] == json.loads(json.dumps(cards.about(row)))
    recipes = [cards.effective(row, text, []) for text, _ in cards.stages(row, "DIR")]
    plain = [cards.bare(config.plain(c)) for c in recipes]
    assert said["fingerprints"]["config"] == cards.fingerprint(plain)
    assert not re.search(r"/(tmp|home|root|work|Users)\b", json.dumps(said))
