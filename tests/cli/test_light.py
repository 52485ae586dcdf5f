"""Help and listings: quick, without the large libraries, and on one screen."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from simclr_jax.cli import evaluate, main, pretrain
from simclr_jax.cli.main import COMMANDS
from simclr_jax.experiment import schema

HEAVY = ("jax", "jaxlib", "tensorflow", "orbax", "sklearn", "flax", "optax")
LINES = 45  # of a screen
SCRIPT = """
import json, sys
from simclr_jax.cli import main
try:
    main.run(sys.argv[1:])
except SystemExit as end:
    if end.code:
        raise
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
CALLS = [
    "--help",
    *(f"{name} --help" for name in COMMANDS),
    *("zoo import --help", "zoo export --help", "zoo list", "reproduce --list"),
]


@pytest.mark.parametrize("call", CALLS)
def test_it_loads_no_large_library(call):
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *call.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    *output, loaded = process.stdout.splitlines()
    assert not set(HEAVY) & set(json.loads(loaded))
    assert process.stderr == ""
    if call.endswith("--help"):
        assert len(output) <= LINES
        assert any("simclr-jax " in line for line in output)


@pytest.mark.parametrize("call", [x for x in CALLS if x.endswith(" --help")])
def test_help_ends_with_an_example(call):
    process = subprocess.run(
        [sys.executable, "-m", "simclr_jax", *call.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    *_, heading, example = process.stdout.splitlines()
    assert heading == "example:"
    assert example.strip().startswith(f"simclr-jax {call.split()[0]} ")


def test_without_arguments_the_commands_and_the_first_steps_are_listed(capsys):
    main.run([])
    output = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{text}$", output, re.MULTILINE)
    lines = re.findall(r"^  simclr-jax (.*)", output, re.MULTILINE)
    first, second, third = map(shlex.split, lines)
    for arguments in (first, third):
        assert arguments.pop(0) == "pretrain"
        assert pretrain.read(arguments)
    assert second.pop(0) == "evaluate"
    assert evaluate.read(second)[0].workdir == pretrain.read(first)[1]
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize(("name", "nearest"), [("data", "data bench"), ("eval", "eva")])
def test_an_unknown_command_names_the_nearest(name, nearest, capsys):
    with pytest.raises(SystemExit) as error:
        main.run([name])
    assert error.value.code == 2
    assert f"Did you mean '{nearest}" in capsys.readouterr().err


def test_evaluate_names_the_protocols_without_loading_them():
    assert tuple(schema.PROTOCOLS) == evaluate.PROTOCOLS
