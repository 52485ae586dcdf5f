"""The command `reproduce`, on work directories that are written by hand."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading

import pytest
import yaml

from simclr_jax.cli import common, pretrain, reproduce
from simclr_jax.experiment import reproduction
from simclr_jax.reproduce.rows import ROWS
from tests.reproduce.workdirs import MAP, QUICK, alter, finish, save


def test_the_list_has_every_row_and_what_was_not_run(capsys):
    reproduce.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1 : len(ROWS) + 1]]
    assert names == list(ROWS)
    byol = next(line for line in lines if line.startswith("byol_300 "))
    assert re.search(r"72\.5 +85 to 197 v5e +not run$", byol)


def test_a_row_prints_its_differences_changes_and_commands(capsys):
    changes = ["--config.optim.lr=0.2", "--config.evaluate.knn.k=20"]
    reproduce.main(["byol_300", *changes, "--config.evaluate.every=100"])
    out = capsys.readouterr().out
    for line in (
        "byol_300: arXiv:2006.07733, ablations: ResNet-50, 300 epochs, batch 4096",
        "encoder.dtype: not stated; ours bfloat16",
        "optim.lr: was 0.3, now 0.2",
        "simclr-jax pretrain --config byol_imagenet:epochs=300 "
        "--workdir DIR --config.optim.lr=0.2 --config.evaluate.every=100\n",
        "--protocol linear_augmented --features h "
        "--config.evaluate.linear_augmented.epochs=80 ",
        " --config.evaluate.knn.k=20\n",
    ):
        assert line in out


def test_a_row_of_stages_has_a_command_for_each_and_one_evaluation():
    *training, evaluation = reproduction.commands(MAP, "DIR", [])
    name = "tsimcne_quickstart"
    texts = [name, *(f"{name}:stage={n},init_from=DIR/stage{n - 1}" for n in (2, 3))]
    for n, (command, text) in enumerate(zip(training, texts, strict=True), 1):
        assert command == [
            *("pretrain", "--config", text),
            *("--workdir", f"DIR/stage{n}"),
        ]
    assert evaluation[:3] == ["evaluate", "--workdir", "DIR/stage3"]


def test_launch_prints_lines_and_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "run_command", None)
    reproduce.main(["byol_1000_r101_2x", "--launch", "--workdir", "gs://bucket/run"])
    out = capsys.readouterr().out
    assert "reproduce byol_1000_r101_2x --card gs://bucket/run" in out


STUBS = {  # the programs that launchers call: they print the arguments of pretrain
    "srun": 'printf "%s\\n" "${@: 6}"',
    "python": '[[ $1 == -c ]] && echo 1 || printf "%s\\n" "${@: 4}"',
    "docker": '[[ $1 == run ]] && printf "%s\\n" "${@: 12}" || true',
    "gcloud": 'script=${@: -1}; [[ $1 == auth ]] || bash "${script##*=}"',
}
FILLED = {"N": "1", "NAME": "run", "ZONE": "zone", "TYPE": "v4-8", "IMAGE": "image:1"}


def launched(line, folder):
    """The arguments of pretrain that a launcher passes on."""
    for name, body in STUBS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    words = [FILLED.get(word, word) for word in shlex.split(line)]
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", *(words[1:] if words[0] == "sbatch" else words)],
        env=os.environ | {"PATH": path, "PYTHON": str(folder / "python")},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "data_dir"),
    [("byol_1000_r101_2x", "DATA"), ("quickstart", ""), (MAP.name, "")],
)
def test_every_launch_line_runs_pretrain(tmp_path, capsys, name, data_dir):
    """Every launcher passes on the same arguments, which pretrain accepts."""
    reproduce.main([name, "--launch", "--workdir", "gs://bucket/a run"])
    lines = capsys.readouterr().out.splitlines()
    launchers = [x for x in lines if x.startswith(("launch/", "sbatch "))]
    passed = [launched(line, tmp_path) for line in launchers]
    for line in lines:
        if line.startswith("args: "):
            command, *arguments = yaml.safe_load(line)["args"]
            assert command == "pretrain"
            passed.append(arguments)
    stages = ROWS[name].stages
    assert len(passed) == 4 * stages
    for n in range(stages):
        assert len({*map(tuple, passed[n::stages])}) == 1
        c, workdir = pretrain.read(passed[n])
        assert workdir.startswith("gs://bucket/a run")
        assert (c.data.colour, c.data.data_dir) == ("device", data_dir)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["byol_30"], "ROW: unknown 'byol_30'. Did you mean 'byol_300'?"),
        (["byol_300", "--config.optim.shedule=x"], "Did you mean 'schedule'?"),
        (["--card", "nowhere"], "nowhere is no work directory"),
    ],
)
def test_errors_of_the_call_are_usage_errors(argv, message):
    with pytest.raises(common.UsageError, match=re.escape(message)):
        reproduce.main(argv)


@pytest.mark.parametrize(
    "argv",
    [[], ["--list", "byol_300"], ["--list", "--launch"], ["--card", "x", "--launch"]],
)
def test_arguments_that_exclude_each_other(argv, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(argv)
    assert "simclr-jax reproduce: " in capsys.readouterr().err


def test_a_row_is_run_and_its_card_written(tmp_path, monkeypatch, capsys):
    commands = []

    def run_command(command):
        commands.append(command)
        finish(tmp_path, QUICK)

    monkeypatch.setattr(reproduce, "run_command", run_command)
    reproduce.main(["quickstart", "--workdir", str(tmp_path)])
    training, evaluation = commands
    assert training[:4] == [sys.executable, "-m", "simclr_jax", "pretrain"]
    assert training[5] == "quickstart"
    assert evaluation[:4] == [sys.executable, "-m", "simclr_jax", "evaluate"]
    assert json.loads((tmp_path / "card.json").read_text())["measured"] == 45.21
    assert "- difference: -1.59 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        (
            "results.json",
            lambda results: results["linear"]["h"].update(accuracy=0.4522),
            "fingerprints.score",
        ),
        (
            "results.json",
            lambda results: results["linear"]["h"]["settings"].update(l2=1e-2),
            "fingerprints.evaluation",
        ),
        ("config.json", lambda c: c.update(epochs=40.0), "fingerprints.config"),
        ("data.json", lambda data: data.update(classes=11), "fingerprints.data"),
        ("card.json", lambda card: card.update(measured=99.0), "measured"),
        ("card.json", lambda card: card["environment"].update(jax="9"), "fingerprint"),
    ],
)
def test_a_change_after_the_card_was_written_is_reported(
    tmp_path, capsys, name, change, field
):
    folder, argv = finish(tmp_path, QUICK), ["--card", str(tmp_path)]
    reproduce.main(["quickstart", *argv])
    assert {"card.json", "card.md"} <= {path.name for path in folder.iterdir()}
    reproduce.main(argv)
    assert "card.json: quickstart, matches" in capsys.readouterr().out
    alter(folder / name, change)
    with pytest.raises(SystemExit) as end:
        reproduce.main(argv)
    assert end.value.code == common.FAILED
    assert re.search(rf"^  {field}: ", capsys.readouterr().out, re.M)


def test_a_file_that_is_not_a_card_is_an_error(tmp_path):
    save(finish(tmp_path, QUICK), "card.json", {"measured": 50.0})
    with pytest.raises(common.UsageError, match="not a card"):
        reproduce.main(["--card", str(tmp_path)])


def test_exit_codes_and_signals_are_passed_on(tmp_path):
    with pytest.raises(SystemExit) as end:
        reproduce.run_command([sys.executable, "-c", "raise SystemExit(75)"])
    assert end.value.code == common.TRY_AGAIN
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(SystemExit) as end:
        reproduce.run_command(sleep)
    assert end.value.code == 128 + signal.SIGTERM
