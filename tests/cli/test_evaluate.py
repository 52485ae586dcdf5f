"""The command evaluate: errors of the caller; its scores are tested with pretrain."""

import itertools
import json
import types
from typing import Any

import pytest

from simclr_jax.cli import common, evaluate, runtime
from simclr_jax.experiment import config
from tests.tools import begin_in, last_of_each, leave_in


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.optim.lr=1.0"], "belongs to the training"),
        (["--config.evaluate.knn.kk=3"], "Did you mean 'k'"),
        (["--protocol=linea"], "Did you mean 'linear'"),
        (["--features=z"], "needs a --protocol: knn, linear, linear_augmented"),
        (["--protoc=knn"], "Did you mean --protocol?"),
        (["--protocol=knn", "--protocol=linear"], "--protocol: given more than once"),
        (["--config.evaluate.knn.k=0"], "evaluate.knn.k=0: must be above 0"),
        (["--config.evaluate.linear_augmented.epochs=-3"], "must be above 0"),
    ],
)
def test_usage_errors(tmp_path, in_process, arguments, message, capsys):
    begin_in(tmp_path, config.load("configs/quickstart.py"))
    with pytest.raises((SystemExit, common.UsageError)) as error:
        evaluate.main([f"--workdir={tmp_path}", *arguments])
    code = getattr(error.value, "code", None) or runtime.report(error.value)
    assert code == common.USAGE
    assert message in capsys.readouterr().err


def test_a_feature_that_the_method_lacks(tmp_path, in_process):
    leave_in(tmp_path, config.load("configs/quickstart.py"))
    arguments = [f"--workdir={tmp_path}", "--protocol=knn", "--features=x"]
    with pytest.raises(common.UsageError, match=r"unknown 'x'\. There are: h, head1"):
        evaluate.main(arguments)


def test_a_folder_without_a_run(tmp_path, in_process):
    with pytest.raises(common.UsageError, match=r"has no config\.json"):
        evaluate.main([f"--workdir={tmp_path}"])
    begin_in(tmp_path, config.load("configs/quickstart.py"))
    with pytest.raises(common.UsageError, match="no checkpoint yet"):
        evaluate.main([f"--workdir={tmp_path}"])


@pytest.mark.parametrize("text", ["", "[]", '{"seed": '])
def test_a_damaged_config_is_named(tmp_path, in_process, text):
    begin_in(tmp_path, config.load("configs/quickstart.py"))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(common.UsageError, match=r"config\.json is damaged"):
        evaluate.main([f"--workdir={tmp_path}"])


class Pictures:
    classes = 4

    def __len__(self):
        return 100


@pytest.mark.parametrize(("trained", "better"), [(0.6, True), (0.5, False)])
def test_remarks_say_how_to_read_the_table(trained, better):
    evaluation: Any = types.SimpleNamespace(test=Pictures(), chance=0.25)
    rows = [("h, untrained", {"linear": 0.5}), ("h", {"linear": trained})]
    error, chance, *rest = evaluate.remarks(evaluation, rows)
    assert "100 test pictures: the standard error is at most 5.0 points" in error
    assert "25.0 %" in chance
    assert bool(rest) != better


TINY = "--config.encoder.name=tests.tools:tiny"
FEW = ("--config.data.bank_split=train[:200]", "--config.data.eval_split=test[:100]")


@pytest.fixture
def tiny_run(tmp_path, in_process):
    """A work directory of a small encoder; returns a function that evaluates it."""
    c = config.load("configs/quickstart.py")
    config.override(c, [("encoder.name", "tests.tools:tiny"), ("method.hidden", "16")])
    leave_in(tmp_path, c)

    def run(*arguments):
        first = [f"--workdir={tmp_path}", TINY, *FEW]
        evaluate.main(last_of_each([*first, *arguments]))
        return json.loads((tmp_path / "results.json").read_text())

    return run


def test_transfer_and_fine_tuning(tiny_run, capsys):
    grid = [f"--config.evaluate.transfer.{x}" for x in ("strengths=3", "iterations=20")]
    score = tiny_run("--protocol=transfer", *grid)["transfer"]["h"]
    assert [len(score["validation"]), score["count"]] == [3, 100]
    assert score["settings"]["weakest"] == 1e-6
    small = ["labels=50%", "batch_size=20", "epochs=1"]
    small = [f"--config.evaluate.finetune.{x}" for x in small]
    score = tiny_run("--protocol=finetune", *small)["finetune"]["h, 50%"]
    assert [score["labels"], score["steps"], score["count"]] == [100, 6, 100]
    results = tiny_run("--protocol=finetune", "--preset=simclr_v2", *small)
    assert results.keys() == {"transfer", "finetune"}
    assert results["finetune"].keys() == {"h, 50%", "head1, 50%"}
    score = results["finetune"]["head1, 50%"]
    assert (score["settings"]["optimiser"], score["settings"]["lr"]) == ("lars", 0.005)
    assert "top5" in score
    assert "finetune          head1, 50%" in capsys.readouterr().out


def test_fine_tuning_on_another_data_set(tiny_run, tmp_path):
    """A folder with two classes; and lists that are wrong, which change nothing."""
    from PIL import Image

    for split, name, i in itertools.product(("train", "test"), "ab", range(4)):
        path = tmp_path / "set" / split / name / f"{name}{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (50 * i, 200 * (name == "a"), 0)).save(path)
    (tmp_path / "list").write_text("a0.png\nb2.png\n")
    (tmp_path / "wrong").write_text("a0.png\nb9.png\n")
    there = [f"--config.data.name={tmp_path / 'set'}", "--config.data.bank_split=train"]
    there += ["--config.data.eval_split=test"]
    small = ["batch_size=2", "epochs=1"]
    small = [f"--config.evaluate.finetune.{x}" for x in small]
    labels = f"--config.evaluate.finetune.labels={tmp_path}"
    for change, message in (
        (f"{labels}/wrong", r"names 1 pictures that .* lacks: b9\.png"),
        (f"{labels}/none", "nor a list of file names that can be read"),
        ("--config.evaluate.finetune.labels=20%", "fewer than its 2 classes"),
    ):
        with pytest.raises(common.UsageError, match=message):
            tiny_run("--protocol=finetune", *there, *small, change)
    assert not (tmp_path / "results.json").exists()
    results = tiny_run("--protocol=finetune", *there, *small, f"{labels}/list")
    score = results["finetune"]["h, list"]
    assert (score["labels"], score["count"], score["steps"]) == (2, 8, 2)
