"""All launchers: valid scripts, time for a save, the lock in the image."""

import pathlib
import re
import shutil
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np

from simclr_jax.reproduce.rows import PLANS
from simclr_jax.train.checkpoint import Checkpoints

SCRIPTS = [*pathlib.Path("launch").glob("*.s*"), pathlib.Path(".ci/run")]
GRACES = {
    "gke.yaml": r"terminationGracePeriodSeconds: (\d+)",
    "gke_multislice.yaml": r"terminationGracePeriodSeconds: (\d+)",
    "slurm.sbatch": r"--signal=TERM@(\d+)",
    "tpu_host.sh": r"--stop-timeout (\d+)",
}


def test_scripts_pass_shellcheck():
    installed = pathlib.Path(sys.executable).parent / "shellcheck"
    program = installed if installed.exists() else shutil.which("shellcheck")
    assert program, "needs shellcheck, from requirements.lock: make env"
    assert len(SCRIPTS) == 5
    done = subprocess.run([program, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_grace_periods_suffice_for_a_save(tmp_path):
    """Ten times the time that a ResNet-50 with its momentum takes on this machine."""
    rng = np.random.default_rng(0)
    state = {f"{i}": jnp.asarray(rng.random((5, 2**20), np.float32)) for i in range(10)}
    start = time.monotonic()
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, state)
    checkpoints.close()
    needed = 10 * (time.monotonic() - start)
    for name, pattern in GRACES.items():
        (grace,) = re.findall(pattern, pathlib.Path("launch", name).read_text())
        assert int(grace) > needed, name


def test_the_image_installs_the_lock_and_the_extra_of_its_page():
    text = pathlib.Path("launch/Dockerfile").read_text()
    *_, lock, extra = re.findall(r"pip install --no-cache-dir (.*?)(?: \\)?\n", text)
    assert lock == "--require-hashes -r requirements.lock"
    assert extra == '-r requirements.txt "jax[$EXTRA]"'
    page = pathlib.Path("launch/README.md").read_text()
    assert set(re.findall(r"EXTRA=(\w+)", page)) == {"tpu", "cuda13"}
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.M):
        assert all(pathlib.Path(source).exists() for source in sources.split())
    version = re.search(r"^FROM python:3\.(\d+)-slim$", text, re.M)
    assert version
    assert 11 <= int(version[1]) <= 13  # versions of the lock


def test_costs_are_those_of_the_plan():
    plan = PLANS[0]
    assert (plan.config, plan.topology) == ("simclr_imagenet", "v5e:8x8")
    low, high = plan.roof_hours, plan.estimate_hours
    chip_hours = f"{64 * low:.0f} to {64 * high:.0f} chip-hours"
    for name in ("tpu_vm.md", "gke.md"):
        assert chip_hours in " ".join(pathlib.Path("launch", name).read_text().split())
    assert f"{low} to {high} hours" in pathlib.Path("launch/tpu_vm.md").read_text()
