"""Accuracy of maps against a naive count; PCA and t-SNE."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import sharding
from simclr_jax.cli import common, evaluate
from simclr_jax.evaluate import plots
from simclr_jax.evaluate.embedding_2d import map2d, pca, tsne
from simclr_jax.experiment import build, config, extraction
from simclr_jax.experiment.workdir import data_sizes, read_saved
from tests.tools import leave_in


def blobs(n, classes, apart=6.0, width=32, seed=0):
    draw = np.random.default_rng(seed)
    label = (np.arange(n) % classes).astype(np.int32)
    centres = apart * draw.normal(size=(classes, width))
    x = centres[label] + draw.normal(size=(n, width))
    return x.astype(np.float32), label


def counted(train, label, test, truth, k):
    right = 0
    for x, true in zip(test, truth, strict=True):
        near = np.argsort(np.sum((train - x) ** 2, 1), kind="stable")[:k]
        right += np.argmax(np.bincount(label[near])) == true
    return right / len(test)


@pytest.mark.parametrize("k", [1, 5, 15, 300])
def test_accuracy_equals_a_naive_count(k):
    x, label = blobs(250, 5, apart=1.0, width=2)
    result = map2d(x[:200], label[:200], x[200:], label[200:], 5, k=k)
    expected = counted(x[:200], label[:200], x[200:], label[200:], k)
    assert result["accuracy"] == pytest.approx(expected)
    assert result["count"] == 50
    assert 0.1 < expected < 0.9 or k == 300


def test_neighbours_are_by_distance_not_direction():
    """Two rings in the same directions: by cosine they could not be told apart."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    x, label = np.concatenate([ring, 10 * ring]), np.arange(2).repeat(60)
    assert map2d(x, label, x * 1.01, label, 2, k=5)["accuracy"] == 1


def test_invalid_arguments_are_errors():
    x, label = blobs(20, 2, width=3)
    with pytest.raises(ValueError, match=r"these have 3 coordinates.*method.out=2"):
        map2d(x, label, x, label, 2)
    with pytest.raises(ValueError, match="k >= 1, got k=0"):
        map2d(x[:, :2], label, x[:, :2], label, 2, k=0)
    with pytest.raises(ValueError, match="no labels"):
        map2d(x[:, :2], np.empty(0, np.int32), x[:, :2], label, 2)


def test_pca_keeps_the_two_widest_directions():
    x, _ = blobs(60, 3)
    centred = x - x.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    np.testing.assert_allclose(np.abs(pca(x)), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_clusters_stay_together_in_tsne():
    x, label = blobs(120, 4)
    xy = tsne(x, iterations=500)
    assert xy.shape == (120, 2)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.eye(120) * 1e9
    assert np.mean(label[np.argmin(apart, 1)] == label) > 0.95


# Through the judging door.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that ends on the plane, on a few pictures, trained on train and test."""
    c = config.load("configs/tsimcne_quickstart.py:stage=3,init_from=somewhere")
    changes = {
        "data.bank_split": "train[:100]",
        "data.eval_split": "test[:40]",
        "encoder.channels": "4",
        "method.hidden": "16",
        "data.batch_size": "32",
    }
    config.override(c, [*changes.items()])
    folder = tmp_path_factory.mktemp("run")
    leave_in(folder, c)
    return folder


@pytest.mark.long
def test_map2d_also_scores_maps_of_the_pixels(workdir, in_process, monkeypatch, capsys):
    drawn = {}

    def plane(xy, label, names, path, *, title):
        drawn.update(xy=xy, label=label, names=names, title=title)
        path.write_bytes(b"")

    monkeypatch.setattr(plots, "plane", plane)
    evaluate.main([f"--workdir={workdir}"])
    result = capsys.readouterr().out
    results = json.loads((workdir / "results.json").read_text())["map2d"]
    assert results.keys() == {"z", "pixels, PCA", "pixels, t-SNE"}
    for name, score in results.items():
        assert score["settings"] == {"k": 15}
        assert score["data"] == "cifar10_mini (train[:100], test[:40])"
        assert score["count"] == 40
        assert score["step"] == (3 if name == "z" else 0)
    table = result[result.index("accuracy in %") :].splitlines()
    assert table[0].split()[-3:] == ["kNN", "linear", "map"]
    scores = [f"{100 * results[name]['accuracy']:.1f}" for name in results]
    assert [line.split()[-1] for line in table[3:6]] == scores
    assert [len(line.split()) for line in table[4:6]] == [4, 4]

    # What was drawn is z itself, and its score is the one counted by hand.
    assert drawn["xy"].shape == (140, 2)
    assert drawn["title"] == "140 pictures, z"
    assert drawn["names"][:2] == ("airplane", "automobile")
    z, label = drawn["xy"], drawn["label"]
    expected = counted(z[:100], label[:100], z[100:], label[100:], 15)
    assert results["z"]["accuracy"] == pytest.approx(expected)


def test_pixels_are_the_pictures_in_order(workdir):
    c = config.restored(read_saved(workdir))
    source = build.open_data(c, "test[:40]", str(workdir))
    mesh = sharding.make_mesh(jax.devices()[:1])
    job = build.assemble(c, mesh, **data_sizes(workdir))
    pixels = extraction.pixels(c, source)
    assert pixels.shape == (40, 32 * 32 * 3)
    assert 0.9 < pixels.max() <= 1
    features = extraction.features(c, job, job.create(), source, mesh)
    np.testing.assert_array_equal(features.label, source.read(np.arange(40))["label"])
    encoded = source.read(np.arange(40))["image"]
    for i in (0, 7, 39):  # two decoders differ by a little
        picture = np.asarray(Image.open(io.BytesIO(encoded[i])), float)
        off = np.abs(255 * pixels[i].reshape(32, 32, 3) - picture)
        assert off.mean() < 3


def test_a_map_by_its_protocol(workdir, in_process, capsys):
    evaluate.main([f"--workdir={workdir}", "--protocol=map2d"])
    assert capsys.readouterr().out.startswith("map2d             z ")
    with pytest.raises(common.UsageError, match="these have 32 coordinates"):
        evaluate.main([f"--workdir={workdir}", "--protocol=map2d", "--features=h"])
