"""Every command in README.md, docs, configs and help: run short, or read and built."""

import ast
import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import textwrap

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import sharding
from simclr_jax.cli import (
    data_bench,
    embed,
    evaluate,
    main,
    plan,
    pretrain,
    reproduce,
    visualize,
    zoo,
)
from simclr_jax.experiment import build, config
from simclr_jax.experiment.workdir import saved_config
from tests.tools import FEW_PICTURES, begin_in, last_of_each

README, DOCS = pathlib.Path("README.md"), pathlib.Path("docs")
PAGES = {  # by kind
    "README": [README],
    # The commands of own_parts.md need its files: see test_own_parts.py.
    "docs": sorted({*DOCS.rglob("*.md")} - {DOCS / "own_parts.md"}),
    "launch": sorted(pathlib.Path("launch").glob("*.md")),
    "configs": sorted(pathlib.Path("configs").glob("*.py")),
}


def example(command):
    """The example at the end of a command's help."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main.run([*command.split(), "--help"])
    return output.getvalue().splitlines()[-1].strip()


def blocks(path, language):
    """The ```LANGUAGE blocks of a page."""
    block = rf"^ *```{language}\n(.*?)^ *```"
    return re.findall(block, path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path):
    """The shell commands of a page's ```bash blocks or of a config's docstring."""
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines = text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.startswith("simclr-jax")]
    lines = "".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


PATTERN = re.compile(r"NAME|KEY=|a\.b=|\[")  # shows a form, is no command
BY_KIND = {
    kind: [(path, x) for path in pages for x in commands(path) if not PATTERN.search(x)]
    for kind, pages in PAGES.items()
}
BY_KIND["help"] = [
    (pathlib.Path("simclr_jax/cli"), example(name))
    for name in (*main.COMMANDS, "zoo import", "zoo export", "zoo list")
    if name != "zoo"
]
ALL = {}  # command -> the first page that has it
for pairs in BY_KIND.values():
    for page, text in pairs:
        ALL.setdefault(text, page)
PYTHON = [
    (path, block)
    for kind in ("README", "docs", "launch")
    for path in PAGES[kind]
    for block in blocks(path, "python")
]


def arguments_of(command):
    """The arguments of a command, without variables and docker's own arguments."""
    arguments = shlex.split(command)
    while "=" in arguments[0]:
        arguments.pop(0)  # XLA_FLAGS=...
    if arguments[:2] == ["docker", "run"]:
        command = arguments[arguments.index("IMAGE") + 1 :]
        arguments = ["simclr-jax", *command]
    return arguments


LAUNCHERS = ("launch/local.sh", "launch/tpu_vm.sh", "sbatch")
OTHERS = ("tensorboard", "docker", "kubectl", "pip", "pre-commit")
OTHERS += ("xprof", "gcloud")  # of the latter see tests/launch
READERS = {"plan": plan, "zoo": zoo, "reproduce": reproduce}
READERS |= {"embed": embed, "visualize": visualize}


@pytest.mark.parametrize("kind", BY_KIND)
def test_pages_of_every_kind_have_commands(kind):
    assert len(BY_KIND[kind]) > 5


def test_there_are_commands_of_every_name():
    names = {" ".join(arguments_of(command)[:2]) for command in ALL}
    for name in ("pretrain", "evaluate", "plan", "zoo", "reproduce", "data"):
        assert f"simclr-jax {name}" in names
    assert {"make quickstart", "make test"} == set(commands(README)[:2])


@pytest.mark.parametrize(("path", "block"), PYTHON, ids=lambda x: str(x)[:60])
def test_python_compiles(path, block):
    compile(textwrap.dedent(block), str(path), "exec")


def test_pages_have_python():
    assert PYTHON


def test_the_first_steps_of_the_help_are_those_of_the_readme():
    readme = [shlex.split(command) for command in commands(README)]
    assert all(shlex.split(line) in readme for line in main.FIRST_STEPS)


@pytest.mark.parametrize("command", ALL, ids=lambda x: x[:90])
def test_a_command_is_understood(command, tmp_path):
    arguments = arguments_of(command)
    name = arguments[1] if arguments[0] == "simclr-jax" else ""
    if name == "pretrain":
        check_training(arguments[2:])
    elif arguments[0] in LAUNCHERS:
        check_training(arguments[arguments.index("--config") :])
    elif name in READERS:
        assert READERS[name].read(arguments[2:])
    elif name == "data":
        assert data_bench.read(arguments[3:])
    elif name == "evaluate":
        namespace, changes = evaluate.read(arguments[2:])
        if namespace.compare:
            return
        begin_in(tmp_path, config.load("configs/quickstart.py"))
        saved_config(tmp_path, changes)
        assert namespace.workdir
    elif arguments[0] == "make":
        subprocess.run(["make", "-n", *arguments[1:]], check=True, capture_output=True)
    elif arguments[:2] == ["python", "-c"]:
        compile(arguments[2], command, "exec")
    elif arguments[0] == "export":
        makefile = pathlib.Path("Makefile").read_text()
        assert arguments[1].partition("=")[2] in makefile  # the two must stay alike
    elif "-f" in arguments:  # of docker build and kubectl apply
        assert pathlib.Path(arguments[arguments.index("-f") + 1]).exists()
    else:
        assert arguments[0] in OTHERS, f"{ALL[command]}: what is {command!r}?"


def check_training(arguments):
    """Builds what needs no network in full size."""
    c, _ = pretrain.read(arguments)
    images = 1_281_167 if "imagenet" in c.data.name else 50_000
    total, warmup = build.length(c, images)
    assert total > warmup
    build.build_method(c, images=images, classes=10)
    build.build_optimiser(c, images=images, probing=True)
    build.build_schedule(c, images=images)(0)


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [c for c in ALL if "simclr-jax pretrain" in c],
    ids=lambda x: x[:90],
)
def test_a_documented_run_can_be_assembled(command):
    """Its networks are traced in full size, and its optimiser's rules matched."""
    c, _ = pretrain.read(arguments_of(command)[2:])
    if c.init_from:
        return  # of a run that does not exist
    images = 1_281_167 if "imagenet" in c.data.name else 50_000
    mesh = sharding.make_mesh(jax.devices()[:1])
    assert build.assemble(c, mesh, images=images, classes=10).total


def short(command, workdir, *changes):
    """The arguments of our command in another work directory, with changes."""
    arguments = arguments_of(command)[2:]
    at = next(i for i, x in enumerate(arguments) if x.startswith("--workdir")) + 1
    arguments = [*arguments[:at], str(workdir), *arguments[at + 1 :]]
    return last_of_each([*arguments, *changes])


def test_the_quickstart_and_its_evaluations_run(tmp_path, in_process, capsys):
    """All commands on runs/quickstart."""
    output = subprocess.run(
        ["make", "-n", "quickstart"], check=True, capture_output=True, text=True
    ).stdout
    recipe = [line for line in output.splitlines() if "--workdir" in line]
    first, second = [re.sub(r"^.* (?=pretrain|evaluate)", "-- ", x) for x in recipe]
    small = ("--config.steps=2", "--config.data.batch_size=64", *FEW_PICTURES)
    pretrain.main(short(first, tmp_path, *small))
    evaluate.main(short(second, tmp_path))
    output = capsys.readouterr().out
    assert re.search(r"h, untrained resnet10 +\d+\.\d +\d+\.\d\n", output)
    assert re.search(r"h, after 2 steps +\d+\.\d +\d+\.\d\n", output)
    assert re.search(r"z, its projection +\d+\.\d +\d+\.\d\n", output)
    for name in ("embedding.png", "curves.png", "views.png", "results.json"):
        assert (tmp_path / name).stat().st_size > 200

    evaluations = [
        command
        for command in ALL
        if "simclr-jax evaluate --workdir runs/quickstart --protocol" in command
        and "transfer" not in command  # see tests/cli/test_evaluate.py
    ]
    assert len(evaluations) >= 3
    for command in evaluations:
        small = ["--config.evaluate.linear_augmented.epochs=1"]
        small += ["--config.evaluate.linear_augmented.batch_size=250"]
        small += ["--config.evaluate.factors.pictures=100"]
        small += ["--config.evaluate.transfer.strengths=2"]
        evaluate.main(short(command, tmp_path, *small))
        assert "%" in capsys.readouterr().out

    export = next(command for command in ALL if "--to savedmodel" in command)
    arguments = arguments_of(export)[2:]
    arguments[arguments.index("--workdir") + 1] = str(tmp_path)
    arguments[arguments.index("--out") + 1] = f"{tmp_path}/out"
    zoo.main(arguments)
    assert "run by tensorflow" in capsys.readouterr().out


TINY = "--config.encoder.name=tests.tools:tiny"
SHORT_RUN = (
    *("--config.steps=2", TINY),
    *("--config.method.hidden=16", "--config.checkpoint.every=2"),
)


@pytest.mark.parametrize(
    "layout",
    [
        "{0}/{1}.jpg",  # classes
        pytest.param("{1}.jpg", marks=pytest.mark.long),
        pytest.param("{2}/{0}/{1}.jpg", marks=pytest.mark.long),
    ],
)
def test_pictures_of_a_user(tmp_path, in_process, capsys, layout):
    """The pair of commands on runs/mine, with 60 pictures in each layout."""
    rng = np.random.default_rng(0)
    for i in range(60):
        name = layout.format("abc"[i % 3], i, "val" if i < 9 else "train")
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    first, second = (
        command.replace("path/to/pictures", str(tmp_path / "pictures"))
        for command in commands(README)
        if "runs/mine" in command
    )
    pretrain.main(short(first, tmp_path / "mine", *SHORT_RUN))
    seen, out = (51, 9) if "val" in name or "train" in name else (54, 6)
    message = f"batch 256 is larger than the {seen} pictures: using 32"
    assert message in capsys.readouterr().err
    evaluate.main(short(second, tmp_path / "mine", TINY))
    assert (tmp_path / "mine" / "embedding.png").stat().st_size > 200
    text, labelled = capsys.readouterr(), "{0}" in layout
    assert f"features of {seen} + {out} pictures" in text.err
    assert ("chance is 33.3 %" in text.out) == labelled
    assert ("has no labels" in text.out) != labelled


@pytest.mark.long
def test_the_whole_quickstart(tmp_path):
    """make quickstart as it stands: training helps, and h is better than z."""
    environment = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    command = ["make", "quickstart", f"WORKDIR={tmp_path}"]
    subprocess.run(command, check=True, env=environment)  # optimised as usual
    results = json.loads((tmp_path / "results.json").read_text())
    linear = {name: x["accuracy"] for name, x in results["linear"].items()}
    assert linear["h"] >= linear["untrained_h"] + 0.10
    assert linear["h"] > linear["z"]
    assert linear["h"] > 0.452
