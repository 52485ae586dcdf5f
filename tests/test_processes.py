"""Several processes: the same losses as one, and a clean end when told to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

SMALL = (
    "--config=configs/quickstart.py",
    "--config.data.batch_size=32",
    "--config.encoder.channels=4",
    "--config.method.hidden=16",
    "--config.log_every=1",
)


def environment(devices: int) -> dict:
    flag = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}


def losses(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def test_two_processes_train_as_one(tmp_path):
    """2 processes x 2 devices against 1 process x 4 devices, through the launcher."""
    run = [*SMALL, "--config.steps=4", "--config.optim.lr=0.01"]
    run += ["--config.evaluate.every=4"]
    one = subprocess.Popen(
        [sys.executable, "-m", "simclr_jax.pretrain", *run, f"--workdir={tmp_path}/1"],
        env=environment(4),
    )
    two = subprocess.run(
        ["launch/local.sh", "2", *run, f"--workdir={tmp_path}/2"],
        env=environment(2) | {"PYTHON": sys.executable},
        timeout=300,
    )
    assert one.wait(300) == two.returncode == 0
    np.testing.assert_allclose(
        losses(tmp_path / "1"), losses(tmp_path / "2"), rtol=1e-5
    )
    last = [
        json.loads((tmp_path / d / "metrics.jsonl").read_text().splitlines()[-1])
        for d in "12"
    ]
    assert last[0]["knn_accuracy"] == pytest.approx(last[1]["knn_accuracy"], abs=0.005)


def test_told_to_stop_it_saves_and_says_try_again(tmp_path):
    """SIGTERM, as a preempted machine gets it: exit code 75 and a checkpoint."""
    command = [sys.executable, "-m", "simclr_jax.pretrain", *SMALL]
    command += ["--config.steps=100000", f"--workdir={tmp_path}"]
    child = subprocess.Popen(command, env=environment(1), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=100)
    assert child.returncode == 75
    assert b"try again: told to stop; saved at step" in said
    assert b"Traceback" not in said
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert saved == [len(losses(tmp_path))]


def test_a_mistake_ends_with_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "simclr_jax.pretrain", *SMALL]
    command += [f"--workdir={tmp_path}", "--config.data.batch_size=9999"]
    said = subprocess.run(command, env=environment(1), capture_output=True, text=True)
    assert said.returncode == 2
    assert said.stderr.splitlines()[-1].startswith("error: data.batch_size=9999 is")
    assert "Traceback" not in said.stderr


def start_two(workdir):
    """Two processes of a run that will not end by itself; returns when it trains."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    several = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    command = [sys.executable, "-m", "simclr_jax.pretrain", *SMALL]
    command += ["--config.steps=100000", f"--workdir={workdir}"]
    children = [
        subprocess.Popen(
            command,
            env=environment(1) | several | {"JAX_PROCESS_ID": str(k)},
            stderr=subprocess.PIPE,
        )
        for k in range(2)
    ]
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    return children


@pytest.mark.long
def test_one_of_two_told_to_stop_stops_both(tmp_path):
    children = start_two(tmp_path)
    children[1].send_signal(signal.SIGTERM)
    said = [child.communicate(timeout=100)[1] for child in children]
    assert [child.returncode for child in children] == [75, 75]
    assert all(b"told to stop; saved at step" in text for text in said)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.long
def test_a_lost_peer_means_try_again(tmp_path):
    children = start_two(tmp_path)
    children[1].kill()
    _, said = children[0].communicate(timeout=100)
    assert children[0].returncode == 75
    assert b"try again: lost a peer" in said
    assert b"Traceback" not in said
