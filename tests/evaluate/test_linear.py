"""The quick head against scikit-learn, the papers' head against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simclr_jax.evaluate import linear as module
from simclr_jax.evaluate.linear import fit, linear, score
from simclr_jax.sharding import make_mesh


def blobs(n, seed, classes=5, width=12, noise=1.5):
    """Overlapping classes, features of very unlike means and scales."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n).astype(np.int32)
    x = centres[label] + noise * rng.normal(size=(n, width))
    x = x * np.geomspace(0.01, 10, width) + np.linspace(-1, 3, width)
    return x.astype(np.float32), label


def sklearn_head(x, label, l2):
    """The same objective, minimised in float64; l2 counts per picture there."""
    x = x.astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    reference = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000)
    reference.fit((x - mean) / scale, label)
    return reference, mean, scale


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_head_equals_scikit_learn_s(monkeypatch, devices, l2):
    monkeypatch.setattr(module, "ROWS", 8)  # several blocks on either mesh, one short
    x, label = blobs(301, 0)
    mesh = make_mesh(jax.devices()[:devices])
    head = fit(x, label, 5, mesh, l2=l2, iterations=500)
    reference, mean, scale = sklearn_head(x, label, l2)
    kernel = np.asarray(head["kernel"]) * scale[:, None]
    bias = np.asarray(head["bias"]) + mean @ np.asarray(head["kernel"])
    np.testing.assert_allclose(kernel, reference.coef_.T, atol=2e-3)
    # softmax leaves a shift of all biases free
    expected = reference.intercept_ - reference.intercept_.mean()
    np.testing.assert_allclose(bias - bias.mean(), expected, atol=2e-3)


def test_scores_as_scikit_learn_does():
    x, label = blobs(400, 0)
    test, truth = blobs(333, 1)
    reference, mean, scale = sklearn_head(x, label, 1e-2)
    expected = reference.score((test - mean) / scale, truth)
    assert 0.4 < expected < 0.95
    result = linear(x, label, test, truth, 5, make_mesh(), l2=1e-2)
    assert result["quick"] is True
    assert result["count"] == 333
    assert result["accuracy"] == pytest.approx(expected, abs=1.5 / 333)
    best = reference.predict((test - mean) / scale)
    confusion = np.bincount(5 * truth + best, minlength=25).reshape(5, 5)
    assert np.abs(result["confusion"] - confusion).sum() <= 4  # two at a boundary


def test_result_is_reproducible():
    data = *blobs(200, 0), *blobs(100, 1), 5, make_mesh()
    assert linear(*data) == linear(*data)


def test_a_constant_feature_has_no_effect():
    x, label = blobs(200, 0)
    mesh = make_mesh()
    constant = np.full((200, 1), 0.1, np.float32)  # whose mean rounds
    plain = fit(x, label, 5, mesh, l2=1e-2, iterations=100)
    wider = fit(np.hstack((x, constant)), label, 5, mesh, l2=1e-2, iterations=100)
    np.testing.assert_array_equal(wider["kernel"][-1], 0)
    np.testing.assert_allclose(wider["bias"], plain["bias"], atol=2e-3)


def test_score_counts_correct_predictions(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    head = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    x = np.eye(3, dtype=np.float32)[np.arange(50) % 3]
    label = np.where(np.arange(50) < 30, np.arange(50) % 3, (np.arange(50) + 1) % 3)
    result = score(head, x, label.astype(np.int32), make_mesh())
    assert (result["accuracy"], result["count"]) == (0.6, 50)


@pytest.mark.parametrize("settings", [{"l2": -1.0}, {"iterations": 0}])
def test_invalid_settings_are_errors(settings):
    x, label = blobs(20, 0)
    with pytest.raises(ValueError, match="l2 >= 0 and iterations >= 1"):
        linear(x, label, x, label, 5, make_mesh(), **settings)
