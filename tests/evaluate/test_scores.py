"""Scores against scikit-learn, scipy and small cases by hand."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from simclr_jax.evaluate.scores import classification, split, text, wilson


def predictions(count, classes, seed=0):
    """Scores [M, C] in which the true class is often high, and uneven labels."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
    label = rng.choice(classes, count, p=share)
    scores = rng.normal(size=(count, classes))
    scores[np.arange(count), label] += 1.5
    ranked = np.argsort(-scores, 1)[:, : min(5, classes)]
    return scores, ranked.astype(np.int32), label.astype(np.int32)


@pytest.mark.parametrize("classes", [2, 5, 6, 11])
def test_equals_scikit_learn(classes):
    scores, ranked, label = predictions(300, classes)
    result = classification(ranked, label, classes)
    best, every = ranked[:, 0], np.arange(classes)
    recall = metrics.recall_score(label, best, average=None, labels=every)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(label, best))
    assert result["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(label, best)
    )
    np.testing.assert_allclose(result["per_class"], recall)
    np.testing.assert_array_equal(
        result["confusion"], metrics.confusion_matrix(label, best, labels=every)
    )
    assert result["count"] == 300
    assert ("top5" in result) == (classes > 5)
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(label, scores, k=5, labels=every)
        assert result["top5"] == pytest.approx(top5)
    low, high = result["interval"]
    assert low < result["accuracy"] < high
    json.dumps(result, allow_nan=False)  # plain values


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 10), (10, 10), (37, 80), (999, 1000)]
)
def test_interval_equals_scipy(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx(tuple(expected), abs=1e-12)


def test_interval_by_hand():
    """z = 2, p = 1/2, n = 12: 1/2 +- 2 sqrt(1/48 + 1/144) / (4/3) = 1/2 +- 1/4."""
    assert wilson(6, 12, z=2.0) == pytest.approx((0.25, 0.75))


def test_a_class_without_pictures():
    """Two of three are right, class 1 is absent."""
    ranked = np.array([[0, 1, 2], [2, 0, 1], [0, 1, 2]])
    result = classification(ranked, np.array([0, 2, 2]), 3)
    assert result["per_class"] == [1.0, None, 0.5]
    assert result["balanced_accuracy"] == 0.75
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["confusion"] == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]


def test_split_parts_long_from_short():
    _, ranked, label = predictions(20, 3)
    short, details = split(classification(ranked, label, 3))
    assert short.keys() == {"accuracy", "interval", "balanced_accuracy", "count"}
    assert details.keys() == {"per_class", "confusion"}
    assert split({"accuracy": 0.5, "count": 2}) == ({"accuracy": 0.5, "count": 2}, {})


def test_a_result_for_reading():
    even = {"accuracy": 0.4567, "interval": [0.4, 0.5], "balanced_accuracy": 0.4567}
    assert text(even) == " 45.7 %  (40.0 to 50.0)"
    uneven = even | {"top5": 0.9, "balanced_accuracy": 0.25}
    assert text(uneven).endswith("top-5 90.0 %  class-balanced 25.0 %")
    assert text({"accuracy": 1.0}) == "100.0 %"


@pytest.mark.parametrize(
    ("ranked", "label", "message"),
    [
        (np.zeros((2, 5), int), np.zeros(2, int), r"3 best classes \[M, 3\]"),
        (np.zeros((2, 3), int), np.zeros(3, int), r"got \(3,\) and \(2, 3\)"),
        (np.zeros((0, 3), int), np.zeros(0, int), "at least one picture"),
        (np.zeros((1, 3), int), np.array([3]), "Labels run from 3 to 3"),
        (np.array([[0, -1, 2]]), np.array([1]), "Predictions run from -1"),
    ],
)
def test_invalid_arrays_are_errors(ranked, label, message):
    with pytest.raises(ValueError, match=message):
        classification(ranked, label, 3)
