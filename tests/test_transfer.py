"""Runs that begin with what another has learnt, from SimCLR to the end of t-SimCNE."""

import json
import shutil

import jax
import numpy as np
import pytest

from simclr_jax import config, door, pretrain, run, sharding
from simclr_jax.evaluate import __main__ as evaluate
from simclr_jax.train.checkpoint import restore_latest
from tests.tools import begin_in, plain

SMALL = (
    "--config.data.batch_size=32",
    "--config.encoder.channels=4",
    "--config.method.hidden=16",
    "--config.log_every=2",
    "--config.checkpoint.every=2",
    "--config.steps=4",
)
SIMCLR = "configs/quickstart.py"
STAGES = "configs/tsimcne_quickstart.py:stage={},init_from={}"


@pytest.fixture(autouse=True)
def alone(in_process):
    """All runs here are within the test's process, on one device."""


def train(workdir, name, *changes):
    where = [f"--config={name}", f"--workdir={workdir}"]
    pretrain.main([*where, *SMALL, *changes])


def job_of(workdir):
    c, mesh = config.restored(run.read_saved(workdir)), sharding.make_mesh()
    return run.assemble(c, mesh, **run.sizes(workdir))


def final(workdir):
    state, _ = restore_latest(workdir / "checkpoints", run.abstract(job_of(workdir)))
    return state


def first(c, workdir):
    """The state that a run of this config begins with, and what it says of it."""
    mesh = sharding.make_mesh()
    job = run.assemble(c, mesh, images=6000, classes=10)
    job = pretrain.transfer.begin(c, job, mesh, str(workdir))
    return job.create(), job


def small(name, *changes):
    c = config.load(name)
    words = [word.removeprefix("--config.").split("=") for word in (*SMALL, *changes)]
    config.override(c, [tuple(pair) for pair in words])
    return c


def same(a, b):
    return all((x == y).all() for x, y in zip(plain(a), plain(b), strict=True))


def moved(a, b):
    """Every one of the arrays has changed."""
    return all((x != y).any() for x, y in zip(plain(a), plain(b), strict=True))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Work directories: SimCLR, and from each the next stage, of four steps each."""
    root = tmp_path_factory.mktemp("stages")
    mesh = sharding.make_mesh(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda: mesh)
        patch.setattr(door, "join_cluster", lambda: None)
        train(root / "0", SIMCLR)
        for stage in (1, 2, 3):
            train(root / str(stage), STAGES.format(stage, root / str(stage - 1)))
    return root


def test_from_simclr_all_that_fits_is_taken(stages, tmp_path, capsys):
    """The encoder and the probe; SimCLR's head has other widths and batch norms."""
    old = final(stages / "0")
    state, job = first(small(STAGES.format(1, stages / "0")), tmp_path)
    untouched = job_of(stages / "1").create()
    assert same(state.params["encoder"], old.params["encoder"])
    assert same(state.params["probe"], old.params["probe"])
    online = state.model_state["online"]
    assert same(online["encoder"], old.model_state["online"]["encoder"])
    dense1, dense2 = (state.params["projector"][f"dense{i}"] for i in (1, 2))
    assert same(dense1["kernel"], old.params["projector"]["dense1"]["kernel"])
    assert same(dense2, untouched.params["projector"]["dense2"])
    assert int(state.step) == 0
    assert all((x == 0).all() for x in plain(state.opt_state))
    lines = job.begins.splitlines()
    assert lines[0].startswith(f"begins with {stages / '0'} (simclr, resnet10, step 4)")
    assert lines[1] == "fresh here: projector/dense1, projector/dense2"
    assert lines[2] == "left there: projector/bn1, projector/bn2, projector/dense2"
