"""The package's Python API: lazy, typed configs, and training."""

import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax.cli import pretrain as command
from simclr_jax.train.log import Log
from tests.cli.test_light import HEAVY
from tests.tools import losses

CHANGES = {  # as in tests/cli/test_pretrain.py, so that the programs are compiled once
    "data.batch_size": 32,
    "encoder.channels": 4,
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
        ({"optim.lr": "fast"}, "optim.lr=fast: must be float"),
        ({"data.batch_size": 0}, "data.batch_size=0: must be above 0"),
        ({"data.batch_size": 32.5}, "data.batch_size=32.5: must be int"),
    ],
)
def test_wrong_changes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        simclr_jax.get_config("quickstart", changes)


def test_training_is_that_of_the_command(tmp_path, in_process):
    handlers = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    c = simclr_jax.get_config("quickstart", CHANGES)
    result = simclr_jax.pretrain(c, tmp_path / "python")
    assert (result.workdir, result.steps) == (str(tmp_path / "python"), 6)
    assert result.metrics["step"] == 6
    assert result.metrics["loss"] == losses(tmp_path / "python")[-1]
    assert handlers == [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]

    flags = [f"--config.{key}={value}" for key, value in CHANGES.items()]
    workdir = tmp_path / "command"
    command.main(["--config", "quickstart", "--workdir", str(workdir), *flags])
    assert losses(workdir) == losses(tmp_path / "python")
    assert (workdir / "views.png").exists()
    encoders = simclr_jax.load(result.workdir), simclr_jax.load(workdir)
    assert encoders[0].step == 6
    a, b = (jax.tree.leaves(encoder.params) for encoder in encoders)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_interrupted_training_is_resumed(tmp_path, in_process, monkeypatch, capsys):
    """The state is saved, although no checkpoint was due."""
    c = simclr_jax.get_config("quickstart", CHANGES)
    write = Log.write

    def interrupt(self, step, metrics):
        write(self, step, metrics)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simclr_jax.pretrain(c, tmp_path)
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved >= 2  # further steps may have been dispatched
    assert simclr_jax.pretrain(c, tmp_path).steps == 6
    assert f"resuming from the checkpoint of step {saved}" in capsys.readouterr().err


def test_a_config_that_was_set_wrong_is_refused(tmp_path, in_process):
    c = simclr_jax.get_config("quickstart", CHANGES)
    c.data.batch_size = 0
    with pytest.raises(ValueError, match=r"data\.batch_size=0"):
        simclr_jax.pretrain(c, tmp_path / "x")
    assert not (tmp_path / "x").exists()
