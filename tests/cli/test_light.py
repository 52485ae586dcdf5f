"""Help and listings: quick, without the large libraries, and on one screen."""

import json
import subprocess
import sys

import pytest

from simclr_jax.cli import evaluate
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


def test_evaluate_names_the_protocols_without_loading_them():
    assert tuple(schema.PROTOCOLS) == evaluate.PROTOCOLS
