"""launch/local.sh with a stub of the command: environment, output, exit codes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = str(ROOT / "launch" / "local.sh")

STUB = """
import os, signal, sys, time
rank = int(os.environ["JAX_PROCESS_ID"])
"""


def start(folder, body, *arguments, script=SCRIPT):
    package = folder / "simclr_jax"
    package.mkdir()
    (package / "__main__.py").write_text(STUB + body)
    return subprocess.Popen(
        ["bash", script, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **kwargs):
    process = start(*arguments, **kwargs)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_processes_get_their_rank_and_the_arguments(tmp_path):
    body = """
address = os.environ["JAX_COORDINATOR_ADDRESS"]
print(rank, os.environ["JAX_NUM_PROCESSES"], address, *sys.argv[1:])
"""
    code, out, err = run(tmp_path, body, "3", "--workdir", "a b")
    assert code == 0
    first, *others = out.splitlines() + sorted(err.splitlines())
    address = first.split()[2]
    assert address.startswith("127.0.0.1:")
    assert first == f"0 3 {address} pretrain --workdir a b"
    assert others == [f"[{k}] {k} 3 {address} pretrain --workdir a b" for k in (1, 2)]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((2, 2), 2),
        ((75, 75), 75),
        ((75, 1), 1),  # one failed, its peer lost it
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


def test_a_process_that_hangs_after_a_failure_is_killed(tmp_path):
    script = tmp_path / "local.sh"
    text = pathlib.Path(SCRIPT).read_text()
    assert text.count("grace=30") == 1
    script.write_text(text.replace("grace=30", "grace=1"))
    start_time = time.monotonic()
    body = "time.sleep(300) if rank == 0 else sys.exit(1)"
    assert run(tmp_path, body, "2", script=str(script))[0] == 1
    assert time.monotonic() - start_time < 30


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
def test_wrong_usage_is_one_line(tmp_path, arguments):
    code, out, err = run(tmp_path, "", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("usage: ")
    assert len(err.splitlines()) == 1
