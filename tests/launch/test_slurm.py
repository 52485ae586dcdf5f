"""launch/slurm.sbatch with srun and scontrol replaced; JAX determines its rank."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from simclr_jax.cli import common
from tests.tools import with_devices

SCRIPT = pathlib.Path("launch/slurm.sbatch").absolute()

TWO_TASKS = """
[[ $1 == --cpus-per-task=3 ]] || exit 99
shift
for k in 0 1; do
  SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$k SLURM_LOCALID=$k "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do
  wait "$task" || code=$(($? > ${code-0} ? $? : code))
done
exit ${code-0}
"""


def run(folder, srun, *arguments, **environment):
    """Runs the script as a batch job; (its process, the arguments of scontrol)."""
    programs = folder / "programs"
    programs.mkdir()
    log = folder / "scontrol_arguments"
    for name, body in {"srun": srun, "scontrol": f'echo "$@" >{log}'}.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (programs / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "3",
        "JAX_COORDINATOR_PORT": port,
    }
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=folder if (folder / "simclr_jax").exists() else None,
        env=with_devices(1) | variables | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, log.read_text().strip() if log.exists() else None


def test_tasks_get_their_rank(tmp_path):
    (tmp_path / "simclr_jax").mkdir()
    (tmp_path / "simclr_jax" / "__main__.py").write_text("""
import os, sys
import jax
jax.distributed.initialize()
ranks = jax.process_index(), jax.process_count(), jax.device_count()
os.write(1, f"{ranks} {sys.argv[1:]}\\n".encode())
""")
    done, scontrol = run(tmp_path, TWO_TASKS, "--workdir", "a b")
    assert done.returncode == 0, done.stderr
    expected = [f"({k}, 2, 2) ['pretrain', '--workdir', 'a b']" for k in (0, 1)]
    assert sorted(done.stdout.splitlines()) == expected
    assert scontrol is None


@pytest.mark.parametrize("code", [0, 1, 2, 75, 134, 137])
def test_jobs_are_requeued_after_codes_75_and_134(tmp_path, code):
    done, scontrol = run(tmp_path, f"exit {code}", "--config=x")
    assert done.returncode == code
    assert scontrol == ("requeue 7" if code in (common.TRY_AGAIN, 134) else None)


@pytest.mark.parametrize(("restarts", "requeued"), [("99", True), ("100", False)])
def test_jobs_are_requeued_up_to_100_times(tmp_path, restarts, requeued):
    _, scontrol = run(tmp_path, "exit 75", "--config=x", SLURM_RESTART_COUNT=restarts)
    assert bool(scontrol) == requeued


def test_wrong_usage_is_one_line(tmp_path):
    done, scontrol = run(tmp_path, "exit 75")
    assert (done.returncode, done.stdout, scontrol) == (2, "", None)
    assert done.stderr.startswith("usage: ")
    assert len(done.stderr.splitlines()) == 1


def test_one_task_per_gpu():
    """JAX uses the GPU of SLURM_LOCALID, which must be visible to the task."""
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.M)
    assert len(lines) == SCRIPT.read_text().count("#SBATCH")
    options = dict(lines)
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert not {"gpus-per-task", "gpu-bind", "gres"} & set(options)
    assert options["signal"].startswith("TERM@")  # to the steps, not to the script
    assert "requeue" in options


@pytest.mark.long
def test_two_tasks_train_together(tmp_path):
    arguments = ["--config=configs/quickstart.py", f"--workdir={tmp_path}/run"]
    arguments += [
        "--config.steps=3",
        "--config.data.batch_size=32",
        "--config.log_every=1",
    ]
    arguments += ["--config.encoder.channels=4", "--config.method.hidden=16"]
    done, scontrol = run(tmp_path, TWO_TASKS, *arguments)
    assert done.returncode == 0, done.stderr
    assert scontrol is None
    assert "on 2 cpu device(s) of 2 process(es)" in done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
