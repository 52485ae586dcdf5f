"""Regression over a grid of strengths against scikit-learn, and which one is used."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from simclr_jax.data.subsets import stratified
from simclr_jax.evaluate import linear
from simclr_jax.evaluate.linear import zeros
from simclr_jax.evaluate.linear_transfer import Fit, on_devices, transfer
from simclr_jax.sharding import make_mesh
from tests.evaluate.test_linear import blobs

SMALL = {"weakest": 1e-3, "strongest": 1e3, "strengths": 4}


def reference(x, label, strength):
    """The same objective in float64: C counts per picture as `strength` does not."""
    model = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-10)
    with threadpool_limits(1):
        return model.fit(x.astype(np.float64), label)


def one_device():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def unscaled():
    """Features of very unlike scales, and scikit-learn's logits by strength."""
    x, label = blobs(301, 0)
    exact = x.astype(np.float64)
    models = {s: reference(x, label, s) for s in (1e5, 100.0, 1.0)}
    return x, label, {s: m.decision_function(exact) for s, m in models.items()}


@pytest.fixture(scope="module")
def data():
    x, label, test, truth = *blobs(301, 0), *blobs(200, 1)
    return x / x.std(0), label, test / x.std(0), truth


@pytest.mark.parametrize("devices", [1, 8])
def test_heads_equal_scikit_learn_s(unscaled, monkeypatch, devices):
    """Along the grid, each from the one before."""
    monkeypatch.setattr(linear, "ROWS", 16)
    x, label, expected = unscaled
    mesh = make_mesh(jax.devices()[:devices])
    fit, head = on_devices(x, label, 5, mesh), zeros(x.shape[1], 5)
    for strength, scores in expected.items():
        head = fit(head, strength, 1000)
        difference = x @ np.asarray(head["kernel"]) + np.asarray(head["bias"]) - scores
        difference -= difference.mean(1, keepdims=True)  # which softmax leaves free
        assert np.abs(difference).max() < 5e-3 * max(1, np.abs(scores).max())


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_best_strength_is_used_on_all_pictures(data, metric):
    x, label, test, truth = data
    keep = (label > 0) | (np.arange(len(x)) % 4 == 0)  # the first class is small
    x, label = x[keep], label[keep]
    result = transfer(x, label, test, truth, 5, one_device(), metric=metric, **SMALL)
    out = stratified(label, 0.2, 0)
    scores = {}
    for strength in (1e-3, 1e-1, 1e1, 1e3):
        best = reference(x[~out], label[~out], strength).predict(x[out])
        hits = best == label[out]
        shares = [hits[label[out] == c].mean() for c in range(5)]
        scores[strength] = hits.mean() if metric == "accuracy" else np.mean(shares)
    curve = dict(result["validation"])
    np.testing.assert_allclose(list(curve), list(scores))
    np.testing.assert_allclose([*curve.values()], [*scores.values()], atol=1e-9)
    strength = max(scores, key=lambda s: (scores[s], s))
    assert result["strength"] == pytest.approx(strength)
    assert scores[strength] > min(scores.values())
    expected = reference(x, label, strength).score(test, truth)
    assert result["accuracy"] == pytest.approx(expected, abs=1.5 / len(test))
    assert result["count"] == len(test)


def test_of_equal_strengths_the_largest_is_used(monkeypatch):
    x = np.repeat(np.eye(2, 3, dtype=np.float32), 20, 0)
    label = np.repeat([0, 1], 20).astype(np.int32)
    done = []
    result = transfer(
        *(
            x,
            label,
            x,
            label,
            2,
            one_device(),
            lambda *step: done.append(step),
        ),
        **SMALL,
    )
    assert result["validation"] == [[pytest.approx(10**k), 1.0] for k in (-3, -1, 1, 3)]
    assert result["strength"] == pytest.approx(1e3)
    assert done == [(i, 5) for i in range(1, 6)]


def test_the_published_grid(monkeypatch):
    monkeypatch.setattr(Fit, "__call__", lambda self, head, *_: head)
    x, label = blobs(60, 0)
    result = transfer(x, label, x, label, 5, one_device())
    strengths = [strength for strength, _ in result["validation"]]
    np.testing.assert_allclose(strengths, np.logspace(-6, 5, 45))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weakest": 0.0}, "0 < weakest <= strongest"),
        ({"strongest": 1e-7}, "0 < weakest <= strongest"),
        ({"strengths": 0}, "strengths >= 1"),
        ({"validation": 1.0}, "validation between 0 and 1"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"metric": "top5"}, "accuracy, balanced_accuracy"),
    ],
)
def test_invalid_settings_are_errors(settings, message):
    x, label = blobs(20, 0)
    with pytest.raises(ValueError, match=message):
        transfer(x, label, x, label, 5, one_device(), **settings)


def test_one_class_or_no_validation_part_are_errors():
    x, label = blobs(20, 0)
    mesh = one_device()
    with pytest.raises(ValueError, match="20 pictures of 1 classes"):
        transfer(x, label * 0, x, label, 5, mesh)
    with pytest.raises(ValueError, match="5 pictures of 5 classes"):
        transfer(x[:5], np.arange(5, dtype=np.int32), x, label, 5, mesh)
