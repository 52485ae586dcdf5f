"""The command pretrain on real pictures: its files, resuming, and errors."""

import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from simclr_jax import sharding
from simclr_jax.cli import common, pretrain, runtime
from simclr_jax.data import pipeline
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.experiment import build, config, description, health, training
from simclr_jax.experiment.workdir import open_saved
from simclr_jax.methods.health import Sign
from simclr_jax.train import checkpoint
from simclr_jax.train.checkpoint_errors import CheckpointError
from simclr_jax.train.loop import Diverged
from simclr_jax.train.sentinel import Sentinel
from tests.tools import (
    FEW_PICTURES,
    SMALL_RUN,
    last_of_each,
    plain,
    with_devices,
)

RUN = (
    *SMALL_RUN,
    "--config.log_every=2",
    "--config.checkpoint.every=2",
    "--config.steps=6",
)


@pytest.fixture(autouse=True)
def one_device(in_process):
    """All runs are within the test's process, on one device."""


def train(workdir, *arguments):
    first = ("--config=configs/quickstart.py", f"--workdir={workdir}")
    pretrain.main(last_of_each([*first, *RUN, *arguments]))


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def final_state(workdir):
    saved = open_saved(workdir, sharding.make_mesh(), allow_code=True)
    return saved.state, saved.step


def test_the_files_of_a_run(tmp_path, capsys, monkeypatch):
    train(tmp_path, "--config.evaluate.every=4")
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]
    for line in lines(tmp_path):
        assert {"loss", "lr", "images_per_second", "probe_accuracy"} <= line.keys()
        assert ("knn_accuracy" in line) == (line["step"] == 4)
    steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert steps == ["2", "4", "6"]
    metadata = tmp_path / "checkpoints" / "6" / "about" / "metadata"
    assert json.loads(metadata.read_text()) == {"method": "simclr", "keep": "online"}
    assert (tmp_path / "views.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 6
    output = capsys.readouterr().err
    assert "6 steps, 0 of warm-up" in output
    assert "step 6/6" in output
    assert output.count("compiling the training step ...\ncompiled in ") == 1
    assert output.count("chance is 10.0 % (1 of 10 classes)") == 1
    assert "kNN on test every 4 steps" in output
    assert re.search(r"step 4/6  loss [\d.]+  probe [\d.]+ %  kNN [\d.]+ %  ", output)
    monkeypatch.setattr(training, "prepare_views", None)
    monkeypatch.setattr(build, "train_step", None)
    train(tmp_path, "--config.evaluate.every=4")
    assert "run already finished (6 of 6 steps)" in capsys.readouterr().err

    # TensorBoard reads the same numbers back.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [(e.step, e.value) for e in events.Scalars("loss")]
    expected = [(line["step"], line["loss"]) for line in lines(tmp_path)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "colour", [pytest.param("host", marks=pytest.mark.long), "device"]
)
def test_a_resumed_run_is_bit_identical(tmp_path, monkeypatch, colour):
    """Metrics and final state, with a stop between two log lines."""
    train(tmp_path / "whole", f"--config.data.colour={colour}")
    with monkeypatch.context() as patch:
        patch.setattr(runtime.StopSignal, "__call__", lambda self, done: done == 3)
        with pytest.raises(common.Preempted, match="saved at step 3 of 6"):
            train(tmp_path / "parts", f"--config.data.colour={colour}")
    train(tmp_path / "parts", f"--config.data.colour={colour}")

    def without_time(workdir):
        return [{**line, "images_per_second": 0} for line in lines(workdir)]

    whole, parts = without_time(tmp_path / "whole"), without_time(tmp_path / "parts")
    assert [line["step"] for line in parts] == [2, 4, 6]
    assert parts == whole
    (a, step_a), (b, step_b) = map(
        final_state, (tmp_path / "whole", tmp_path / "parts")
    )
    assert step_a == step_b == 6
    for x, y in zip(plain(a), plain(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.long
def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    train(tmp_path)
    path = tmp_path / "metrics.jsonl"
    before = lines(tmp_path)
    surplus = json.dumps({"step": 8, "loss": 0.0}) + '\n{"step": 9, "lo'
    path.write_text(path.read_text() + surplus)
    train(tmp_path)  # finished already: only the surplus lines go
    assert lines(tmp_path) == before


@pytest.mark.long
def test_an_unreadable_picture_loses_no_step(tmp_path, monkeypatch):
    """The run stops right after a logged step and can be resumed."""
    changes = ("--config.log_every=3", "--config.checkpoint.every=100")
    train(tmp_path / "whole", *changes)
    whole = pipeline.train_batches

    def broken(*args, **kwargs):
        yield from itertools.islice(whole(*args, **kwargs), 3)
        raise UnreadablePicture("a.png is not a readable picture")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_batches", broken)
        with pytest.raises(UnreadablePicture):
            train(tmp_path / "parts", *changes)
    assert [line["step"] for line in lines(tmp_path / "parts")] == [3]
    train(tmp_path / "parts", *changes)
    seen = [
        [(line["step"], line["loss"]) for line in lines(tmp_path / part)]
        for part in ("whole", "parts")
    ]
    assert seen[0] == seen[1]


@pytest.mark.long
def test_a_run_without_metrics_can_be_evaluated(tmp_path, monkeypatch, capsys):
    from simclr_jax.cli import evaluate

    monkeypatch.setattr(runtime.StopSignal, "__call__", lambda self, done: done == 1)
    with pytest.raises(common.Preempted):
        train(tmp_path, "--config.log_every=5", *FEW_PICTURES)
    assert not (tmp_path / "metrics.jsonl").exists()
    evaluate.main([f"--workdir={tmp_path}"])
    output = capsys.readouterr().out
    assert "h, after 1 steps" in output
    assert output.endswith("embedding.png, results.json\n")
    results = json.loads((tmp_path / "results.json").read_text())
    for protocol in ("knn", "linear"):
        assert results[protocol].keys() == {"untrained_h", "h", "z"}
        for name, score in results[protocol].items():
            assert score["count"] == 100
            assert score["step"] == (0 if name == "untrained_h" else 1)
            assert 0 <= score["accuracy"] <= 1
    assert results["knn"]["h"]["settings"] == {"k": 200, "temperature": 0.1}


@pytest.mark.long
def test_what_a_resumed_run_may_change(tmp_path):
    train(tmp_path)
    more = ["--config.checkpoint.keep=2", "--config.evaluate.every=6"]
    train(tmp_path, "--config.log_every=3", "--config.patience=50", *more)
    with pytest.raises(common.UsageError, match=r"optim\.lr: was 0\.\d+, now 0\.25"):
        train(tmp_path, "--config.optim.lr=0.25")


@pytest.mark.long
def test_a_sign_of_failure_is_logged_and_ends_the_run_on_request(tmp_path, monkeypatch):
    sign = Sign("seen", {"h_rank": (0, math.inf)}, "A rank of {h_rank:.1f}.")
    monkeypatch.setattr(health, "sentinel", lambda c, run: Sentinel([sign]))
    options = ["--config.health_every=2", "--config.log_every=3", *FEW_PICTURES]
    with pytest.raises(Diverged, match=r"A rank of \d+\.\d\. Stopped at step 4"):
        train(tmp_path, *options, "--config.health_stop=true")
    assert [line["step"] for line in lines(tmp_path)] == [2, 3, 4]
    assert ["h_rank" in line for line in lines(tmp_path)] == [True, False, True]
    warning = json.loads((tmp_path / "warnings.jsonl").read_text())
    assert (warning["step"], warning["name"]) == (4, "seen")


@pytest.mark.long
def test_divergence_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "simclr_jax.methods.simclr.nt_xent",
        lambda z, t, **_: (z.sum() * np.nan, {}),
    )
    with pytest.raises(Diverged, match="not finite in the last 4 steps"):
        train(tmp_path, "--config.patience=3")


@pytest.mark.long
def test_a_full_disk_is_reported_in_one_line(tmp_path):
    """Real writes that fail: after the first checkpoint no file may grow."""
    script = f"""
import resource, signal
from simclr_jax.cli import common, pretrain
from simclr_jax.train import loop

def run(step, state, batches, plan, *, checkpoints, **rest):
    checkpoints.save(1, state)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return loop_run(step, state, batches, plan, checkpoints=checkpoints, **rest)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
loop_run, loop.run = loop.run, run
arguments = {["--config=configs/quickstart.py", *RUN]!r}
common.run_and_exit(lambda argv: pretrain.main([*arguments, "--workdir={tmp_path}"]))
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=with_devices(1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == common.FAILED
    assert "Traceback" not in process.stderr
    assert re.search(
        rf"error: Checkpoint \d+ of {tmp_path}/checkpoints could not be written: "
        r".*File too large.*the same command resumes from the last\.$",
        process.stderr,
        re.MULTILINE,
    )
    _, step = final_state(tmp_path)  # the checkpoint before is complete
    assert step == 1


@pytest.mark.long
def test_no_space_left_is_reported(tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: write failed\nNo space left on device")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
    with pytest.raises(CheckpointError, match="no space left on the device") as error:
        train(tmp_path)
    assert runtime.report(error.value) == common.FAILED


@pytest.mark.long
def test_a_damaged_checkpoint_is_reported_with_the_remedy(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "6" / "state")
    with pytest.raises(CheckpointError, match=r"Checkpoint 6 .*remove .*/6: the one"):
        train(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    train(tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.method.hiden=3", "Did you mean 'hidden'"),
        ("--config.metod.hidden=3", "Did you mean 'method'"),
        ("--config.method.name=simcrl", "Did you mean 'simclr'"),
        ("--config.encoder.name=resnet51", "Did you mean 'resnet50'"),
        ("--config.seed=true", "seed must be a whole number, such as 0 (got 'true')"),
        (
            "--config.optim.lr=fast",
            "optim.lr must be a number, such as 0.005 (got 'fast')",
        ),
        ("--config.method=simclr", "is a section"),
        ("--config.data.colour=hots", "Did you mean 'host'"),
        ("--config.optim.lr_scaling=lin", "There are: linear, none, sqrt"),
        ("--config.data.batch_size=6000", "larger than the data set of 5000"),
        ("--config.data.name=cifar10_mni", "Did you mean 'cifar10_mini'"),
        ("--config.data.split=trian", "train"),
        ("--config.epochs=0.0", "epochs=0.0: must be above 0"),
        ("--config.optim.no_decay=('scael',)", "matches no parameter"),
        ("--config.augment.brightness=add", "additive"),
        ("--config.encoder.stem=cfar", "cifar"),
        ("--config.evaluate.knn.k=0", "must be above 0"),
        ("--config.encoder.bn_group=3", "a batch that they divide"),
        ("--config.optim.microbatches=3", "optim.microbatches=3; the nearest"),
        ("--config.optim.microbatches=0", "must be above 0"),
        ("--config.method.gather=float16", "float16"),
    ],
)
def test_usage_errors_leave_no_files(tmp_path, argument, message, capsys):
    with pytest.raises(common.UsageError) as error:
        train(tmp_path / "work", "--config.encoder.name=resnet10", argument)
    assert runtime.report(error.value) == common.USAGE
    output = capsys.readouterr().err
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "work" / "metrics.jsonl").exists()
    assert not (tmp_path / "work" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config.epochs=3"], "unknown argument 'config.epochs=3'"),
        (["--confg", "x"], "Did you mean --config?"),
        (["--config.seed"], "--config.seed needs a value"),
        (["--config=configs/quickstrt.py"], "Did you mean quickstart?"),
        (["--config=configs/quickstart.py:epochs=3"], "unknown 'epochs'"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message, capsys):
    with pytest.raises((SystemExit, common.UsageError)) as error:
        train(tmp_path, *arguments)
    code = getattr(error.value, "code", None) or runtime.report(error.value)
    assert code == common.USAGE
    assert message in capsys.readouterr().err


def test_the_log_describes_the_run():
    """It has the highest rate of the run and warns of a long queue."""
    c = config.load("configs/moco_quickstart.py")
    config.override(
        c, [("method.queue", "4900"), ("optim.warmup_epochs", "90"), ("steps", "0")]
    )
    mesh, source = sharding.make_mesh(), build.open_data(c, "train", "")
    run = build.assemble(c, mesh, images=5000, classes=10)
    assert run.warmup > run.total
    ready = training.Training(c, run, source, None, mesh, "work")
    output = "\n".join(description.lines(ready, 0))
    match = re.search(r"a rate up to ([\d.e+-]+);", output)
    assert match
    rate = float(match[1])
    assert rate == pytest.approx(float(run.schedule(run.total - 1)), rel=1e-3)
    assert rate > 0
    assert "a queue of 4900 keys from 5000 pictures" in output


def test_a_batch_must_divide_over_the_devices(tmp_path, monkeypatch):
    mesh = Mesh(jax.devices(), sharding.DATA)
    monkeypatch.setattr(sharding, "make_mesh", lambda: mesh)
    with pytest.raises(common.UsageError, match=r"over 8 devices .* 24 or 32"):
        train(tmp_path, "--config.data.batch_size=28")


# Buckets; whole commands on one are in tests/buckets.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gcs://bucket/run", "did you mean gs://bucket/run"),
        ("gs:/bucket/run", "did you mean gs://bucket/run"),
        ("s3://bucket/run", "s3:// is not supported"),
        ("gs://bucket", "name a folder in it"),
        ("gs://bucket/file", "is an object, not a folder"),
        ("gs://misspelt/run", "there is no such bucket"),
    ],
)
@pytest.mark.parametrize(
    "flag", ["--workdir", "--config.data.data_dir", "--config.init_from"]
)
def test_a_wrong_path_is_reported_before_the_data_is_opened(
    tmp_path, cloud, monkeypatch, flag, path, message
):
    """In one line, and no file is written."""
    cloud.put("bucket", "file", b"x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "open_data", None)
    config_file = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
    flags = {"--workdir": "gs://bucket/run"} | {flag: path}
    arguments = [f"{name}={value}" for name, value in flags.items()]
    with pytest.raises(common.UsageError, match=message) as caught:
        pretrain.main([f"--config={config_file}", *arguments])
    assert len(str(caught.value).splitlines()) == 1
    assert [*tmp_path.iterdir()] == []
    assert cloud.objects("bucket") == {"file": b"x"}


# Folders of pictures.


@pytest.fixture
def folder(tmp_path):
    """Twelve unlabelled pictures of several sizes and formats."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)
        suffix = ("png", "jpg", "bmp")[i % 3]
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:02}.{suffix}")
    return tmp_path / "pictures"


FOLDER = ("--config.data.batch_size=4", "--config.data.image_size=16")


@pytest.mark.long
def test_pictures_without_labels(tmp_path, folder, capsys):
    from simclr_jax.cli import evaluate

    train(tmp_path / "work", *FOLDER, f"--config.data.name={folder}")
    assert "no labels: no online probe, no accuracies" in capsys.readouterr().err
    assert "probe_loss" not in lines(tmp_path / "work")[-1]
    changes = ["--config.data.eval_split=train"]
    evaluate.main([f"--workdir={tmp_path / 'work'}", *changes])
    assert "has no labels: no accuracies" in capsys.readouterr().out
    assert (tmp_path / "work" / "embedding.png").exists()
    with pytest.raises(common.UsageError, match="knn needs labels"):
        evaluate.main([f"--workdir={tmp_path / 'work'}", "--protocol=knn", *changes])


@pytest.mark.parametrize("name", ["00.png", "11.bmp"])
def test_an_unreadable_picture_is_named(tmp_path, folder, name, capsys):
    """The first is met when views.png is drawn, the last in the loop."""
    (folder / name).write_bytes(b"GIF89a, but not really")
    with pytest.raises(Exception, match=f"{name} is not a readable") as error:
        train(tmp_path / "work", *FOLDER, f"--config.data.name={folder}")
    assert runtime.report(error.value) == common.FAILED
    assert "Traceback" not in capsys.readouterr().err
    saved = sorted(p.name for p in (tmp_path / "work").glob("checkpoints/*"))
    assert bool(saved) == (name != "00.png")  # the state is saved


@pytest.mark.long
def test_a_run_is_not_resumed_with_other_pictures(tmp_path, folder):
    """The order and the length of a run depend on the number of pictures."""
    changes = (*FOLDER, f"--config.data.name={folder}")
    train(tmp_path / "work", *changes)
    (folder / "00.png").unlink()
    with pytest.raises(common.UsageError, match="pictures: was 12, now 11"):
        train(tmp_path / "work", *changes)


def test_an_empty_folder(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(common.UsageError, match="none"):
        train(tmp_path / "work", f"--config.data.name={tmp_path / 'none'}")


def test_a_work_directory_must_be_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(common.UsageError) as error:
        train(tmp_path / "file")
    assert "file" in str(error.value)


@pytest.mark.long
def test_labels_of_one_split_only(tmp_path, folder, capsys):
    """Classes to train on, flat pictures to evaluate on: no accuracies."""
    from simclr_jax.cli import evaluate

    for part in ("train/cat", "train/dog", "val"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for picture in folder.iterdir():
            (tmp_path / "set" / part / picture.name).write_bytes(picture.read_bytes())
    changes = [f"--config.data.name={tmp_path / 'set'}", "--config.data.eval_split=val"]
    train(tmp_path / "work", *FOLDER, *changes, "--config.evaluate.every=2")
    assert "probe_loss" in lines(tmp_path / "work")[-1]
    assert "knn_accuracy" not in lines(tmp_path / "work")[-1]
    assert "no labels in val: no kNN during the run" in capsys.readouterr().err
    evaluate.main([f"--workdir={tmp_path / 'work'}"])
    assert "has no labels" in capsys.readouterr().out
