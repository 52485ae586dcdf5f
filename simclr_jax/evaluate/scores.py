"""What the predictions of a classifier on a test set are worth."""

import math
from typing import Any

import numpy as np

TOP = 5  # classes of the second accuracy
DETAILS = ("per_class", "confusion")  # the long parts of a result
NORMAL_95 = 1.959963984540054  # a normal variable is within +- this with 95 %


def classification(ranked: np.ndarray, label: np.ndarray, classes: int) -> dict:
    """Accuracies of ranked predictions, as plain Python values.

    Args:
      ranked: int [M, K], the K = min(5, classes) best classes of each test picture, the
        best first.
      label: int [M], in [0, classes).
      classes: C.

    Returns:
      accuracy: the share of pictures whose best class is right.
      interval: [low, high], the 95 % interval of the accuracy.
      top5: the share with the right class among the best five; if C > 5.
      balanced_accuracy: the mean of `per_class` over the classes with pictures.
      per_class: C accuracies; None for a class without pictures.
      confusion: C lists of C counts, [true class][best class].
      count: M.

    Raises:
      ValueError: arrays of other shapes, or classes outside [0, C).
    """
    _check(ranked, label, classes)
    pairs = label.astype(np.int64) * classes + ranked[:, 0]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    right, counts = np.diag(confusion), confusion.sum(1)
    present = counts > 0
    per_class = right[present] / counts[present]
    result = {
        "accuracy": int(right.sum()) / len(label),
        "interval": list(wilson(int(right.sum()), len(label))),
        "balanced_accuracy": float(per_class.mean()),
        "count": len(label),
    }
    if classes > TOP:
        result["top5"] = float((ranked == label[:, None]).any(1).mean())
    shares = iter(per_class.tolist())
    return result | {
        "per_class": [next(shares) if x else None for x in present],
        "confusion": confusion.tolist(),
    }


def wilson(successes: int, count: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's interval of a binomial proportion (JASA 22, 1927).

    Unlike p +- z sqrt(p (1 - p) / n), it lies in [0, 1], and its width is not 0 for
    p = 0 or 1. The predictions of one network on a test set are taken as independent:
    how far another network of the same training would be, it does not tell.

    Args:
      successes: n p.
      count: n, at least 1.
      z: normal deviations on each side.
    """
    p, share = successes / count, z * z / count
    middle = (p + share / 2) / (1 + share)
    half = z * math.sqrt(p * (1 - p) / count + share / (4 * count)) / (1 + share)
    # exactly 0 and 1 at the ends, where rounding would leave about 1e-17
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == count else middle + half


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float]:
    """The 95 % interval of the second accuracy minus the first.

    Newcombe's, from both Wilson intervals (Statistics in Medicine 17, 1998, method 10).
    It is for samples drawn independently; the same pictures were classified twice, so
    that it is wider than needed, as long as both tend to err on the same ones.

    Args:
      first, second: results of `classification`, without details.
    """
    p, q = first["accuracy"], second["accuracy"]
    (p_low, p_high), (q_low, q_high) = first["interval"], second["interval"]
    low = q - p - math.hypot(q - q_low, p_high - p)
    return low, q - p + math.hypot(q_high - q, p - p_low)


def text(result: dict[str, Any]) -> str:
    """A result for reading: the accuracy in %, its interval, and others it has."""
    parts = [f"{100 * result['accuracy']:5.1f} %"]
    if "interval" in result:
        low, high = result["interval"]
        parts.append(f"({100 * low:.1f} to {100 * high:.1f})")
    if "top5" in result:
        parts.append(f"top-5 {100 * result['top5']:.1f} %")
    # Equal for classes of equal size.
    balanced = result.get("balanced_accuracy", result["accuracy"])
    if abs(balanced - result["accuracy"]) > 1e-9:
        parts.append(f"class-balanced {100 * balanced:.1f} %")
    return "  ".join(parts)


def split(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A result without DETAILS, and only these."""
    details = {key: result[key] for key in DETAILS if key in result}
    return {key: x for key, x in result.items() if key not in details}, details


def _check(ranked, label, classes):
    columns = min(TOP, classes)
    if label.ndim != 1 or not len(label) or ranked.shape != (len(label), columns):
        raise ValueError(
            f"Scores need labels [M] and the {columns} best classes [M, {columns}] of "
            f"at least one picture; got {label.shape} and {ranked.shape}."
        )
    for name, x in (("Labels", label), ("Predictions", ranked)):
        if x.min() < 0 or x.max() >= classes:
            raise ValueError(
                f"{name} run from {x.min()} to {x.max()}: with {classes} classes they "
                f"must lie in [0, {classes})."
            )
