"""What a score was measured with, and that a change of any of it is noticed."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from simclr_jax import fingerprint
from simclr_jax.cli import common, evaluate
from simclr_jax.data.arrays import Arrays
from simclr_jax.experiment import config, score_fingerprint
from simclr_jax.experiment.comparison import compare
from simclr_jax.sharding import make_mesh
from tests.tools import leave_in


def source(pictures=100, seed=0, name="a/train"):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (pictures, 2, 2, 3)).astype(np.uint8)
    return Arrays(images, rng.integers(0, 4, pictures), name=name, class_names="wxyz")


def test_of_a_source():
    plain = score_fingerprint.of_source(source())
    assert plain.startswith("100 pictures, ")
    assert score_fingerprint.of_source(source(name="copy/train")) == plain
    assert score_fingerprint.of_source(source(seed=1)) != plain
    assert score_fingerprint.of_source(source(pictures=99)) != plain
    label = source().read(np.arange(100))["label"]
    label[99] = (label[99] + 1) % 4
    images = source().read(np.arange(100))["image"]
    other = Arrays(images, label, name="a/train", class_names="wxyz")
    assert score_fingerprint.of_source(other) != plain


@pytest.mark.parametrize("devices", [1, 8])
def test_of_weights_on_any_mesh(devices):
    kernel = np.arange(16.0).reshape(8, 2)
    params: dict[str, Any] = {"a": {"kernel": kernel}, "b": np.ones(3)}
    mesh = make_mesh(jax.devices()[:devices])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    placed = params | {"a": {"kernel": jax.device_put(kernel, rows)}}
    plain = score_fingerprint.of_weights(params, {}, make_mesh(jax.devices()[:1]))
    assert score_fingerprint.of_weights(placed, {}, mesh) == plain
    placed["b"] = np.array([1, 1, 2.0])
    assert score_fingerprint.of_weights(placed, {}, mesh) != plain


def test_of_arrays():
    x = np.array([b"ab", b"c"], object)
    assert fingerprint.of_arrays({"x": x}) == fingerprint.of_bytes(b"x object (2,) abc")
    y = np.zeros(2, np.uint8)
    assert fingerprint.of_arrays({"y": y}) == fingerprint.of_bytes(b"y uint8 (2,) \0\0")


def test_of_sources(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    first = fingerprint.of_sources(tmp_path)
    (tmp_path / "b.txt").write_text("")
    assert fingerprint.of_sources(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert fingerprint.of_sources(tmp_path) != first


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of 3 steps, to be evaluated on few pictures."""
    c = config.load("configs/quickstart.py")
    changes = {
        "data.bank_split": "train[:100]",
        "data.eval_split": "test[:40]",
        "encoder.channels": "4",
        "method.hidden": "16",
    }
    config.override(c, [*changes.items()])
    folder = tmp_path_factory.mktemp("run")
    leave_in(folder, c)
    return folder


def test_scores_are_kept_with_their_fingerprint(workdir, in_process, capsys):
    run = [f"--workdir={workdir}", "--protocol=knn"]
    evaluate.main([*run, "--preset=dino"])
    evaluate.main([*run, "--features=head1", "--config.evaluate.knn.weighted=false"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("knn               h   ")
    assert second.startswith("knn               head1 ")
    assert " to " in first
    assert "top-5" in first
    results = json.loads((workdir / "results.json").read_text())["knn"]
    h, head = results["h"], results["head1"]
    assert h["settings"] == {"k": 20, "temperature": 0.07, "weighted": True}
    assert h["k"] == 10  # there are ten pictures of a class in the bank
    assert head["settings"]["weighted"] is False
    low, high = h["interval"]
    assert 0 <= low < h["accuracy"] < high
    assert not {"confusion", "per_class"} & h.keys()
    details = json.loads((workdir / "evaluations/knn-head1.json").read_text())
    assert details["class_names"][:2] == ["airplane", "automobile"]
    assert np.trace(details["confusion"]) == round(40 * head["accuracy"])
    prints = h["fingerprint"], head["fingerprint"]
    assert [x["features"] for x in prints] == ["h", "head1"]
    for key in ("classes", "training data", "test data", "weights", "package"):
        assert prints[0][key] == prints[1][key]
    assert prints[0]["training data"] != prints[0]["test data"]
    assert prints[0]["preprocessing"]["resize"] == [32, 32]
    comparisons = compare(str(workdir), str(workdir))
    assert {x.note for x in comparisons} == {"the same weights"}
    assert {x.second - x.first for x in comparisons} == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features=head2"], "unknown 'head2'. Did you mean 'head1'"),
        (["--preset=dion"], "--preset: unknown 'dion'. Did you mean 'dino'"),
        (["--protocol=linear", "--preset=moco"], "linear has no presets"),
        (["--protocol=map2d"], "these have 32 coordinates"),
        (
            ["--protocol=linear_augmented", "--preset=moco"],
            "batch_size=256 is larger than the 100 pictures",
        ),
        (
            ["--config.evaluate.linear_augmented.crops=bylo"],
            "linear_augmented.crops: unknown 'bylo'. Did you mean 'byol'",
        ),
        (
            ["--config.evaluate.linear_augmented.rates=0.1"],
            r"rates must be a tuple of numbers, such as \(0.1, 0.2\)",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(workdir, in_process, arguments, message):
    before = sorted(workdir.rglob("*"))
    arguments = [f"--workdir={workdir}", "--protocol=knn", *arguments]
    if sum(x.startswith("--protocol") for x in arguments) > 1:
        arguments.pop(1)
    with pytest.raises(common.UsageError, match=message) as error:
        evaluate.main(arguments)
    assert "\n" not in str(error.value)
    assert sorted(workdir.rglob("*")) == before
