"""Every command in README.md and in the docstrings: run short, or read and built."""

import ast
import json
import os
import pathlib
import re
import shlex
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import sharding
from simclr_jax.cli import data_bench, evaluate, plan, pretrain, reproduce, zoo
from simclr_jax.experiment import build, config
from tests.tools import begin_in

PLACES = [
    pathlib.Path("README.md"),
    *sorted(pathlib.Path("docs").glob("*.md")),
    *sorted(pathlib.Path("launch").glob("*.md")),
    *sorted(pathlib.Path("configs").glob("*.py")),
    pathlib.Path("simclr_jax/cli/pretrain.py"),
    *sorted(pathlib.Path("simclr_jax").glob("*/__main__.py")),
]


def commands(path):
    """The shell commands of a page's ```bash blocks or of a module's docstring."""
    text = path.read_text()
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
        lines = text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.startswith("python -m")]
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


PATTERN = re.compile(r"NAME|KEY=|a\.b=|\[")  # shows a form, is no command
ALL = [
    (path, command)
    for path in PLACES
    for command in commands(path)
    if not PATTERN.search(command)
]


def words_of(command):
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)  # XLA_FLAGS=...
    if words[:2] == ["docker", "run"]:
        words = ["python", "-m", *words[words.index("IMAGE") + 1 :]]
    return words


LAUNCHERS = ("launch/local.sh", "launch/tpu_vm.sh", "sbatch")
OTHERS = ("tensorboard", "docker", "kubectl", "gcloud")  # see tests/launch for the last


def test_there_are_commands_of_every_kind():
    kinds = {" ".join(words_of(command)[:3]) for _, command in ALL}
    assert {"python -m simclr_jax pretrain", "python -m simclr_jax evaluate"} <= kinds
    assert {"make quickstart", "make test"} <= {command for _, command in ALL}
    assert len(ALL) > 15


@pytest.mark.parametrize(("path", "command"), ALL, ids=lambda x: str(x)[:90])
def test_is_understood(path, command, tmp_path):
    words = words_of(command)
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], check=True, capture_output=True)
    elif words[0] in LAUNCHERS or words[2:3] == ["simclr_jax.cli.pretrain"]:
        c, _ = pretrain.read(
            words[3 if words[0] == "python" else words.index("--config") :]
        )
        images = 1_281_167 if "imagenet" in c.data.name else 50_000
        total, warmup = build.length(c, images)
        assert total > warmup
        build.build_method(c, images=images, classes=10)
        build.build_optimiser(c, images=images, probing=True)
        build.build_schedule(c, images=images)(0)
    elif words[:3] == ["python", "-m", "simclr_jax", "plan"]:
        assert plan.read(words[3:])
    elif words[:3] == ["python", "-m", "simclr_jax", "zoo"]:
        assert zoo.read(words[3:])
    elif words[:3] == ["python", "-m", "simclr_jax", "reproduce"]:
        assert reproduce.read(words[3:])
    elif words[:3] == ["python", "-m", "simclr_jax", "data", "bench"]:
        assert data_bench.read(words[3:])
    elif words[:3] == ["python", "-m", "simclr_jax", "evaluate"]:
        arguments, changes = evaluate.read(words[3:])
        begin_in(tmp_path, config.load("configs/quickstart.py"))
        evaluate.read_config(tmp_path, changes)
        assert arguments.workdir
    elif words[:2] == ["python", "-c"]:
        compile(words[2], "README.md", "exec")
    elif words[0] == "export":
        makefile = pathlib.Path("Makefile").read_text()
        assert words[1].partition("=")[2] in makefile  # the two must not drift apart
    elif "-f" in words:  # of docker build and kubectl apply
        assert pathlib.Path(words[words.index("-f") + 1]).exists()
    else:
        assert words[0] in OTHERS, f"{path}: what is {command!r}?"


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [c for _, c in ALL if "simclr_jax pretrain" in c],
    ids=lambda x: x[:90],
)
def test_a_documented_run_can_be_put_together(command):
    """Its networks are traced in full size, and its optimiser's rules looked up."""
    c, _ = pretrain.read(words_of(command)[3:])
    if c.init_from:
        return  # of a run that is not there
    images = 1_281_167 if "imagenet" in c.data.name else 50_000
    mesh = sharding.make_mesh(jax.devices()[:1])
    assert build.assemble(c, mesh, images=images, classes=10).total


def short(command, workdir):
    """The same words for a run of two steps somewhere else."""
    words = words_of(command)
    at = next(i for i, w in enumerate(words) if w.startswith("--workdir")) + 1
    return [*words[3:at], str(workdir), *words[at + 1 :]]


def test_the_quickstart_and_its_judgements_run(tmp_path, in_process, capsys):
    """All commands about runs/quickstart, in the order of the README."""
    told = subprocess.run(
        ["make", "-n", "quickstart"], check=True, capture_output=True, text=True
    ).stdout
    recipe = [line for line in told.splitlines() if "-m simclr_jax" in line]
    first, second = [line[line.index("-m ") :] for line in recipe]
    less = ["--config.steps=2", "--config.data.batch_size=64"]
    pretrain.main(short(f"python {first}", tmp_path) + less)
    evaluate.main(short(f"python {second}", tmp_path))
    said = capsys.readouterr().out
    assert re.search(r"h, untrained resnet10 +\d+\.\d +\d+\.\d\n", said)
    assert re.search(r"h, after 2 steps +\d+\.\d +\d+\.\d\n", said)
    assert re.search(r"z, its projection +\d+\.\d +\d+\.\d\n", said)
    for name in ("embedding.png", "curves.png", "views.png", "results.json"):
        assert (tmp_path / name).stat().st_size > 200

    judging = [
        command
        for _, command in ALL
        if "simclr_jax.evaluate --workdir runs/quickstart --protocol" in command
    ]
    assert len(judging) >= 3
    for command in judging:
        less = ["--config.evaluate.linear_augmented.epochs=1"]
        less += ["--config.evaluate.linear_augmented.batch_size=512"]
        evaluate.main(short(command, tmp_path) + less)
        assert "%" in capsys.readouterr().out

    (exported,) = (command for _, command in ALL if "--to savedmodel" in command)
    words = short(exported, tmp_path)
    words[words.index("--out") + 1] = f"{tmp_path}/out"
    zoo.main(words)
    assert "run by tensorflow" in capsys.readouterr().out


LESS = [
    *("--config.steps=2", "--config.data.batch_size=8", "--config.encoder.channels=4"),
    *("--config.method.hidden=16", "--config.checkpoint.every=2"),
]


@pytest.mark.long
def test_ones_own_pictures(tmp_path, in_process):
    """The pair of commands about runs/mine, on a flat folder of pictures."""
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for i in range(12):
        pixels = draw.integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.jpg")
    first, second = (
        command.replace("path/to/pictures", str(tmp_path / "pictures"))
        for path, command in ALL
        if path.name == "README.md" and "runs/mine" in command
    )
    pretrain.main(short(first, tmp_path / "mine") + LESS)
    evaluate.main(short(second, tmp_path / "mine"))
    assert (tmp_path / "mine" / "embedding.png").stat().st_size > 200


@pytest.mark.long
def test_the_whole_quickstart(tmp_path):
    """make quickstart as it stands: the lesson shows."""
    ours = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    words = ["make", "quickstart", f"WORKDIR={tmp_path}"]
    subprocess.run(words, check=True, env=ours)  # as optimised as it runs by itself
    results = json.loads((tmp_path / "results.json").read_text())
    linear = {name: said["accuracy"] for name, said in results["linear"].items()}
    assert linear["h"] >= linear["untrained_h"] + 0.10
    assert linear["h"] > linear["z"]
    assert linear["h"] > 0.452
