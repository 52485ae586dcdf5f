"""Every method's quickstart through the doors, in half precision and split.

In two processes, and resumed: minutes in all, so behind `make test-long`.
"""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.tools import with_devices

pytestmark = [
    pytest.mark.long,
    pytest.mark.parametrize("method", ["moco", "mocov3", "byol", "simsiam", "dino"]),
]
SMALL = (
    "--config.data.batch_size=32",
    "--config.data.split=train[:500]",
    "--config.encoder.channels=4",
    "--config.encoder.dtype=bfloat16",
    "--config.data.colour=device",
    "--config.placement=fsdp",
    "--config.optim.lr=0.0001",
    "--config.log_every=1",
    "--config.steps=4",
)


def losses(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def train(method, workdir, *changes, devices):
    config = f"--config=configs/{method}_quickstart.py"
    door = [sys.executable, "-m", "simclr_jax.pretrain", config, *SMALL, *changes]
    subprocess.run(
        [*door, f"--workdir={workdir}"], env=with_devices(devices), check=True
    )


def test_two_processes_train_as_one(method, tmp_path):
    train(method, tmp_path / "1", devices=4)
    words = [f"--config=configs/{method}_quickstart.py", f"--workdir={tmp_path}/2"]
    subprocess.run(
        f"launch/local.sh 2 {shlex.join([*words, *SMALL])}",
        shell=True,
        env=with_devices(2) | {"PYTHON": sys.executable},
        check=True,
    )
    # Half precision, so no closer than that.
    np.testing.assert_allclose(
        losses(tmp_path / "1"), losses(tmp_path / "2"), rtol=2e-3
    )


def test_a_resumed_run_is_the_same_to_the_bit(method, tmp_path):
    halves = ("--config.checkpoint.every=2", "--config.checkpoint.keep=5")
    train(method, tmp_path, *halves, devices=2)
    whole = losses(tmp_path)
    subprocess.run(["rm", "-r", str(tmp_path / "checkpoints" / "4")], check=True)
    train(method, tmp_path, *halves, devices=2)
    assert losses(tmp_path) == whole
    door = [sys.executable, "-m", "simclr_jax.evaluate", f"--workdir={tmp_path}"]
    judged = subprocess.run(
        [*door, "--protocol=knn"],
        env=with_devices(1),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "%" in judged.stdout
