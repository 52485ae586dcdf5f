"""The package's Python API: lazy, typed configs, and training."""

import json
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.cli import pretrain as command
from simclr_jax.experiment import config
from simclr_jax.train.log import Log
from tests.cli.test_light import HEAVY
from tests.tools import losses
from tests.zoo.workdirs import random_workdir

CHANGES = {  # as in tests/cli/test_pretrain.py: the same programs, compiled once
    "data.batch_size": 32,
    "encoder.name": "tests.tools:tiny",
    "method.hidden": 16,
    "steps": 6,
    "log_every": 2,
}


def test_importing_the_package_loads_no_large_library():
    code = (
        "import sys, json, simclr_jax; dir(simclr_jax); "
        "print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not set(HEAVY) & set(json.loads(output))


def test_the_names_of_the_package():
    for name in simclr_jax.__all__:
        assert callable(getattr(simclr_jax, name))
        assert name in dir(simclr_jax)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        simclr_jax.pretrian  # noqa: B018  # pyrefly: ignore[missing-attribute]


def test_changes_of_a_config_are_values(tmp_path):
    c = simclr_jax.get_config(
        "quickstart",
        {"optim.lr": 1, "encoder.mean": [0.1, 0.2, 0.3], "data.data_dir": tmp_path},
    )
    assert (c.optim.lr, type(c.optim.lr)) == (1.0, float)
    assert c.encoder.mean == (0.1, 0.2, 0.3)
    assert c.data.data_dir == str(tmp_path)
    assert simclr_jax.get_config("configs/quickstart.py").optim.lr != 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.rate": 0.1}, "optim: unknown 'rate'"),
        ({"optim.lr": "fast"}, "optim.lr must be a number"),
        ({"data.batch_size": 0}, "data.batch_size=0: must be above 0"),
        ({"data.batch_size": 32.5}, "data.batch_size must be a whole number"),
    ],
)
def test_wrong_changes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        simclr_jax.get_config("quickstart", changes)


def test_an_interrupted_training_is_resumed_by_the_command(
    tmp_path, in_process, monkeypatch, capsys
):
    """The state is saved, although no checkpoint was due; no handler is installed."""
    handlers = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    c = simclr_jax.get_config("quickstart", CHANGES)
    write = Log.write

    def interrupt(self, step, metrics):
        write(self, step, metrics)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simclr_jax.pretrain(c, tmp_path)
    assert handlers == [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved >= 2  # further steps may have been dispatched

    flags = [f"--config.{key}={value}" for key, value in CHANGES.items()]
    command.main(["--config", "quickstart", "--workdir", str(tmp_path), *flags])
    assert f"resuming from the checkpoint of step {saved}" in capsys.readouterr().err
    result = simclr_jax.pretrain(c, str(tmp_path))  # finished already
    assert (result.workdir, result.steps) == (str(tmp_path), 6)
    assert result.metrics["step"] == 6
    assert result.metrics["loss"] == losses(tmp_path)[-1]
    assert (tmp_path / "views.png").exists()


def test_a_config_that_was_set_wrong_is_refused(tmp_path, in_process):
    c = simclr_jax.get_config("quickstart", CHANGES)
    c.data.batch_size = 0
    with pytest.raises(ValueError, match=r"data\.batch_size=0"):
        simclr_jax.pretrain(c, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_examples_of_the_page_run(tmp_path, in_process, monkeypatch, capsys):
    """All Python blocks of docs/python.md, in their order."""
    page = pathlib.Path("docs/python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    random_workdir(
        tmp_path / "runs" / "quickstart", "quickstart.py", encoder__channels="2"
    )
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (40 + i, 50, 3)).astype(np.uint8)
            path = tmp_path / "pictures" / name / f"{i}.png"
            Image.fromarray(pixels).save(path)
    network = {"encoder.name": "resnet10", "encoder.channels": 4}
    small = simclr_jax.get_config("quickstart", CHANGES | network)
    monkeypatch.setattr(config, "get_config", lambda name, changes: small)
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    for block in blocks:
        exec(block, variables)
    assert variables["h"].shape == (24, 16)
    assert variables["encoder"].step == 6
    output = capsys.readouterr().out
    assert re.search(r"0\.png: (\d+\.png(, )?){3}\n", output)
    assert re.search(r"accuracy [01]\.\d\d\n", output)
