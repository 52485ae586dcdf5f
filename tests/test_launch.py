"""The scripts of launch/ with a door made of stubs: words, output, exit codes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from simclr_jax import config
from simclr_jax import run as parts

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = str(ROOT / "launch" / "local.sh")

DOOR = """
import os, signal, sys, time
rank = int(os.environ["JAX_PROCESS_ID"])
"""


def start(folder, body, *arguments, script=SCRIPT):
    package = folder / "simclr_jax"
    package.mkdir()
    (package / "pretrain.py").write_text(DOOR + body)
    return subprocess.Popen(
        ["bash", script, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **keywords):
    process = start(*arguments, **keywords)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_each_process_gets_its_place_and_the_arguments(tmp_path):
    body = """
address = os.environ["JAX_COORDINATOR_ADDRESS"]
print(rank, os.environ["JAX_NUM_PROCESSES"], address, *sys.argv[1:])
"""
    code, out, err = run(tmp_path, body, "3", "--workdir", "a b")
    assert code == 0
    first, *others = out.splitlines() + sorted(err.splitlines())
    address = first.split()[2]
    assert address.startswith("127.0.0.1:")
    assert first == f"0 3 {address} --workdir a b"
    assert others == [f"[{k}] {k} 3 {address} --workdir a b" for k in (1, 2)]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((2, 2), 2),
        ((75, 75), 75),
        ((75, 1), 1),  # one failed, its peer only noticed
        ((1, 75), 1),
        ((0, 134), 75),  # a process lost to a signal
        ((75, -signal.SIGKILL), 75),
    ],
)
def test_exit_code(tmp_path, codes, expected):
    body = f"""
code = {codes}[rank]
if code < 0: os.kill(os.getpid(), -code)
sys.exit(code)
"""
    assert run(tmp_path, body, "2")[0] == expected


def test_a_process_that_hangs_after_a_failure_is_ended(tmp_path):
    script = tmp_path / "local.sh"
    text = pathlib.Path(SCRIPT).read_text()
    assert text.count("grace=30") == 1
    script.write_text(text.replace("grace=30", "grace=1"))
    began = time.monotonic()
    body = "time.sleep(300) if rank == 0 else sys.exit(1)"
    assert run(tmp_path, body, "2", script=str(script))[0] == 1
    assert time.monotonic() - began < 30


def test_a_signal_reaches_every_process(tmp_path):
    body = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open(f"ready{rank}", "w").close()
time.sleep(300)
"""
    process = start(tmp_path, body, "2")
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("ready*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


@pytest.mark.parametrize("arguments", [(), ("0",), ("two",), ("--config", "x.py")])
def test_usage(tmp_path, arguments):
    code, out, err = run(tmp_path, "", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("usage: ")
    assert len(err.splitlines()) == 1


BATCHES = """
import json, pathlib, sys
said = dict(word.removeprefix("--config.").split("=") for word in sys.argv[5:])
batch, every = int(said["data.batch_size"]), int(said["evaluate.every"])
folder = pathlib.Path(sys.argv[4])
folder.mkdir(parents=True)
(folder / "words.json").write_text(json.dumps(said))
with (folder / "metrics.jsonl").open("w") as file:
    for step in range(1, 153600 // batch + 1):
        line = {"step": step, "loss": float(step > every)}
        if step % every == 0:
            line["knn_accuracy"] = 0.25
        file.write(json.dumps(line) + "\\n")
"""


def test_batches_are_compared_by_images(tmp_path):
    (tmp_path / "simclr_jax").mkdir()
    (tmp_path / "simclr_jax" / "pretrain.py").write_text(BATCHES)
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "batches.sh"), "there", "--config.seed=1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    words = {
        str(path.parent.relative_to(tmp_path / "there")): json.loads(path.read_text())
        for path in tmp_path.rglob("words.json")
    }
    assert set(words) == {"256/0", "64/0", "64/256", "1024/0", "1024/256"}
    for name, said in words.items():
        batch, transfer_from = name.split("/")
        assert (said["data.batch_size"], said["transfer_from"]) == (
            batch,
            transfer_from,
        )
        assert said["seed"] == "1"
        c = config.load(str(ROOT / "configs" / "byol_quickstart.py"))
        config.override(c, list(said.items()))
        assert parts.length(c, 5000)[0] * int(batch) == 153_600
        assert parts.peak(c) == pytest.approx(0.005 * (int(batch) / 256) ** 0.5)
    _, _, head, _, *rows = done.stdout.splitlines()
    assert head == "| images | 256/0 | 64/0 | 64/256 | 1024/0 | 1024/256 |"
    seen = [f"{30720 * (i + 1):,}" for i in range(5)]
    assert [row.split()[1] for row in rows] == seen
    assert rows[0].count("| 0.000 / 25.0 ") == rows[1].count("| 1.000 / 25.0 ") == 5
