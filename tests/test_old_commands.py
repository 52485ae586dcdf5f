"""`python -m simclr_jax.pretrain` and its siblings: one line with the new command."""

import importlib
import json
import subprocess
import sys
import types

import pytest

import simclr_jax
from simclr_jax.cli.main import COMMANDS

OLD = {  # module: command
    f"simclr_jax.{name.replace(' ', '.')}": name
    for name in ("pretrain", "evaluate", "plan", "reproduce", "zoo", "data bench")
}
SCRIPT = """
import json, runpy, sys
for name in sys.argv[1:]:
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        print(end.code)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_each_names_the_new_command_and_does_nothing_else():
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *OLD], capture_output=True, text=True, check=True
    )
    assert COMMANDS.keys() >= {*OLD.values()}
    *codes, loaded = process.stdout.splitlines()
    assert codes == ["2"] * len(OLD)
    lines = process.stderr.splitlines()
    assert len(lines) == len(OLD)
    for line, command in zip(lines, OLD.values(), strict=True):
        assert f"`simclr-jax {command}`" in line
    imported = set(json.loads(loaded)) - sys.stdlib_module_names
    assert not imported & {"jax", "tensorflow", "numpy", "etils"}


def test_the_module_cannot_take_the_name_of_the_function():
    with pytest.raises(ImportError, match="function"):
        importlib.import_module("simclr_jax.pretrain")
    assert not isinstance(vars(simclr_jax).get("pretrain"), types.ModuleType)
