"""Several processes: the same losses as one, and a clean exit on a stop signal."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.test_docs import ALL
from tests.tools import (
    FEW_PICTURES,
    SMALL_RUN,
    last_of_each,
    losses,
    with_devices,
)

RUN = ("--config=configs/quickstart.py", *SMALL_RUN, "--config.log_every=1")


def test_two_processes_train_as_one(tmp_path):
    """1 process x 4 devices against the README's 2 processes x 2 devices."""
    run = [*RUN, "--config.steps=4", "--config.optim.lr=0.001"]
    run += ["--config.evaluate.every=4", "--config.health_every=4", *FEW_PICTURES]
    (command,) = {command for command in ALL if "launch/local.sh" in command}
    command = command.replace("runs/two", f"{tmp_path}/2")
    level, _ = os.environ["XLA_FLAGS"].split()  # the same compiler options
    command = command.replace("XLA_FLAGS=", f"XLA_FLAGS={level}\\ ")
    one = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "simclr_jax",
            "pretrain",
            *run,
            f"--workdir={tmp_path}/1",
        ],
        env=with_devices(4),
    )
    two = subprocess.run(
        f"{command} {shlex.join(run[1:])}",  # which names the config
        shell=True,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert one.wait(300) == two.returncode == 0, two.stderr
    assert "on 4 cpu device(s) of 2 process(es)" in two.stderr
    np.testing.assert_allclose(
        losses(tmp_path / "1"), losses(tmp_path / "2"), rtol=1e-5
    )
    last = [
        json.loads((tmp_path / d / "metrics.jsonl").read_text().splitlines()[-1])
        for d in "12"
    ]
    for name in ("h_rank", "z_uniformity", "effective_negatives"):
        assert last[0][name] == pytest.approx(last[1][name], rel=1e-3)
    assert last[0]["knn_accuracy"] == pytest.approx(last[1]["knn_accuracy"], abs=0.02)


def test_sigterm_saves_and_exits_with_try_again(tmp_path):
    """SIGTERM, as sent by a preempted machine: exit code 75 and a checkpoint."""
    command = [sys.executable, "-m", "simclr_jax", "pretrain", *RUN]
    command += ["--config.steps=100000", f"--workdir={tmp_path}"]
    child = subprocess.Popen(command, env=with_devices(1), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=100)
    assert child.returncode == 75
    assert re.search(rb"^try again: .*saved at step", stderr, re.M)
    assert b"Traceback" not in stderr
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert saved == [len(losses(tmp_path))]


@pytest.mark.long
def test_a_usage_error_exits_with_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "simclr_jax", "pretrain", *RUN]
    command += [f"--workdir={tmp_path}", "--config.data.batch_size=9999"]
    command = last_of_each(command)
    done = subprocess.run(command, env=with_devices(1), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: data.batch_size=9999 is")
    assert "Traceback" not in done.stderr


def start_two(*workdirs, steps=100_000, before=""):
    """Starts two processes of a run, one for each work directory.

    before: Python code that both run first.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    script = (
        f"{before}\nfrom simclr_jax.cli import common, pretrain\n"
        "common.run_and_exit(pretrain.main)"
    )
    arguments = [*RUN, f"--config.steps={steps}", "--config.optim.lr=0.01"]
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments, f"--workdir={workdir}"],
            env=with_devices(1) | variables | {"JAX_PROCESS_ID": str(k)},
            stderr=subprocess.PIPE,
        )
        for k, workdir in enumerate(workdirs)
    ]


def wait_for(path):
    deadline = time.monotonic() + 200
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def results(children, timeout=200):
    """The exit codes and the texts on stderr."""
    texts = [child.communicate(timeout=timeout)[1].decode() for child in children]
    return [child.returncode for child in children], texts


@pytest.mark.long
def test_a_signal_to_one_process_stops_both(tmp_path):
    children = start_two(tmp_path, tmp_path)
    wait_for(tmp_path / "metrics.jsonl")
    children[1].send_signal(signal.SIGTERM)
    codes, texts = results(children)
    assert codes == [75, 75]
    assert all("saved at step" in text for text in texts)
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert int(saved.name) == len(losses(tmp_path))


@pytest.mark.long
def test_two_processes_resume_with_the_same_losses(tmp_path):
    children = start_two(tmp_path / "a", tmp_path / "a", steps=60)
    wait_for(tmp_path / "a" / "metrics.jsonl")
    children[1].send_signal(signal.SIGTERM)
    assert results(children)[0] == [75, 75]
    stopped = len(losses(tmp_path / "a"))
    assert 0 < stopped < 60
    codes, texts = results(start_two(tmp_path / "a", tmp_path / "a", steps=60))
    assert codes == [0, 0]
    assert f"resuming from the checkpoint of step {stopped}" in texts[0]
    results(start_two(tmp_path / "b", tmp_path / "b", steps=60))
    assert len(losses(tmp_path / "a")) == 60
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.long
def test_a_lost_peer_exits_with_try_again(tmp_path):
    children = start_two(tmp_path, tmp_path)
    wait_for(tmp_path / "metrics.jsonl")
    children[1].kill()
    (code, _), (text, _) = results(children)
    assert code == 75
    assert "try again: lost a peer" in text
    assert "Traceback" not in text


@pytest.mark.long
def test_work_directories_that_are_not_shared_are_refused(tmp_path):
    codes, texts = results(start_two(tmp_path / "a", tmp_path / "b"))
    assert codes == [2, 2]
    assert all(
        "needs a work directory that all of them share" in text for text in texts
    )


@pytest.mark.long
def test_processes_wait_while_process_0_prepares_the_data(tmp_path):
    """Longer than the half minute after which a collective times out."""
    before = """
import os, time
from simclr_jax.experiment import build
open_data = build.open_data
def slow_open(*args, **kwargs):
    time.sleep(45 if os.environ["JAX_PROCESS_ID"] == "0" else 0)
    return open_data(*args, **kwargs)
build.open_data = slow_open
"""
    codes, _ = results(start_two(tmp_path, tmp_path, steps=3, before=before))
    assert codes == [0, 0]
    assert len(losses(tmp_path)) == 3


@pytest.mark.long
def test_two_slices_train_as_one(tmp_path):
    """Each process is treated as a slice; the mesh is the hybrid mesh of JAX."""
    before = """
import jax
from jax.experimental import mesh_utils
from simclr_jax import sharding
def make_mesh(original=sharding.make_mesh):
    slices = property(lambda device: device.process_index)
    type(jax.devices()[0]).slice_index = slices
    mesh = original()
    granules = mesh_utils.create_hybrid_device_mesh((1,), (2,), process_is_granule=True)
    assert list(mesh.devices) == list(granules)
    return mesh
sharding.make_mesh = make_mesh
"""
    children = start_two(tmp_path / "2", tmp_path / "2", steps=3, before=before)
    codes, texts = results(children)
    assert codes == [0, 0], texts
    codes, texts = results(start_two(tmp_path / "1", tmp_path / "1", steps=3))
    assert codes == [0, 0], texts
    np.testing.assert_allclose(
        losses(tmp_path / "1"), losses(tmp_path / "2"), rtol=1e-5
    )
