"""Runs that start with the arrays of another: from SimCLR to t-SimCNE's last stage."""

import shutil

import jax
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.cli import common, pretrain, runtime
from simclr_jax.experiment import build, config, init_from, training
from simclr_jax.experiment.workdir import data_sizes, read_saved
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.train.checkpoint_reader import restore_latest
from tests.tools import Tiny, begin_in, leave_in, losses, plain

SHORT_RUN = {
    "data.batch_size": "32",
    "method.hidden": "16",
    "log_every": "1",
    "checkpoint.every": "10",
    "steps": "4",
}
STAGE = "configs/tsimcne_quickstart.py:stage={},init_from={}"


@pytest.fixture(autouse=True)
def alone(in_process, monkeypatch):
    """All runs are within the test's process, on one device, and small."""
    monkeypatch.setattr(training, "prepare_views", lambda _: lambda: None)
    monkeypatch.setitem(ENCODERS, "resnet10", tiny)


def tiny(*, stem: str = "small"):
    del stem  # the configs set it
    return Tiny(groups=1)


def small(name="configs/quickstart.py", **changes):
    c = config.load(name)
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.override(c, [*changes.items(), *SHORT_RUN.items()])
    return c


def assemble(c):
    return build.assemble(c, sharding.make_mesh(), images=5000, classes=10)


def initial(c, workdir):
    """The first state of a run of this config, and the note on it."""
    job = init_from.with_saved_arrays(
        c, assemble(c), sharding.make_mesh(), str(workdir)
    )
    return job.create(), job.init_note


def same(a, b):
    return all((x == y).all() for x, y in zip(plain(a), plain(b), strict=True))


def moved(a, b):
    """Every one of the arrays has changed."""
    return all((x != y).any() for x, y in zip(plain(a), plain(b), strict=True))


def test_matching_arrays_of_simclr_are_copied(tmp_path):
    """Encoder and probe; of the head what has the same shape, and no batch norm."""
    old = leave_in(tmp_path / "0", small(method__out="24"))
    c = small(STAGE.format(1, tmp_path / "0"))
    state, note = initial(c, tmp_path / "1")
    new = assemble(c).create()
    for part in ("encoder", "probe"):
        assert same(state.params[part], old.params[part])
    online, before = state.model_state["online"], old.model_state["online"]
    assert set(online) == {"encoder"}
    assert same(online["encoder"], before["encoder"])
    head, old_head = state.params["projector"], old.params["projector"]
    assert same(head["dense1"]["kernel"], old_head["dense1"]["kernel"])
    assert same(head["dense1"]["bias"], new.params["projector"]["dense1"]["bias"])
    assert same(head["dense2"], new.params["projector"]["dense2"])
    assert same(state.opt_state, new.opt_state)
    assert int(state.step) == 0
    count = len(jax.tree.leaves(state.params))
    assert note.splitlines() == [
        f"initialised from {tmp_path / '0'} (simclr, resnet10, step 3): {count - 3} of "
        f"{count} arrays of parameters, 2 of 2 of statistics",
        "randomly initialised: projector/dense1, projector/dense2",
        "not used from the checkpoint: projector/bn1, projector/bn2, projector/dense2",
    ]


BYOL = {"method__name": "byol"}
MOCO = {"method__name": "moco", "method__queue": "64"}


def test_the_kept_branch_is_copied_to_online_and_target(tmp_path):
    """From BYOL, whose target is another network, to MoCo, which has one too."""
    old = leave_in(tmp_path / "0", small(**BYOL))
    assert moved(old.target_params["encoder"], old.params["encoder"])
    c = small(**MOCO, init_from=str(tmp_path / "0"))
    state, note = initial(c, tmp_path / "1")
    new = assemble(c).create()
    for params in (state.params, state.target_params):
        assert same(params["encoder"], old.params["encoder"])
    for branch in ("online", "target"):
        stats = state.model_state[branch]["encoder"]
        assert same(stats, old.model_state["online"]["encoder"])
    assert same(state.method_state, new.method_state)
    assert "not used from the checkpoint: predictor/" in note
    leaves = jax.tree.leaves((state.params, state.target_params, state.model_state))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_with_the_same_method_both_branches_are_copied(tmp_path):
    old = leave_in(tmp_path / "0", small(**BYOL))
    state, _ = initial(small(**BYOL, init_from=str(tmp_path / "0")), tmp_path / "1")
    assert same(state.params, old.params)
    assert same(state.target_params, old.target_params)
    for branch in ("online", "target"):
        assert same(state.model_state[branch], old.model_state[branch])
    leaves = jax.tree.leaves((state.params, state.target_params, state.model_state))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_the_target_is_copied_where_it_is_kept(tmp_path, monkeypatch):
    make = build.build_method

    def keeping(c, **kwargs):
        method = make(c, **kwargs)
        branch = "target" if c.method.name == "byol" else "online"
        return method._replace(keep=branch)

    monkeypatch.setattr(build, "build_method", keeping)
    old = leave_in(tmp_path / "0", small(**BYOL))
    state, _ = initial(small(init_from=str(tmp_path / "0")), tmp_path / "1")
    assert same(state.params["encoder"], old.target_params["encoder"])
    stats = state.model_state["online"]["encoder"]
    assert same(stats, old.model_state["target"]["encoder"])


# The stages, through the command.


def final(workdir):
    c = config.restored(read_saved(workdir))
    job = build.assemble(c, sharding.make_mesh(), **data_sizes(workdir))
    return restore_latest(workdir / "checkpoints", build.abstract(job))


def test_the_second_stage_and_the_third(tmp_path, monkeypatch, capsys):
    """Only the new layer and the statistics change; resumed, the result is the same."""
    old = leave_in(tmp_path / "1", small(STAGE.format(1, "")))
    c = small(STAGE.format(2, tmp_path / "1"))
    start, _ = initial(c, tmp_path / "2")
    pretrain.pretrain(c, str(tmp_path / "2"))
    note = capsys.readouterr().err
    for what in ("randomly initialised", "not used from the checkpoint"):
        assert f"{what}: projector/dense2\n" in note
    state, step = final(tmp_path / "2")
    assert step == 4
    assert same(state.params["encoder"], old.params["encoder"])
    head, before = state.params["projector"], old.params["projector"]
    assert same(head["dense1"], before["dense1"])
    assert moved(head["dense2"], start.params["projector"]["dense2"])
    assert moved(state.model_state, old.model_state)
    assert moved(state.params["probe"], old.params["probe"])

    with monkeypatch.context() as patch:
        patch.setattr(runtime.StopSignal, "__call__", lambda self, done: done == 2)
        with pytest.raises(common.Preempted, match="saved at step 2 of 4"):
            pretrain.pretrain(c, str(tmp_path / "parts"))
    shutil.move(tmp_path / "1", tmp_path / "gone")  # a resumed run does not read it
    capsys.readouterr()
    pretrain.pretrain(c, str(tmp_path / "parts"))
    assert "initialised from" not in capsys.readouterr().err
    resumed, _ = final(tmp_path / "parts")
    assert same(resumed, state)
    assert losses(tmp_path / "parts") == losses(tmp_path / "2")

    last, note = initial(small(STAGE.format(3, tmp_path / "2")), tmp_path / "3")
    assert same(last.params, state.params)
    assert same(last.model_state, state.model_state)
    assert (
        "randomly initialised: nothing\nnot used from the checkpoint: nothing" in note
    )


def test_the_initial_accuracy_is_logged(tmp_path, monkeypatch, capsys):
    """The kNN accuracy of the copied arrays, once, before the first step."""
    leave_in(tmp_path / "0", small())
    steps = []

    def evaluate(state, on_progress):
        steps.append(int(state.step))
        return {"knn_accuracy": 0.375}

    monkeypatch.setattr(training, "knn_evaluator", lambda *_: evaluate)
    second = small(init_from=str(tmp_path / "0"))
    for c, name in ((small(), "1"), (second, "2"), (second, "2")):
        pretrain.pretrain(c, str(tmp_path / name))
    note = capsys.readouterr().err
    assert note.count("kNN accuracy before the first step: 37.5 %") == 1
    assert steps == [0]


@pytest.mark.long
def test_the_new_last_layer_has_a_wide_initialisation():
    """Kernel N(0, 1), bias as PyTorch's, uniform within 1 / sqrt(1024)."""
    c = config.load("configs/tsimcne_cifar10.py:stage=2,init_from=x")
    c.encoder.name, c.data.batch_size = "resnet18", 8
    job = build.assemble(c, sharding.make_mesh(), images=60_000, classes=10)
    last = job.create().params["projector"]["dense2"]
    assert last["kernel"].shape == (1024, 2)
    assert np.std(last["kernel"]) == pytest.approx(1, rel=0.05)
    assert np.abs(last["kernel"]).max() > 2
    assert 0 < np.abs(last["bias"]).max() <= 1 / 32


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, r"init_from=.*/0: .* is no work directory"),
        (lambda path: begin_in(path, small()), r"init_from=.*/0: .* no checkpoint yet"),
        (
            lambda path: leave_in(path, small()),
            r"no array of the encoder of .*/0 \(simclr, resnet10, step 3\) matches",
        ),
    ],
)
def test_usage_errors_leave_no_files(tmp_path, prepare, message):
    prepare(tmp_path / "0")
    c = small(init_from=str(tmp_path / "0"))
    config.rename(c, "encoder", "resnet18")
    with pytest.raises(common.UsageError, match=message):
        pretrain.pretrain(c, str(tmp_path / "1"))
    assert not (tmp_path / "1").exists()
