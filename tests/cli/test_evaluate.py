"""The command evaluate: errors of the caller; its scores are tested with pretrain."""

import types
from typing import Any

import pytest

from simclr_jax.cli import common, evaluate, runtime
from simclr_jax.experiment import config
from tests.tools import begin_in, leave_in


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
