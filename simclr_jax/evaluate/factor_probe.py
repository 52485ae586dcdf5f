"""Linear probes of features for numbers and for categories, scored on other rows."""

from collections.abc import Callable
from typing import Any

import numpy as np

STRENGTHS = np.logspace(-2, 6, 9)  # of the ridge penalty
RESAMPLES = 1000  # of the bootstrap


def probe(
    x: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    group: np.ndarray,
    *,
    category: bool,
) -> dict[str, Any]:
    """Fits a factor linearly on some views and scores it on others.

    Args:
      x: [M, D] of a feature.
      y: [M] of a factor; rows with NaN are left out.
      test: bool [M], the rows for testing.
      group: int [M], the picture of each row, for the interval.
      category: whether y is a category.

    Returns:
      {"metric": "r2" or "balanced_accuracy", "score", "chance" (0, or 1 / C),
      "interval": [low, high], 95 %, by a bootstrap over the test pictures}.

    Raises:
      ValueError: a category is in one part only.
      FloatingPointError: the features are not finite.
    """
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise FloatingPointError(
            "The features are not all finite: the encoder has diverged. Evaluate an "
            "earlier checkpoint."
        )
    valid = ~np.isnan(y)
    x, y, test, group = x[valid].astype(np.float64), y[valid], test[valid], group[valid]
    if category and set(y[test]) != set(y[~test]):
        raise ValueError(
            "There are too few pictures: a category is in one part of them only. "
            "Raise evaluate.factors.pictures."
        )
    prediction = _predict(x[~test], y[~test], x[test], category)
    if category:
        sums, metric = _recall_sums(y[test], prediction), _balanced_accuracy
    else:
        sums, metric = _error_sums(y[test], prediction), _r2
    return {
        "metric": "balanced_accuracy" if category else "r2",
        "score": float(metric(sums.sum(0))),
        "chance": 1 / len(set(y)) if category else 0.0,
        "interval": _interval(sums, group[test], metric),
    }


def _predict(x, y, queries, category):
    """The ridge probe's predictions of y for the queries."""
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV  # takes seconds
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if category:
        model = RidgeClassifierCV(STRENGTHS, class_weight="balanced")
    else:
        model = RidgeCV(STRENGTHS)
    return make_pipeline(StandardScaler(), model).fit(x, y).predict(queries)


# Scores as functions of sums over rows, so that a bootstrap only weighs the sums.


def _error_sums(y, prediction):
    """[M, 4]: 1, y, y^2 and the squared error, y from its mean."""
    error, y = y - prediction, y - y.mean()
    return np.stack([np.ones_like(y), y, y**2, error**2], 1)


def _r2(sums):
    n, total, square, error = np.moveaxis(sums, -1, 0)
    return 1 - error / (square - total**2 / n)


def _recall_sums(y, prediction):
    """[M, 2 C]: the class of y, and the same where the prediction is right."""
    member = y[:, None] == np.unique(y)[None]
    correct = member & (y == prediction)[:, None]
    return np.concatenate([member, correct], 1).astype(float)


def _balanced_accuracy(sums):
    count, correct = np.split(sums, 2, -1)
    return np.mean(correct / count, -1)


def _interval(sums, group, metric: Callable) -> list[float]:
    """The 95 % interval of a score when whole pictures are drawn again."""
    names, rank = np.unique(group, return_inverse=True)
    by_picture = np.zeros((len(names), sums.shape[1]))
    np.add.at(by_picture, rank, sums)
    share = np.full(len(names), 1 / len(names))
    weights = np.random.default_rng(0).multinomial(len(names), share, RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):  # a class may not be drawn
        scores = metric(weights @ by_picture)
    low, high = np.nanpercentile(scores, [2.5, 97.5])
    return [float(low), float(high)]
