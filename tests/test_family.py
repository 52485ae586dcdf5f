"""Every method's quickstart through the doors, in half precision and split.

In two processes, and resumed: minutes in all, so behind `make test-long`.
"""

import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.methods.catalog import METHODS
from tests.tools import losses, with_devices

pytestmark = pytest.mark.long
CONFIGS = {name: f"configs/{name}_quickstart.py" for name in METHODS}
CONFIGS["simclr"] = "configs/quickstart.py"
RUN = (
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


def train(config, workdir, *changes, devices):
    """In one process."""
    door = [sys.executable, "-m", "simclr_jax", "pretrain", f"--config={config}"]
    subprocess.run(
        [*door, f"--workdir={workdir}", *RUN, *changes],
        env=with_devices(devices),
        check=True,
    )


def train_in_two(config, workdir, *changes):
    """In two processes of two devices each."""
    words = shlex.join([f"--config={config}", f"--workdir={workdir}", *RUN, *changes])
    subprocess.run(
        f"launch/local.sh 2 {words}",
        shell=True,
        env=with_devices(2) | {"PYTHON": sys.executable},
        check=True,
    )


def same(one, two):
    """Half precision, so no closer than that; SimSiam's loss begins near 0."""
    assert len(losses(one)) == 4
    np.testing.assert_allclose(losses(one), losses(two), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one(method, tmp_path):
    train(CONFIGS[method], tmp_path / "1", devices=4)
    train_in_two(CONFIGS[method], tmp_path / "2")
    same(tmp_path / "1", tmp_path / "2")


def test_two_processes_begin_with_another_run_as_one_does(tmp_path):
    """Stage 2 of t-SimCNE: the encoder comes from stage 1, the last layer is new."""
    train(CONFIGS["tsimcne"], tmp_path / "first", devices=4)
    config = f"{CONFIGS['tsimcne']}:stage=2,init_from={tmp_path / 'first'}"
    train(config, tmp_path / "1", devices=4)
    train_in_two(config, tmp_path / "2")
    same(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_same_to_the_bit(method, tmp_path):
    halves = ("--config.checkpoint.every=2", "--config.checkpoint.keep=5")
    train(CONFIGS[method], tmp_path, *halves, devices=2)
    whole = losses(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    train(CONFIGS[method], tmp_path, *halves, devices=2)
    assert losses(tmp_path) == whole
    door = [sys.executable, "-m", "simclr_jax", "evaluate", f"--workdir={tmp_path}"]
    judged = subprocess.run(
        [*door, "--protocol=knn"],
        env=with_devices(1),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "%" in judged.stdout
