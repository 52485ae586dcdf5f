"""Transfer to another data set by regression on frozen features."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax.data.subsets import stratified
from simclr_jax.evaluate.features import check
from simclr_jax.evaluate.linear import (
    Head,
    minimise,
    moments,
    on_mesh,
    score,
    total_cross_entropy,
    unfold,
    zeros,
)
from simclr_jax.sharding import replicated

METRICS = ("accuracy", "balanced_accuracy")


class Fit(NamedTuple):
    """Labelled features on the mesh, to fit heads to."""

    x: jax.Array  # [K, B, F]
    label: jax.Array  # [K, B], -1 for padding rows
    count: int  # N
    classes: int
    mesh: Mesh

    def __call__(self, head: Head, strength: float, iterations: int) -> Head:
        """The head of one strength, by L-BFGS from another head."""
        x, label, count, classes, mesh = self
        head = jax.device_put(head, replicated(mesh))  # always, to compile once
        return _fit(x, label, head, classes, count, strength, iterations)


def on_devices(x: np.ndarray, label: np.ndarray, classes: int, mesh: Mesh) -> Fit:
    """Sends features [N, F] and labels [N] to the mesh."""
    return Fit(*on_mesh(x, label, mesh), len(x), classes, mesh)


def transfer(
    train: np.ndarray,
    train_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    classes: int,
    mesh: Mesh,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    weakest: float = 1e-6,
    strongest: float = 1e5,
    strengths: int = 45,
    validation: float = 0.2,
    metric: str = "accuracy",
    iterations: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Transfer by regression: SimCLR (arXiv:2002.05709), appendix B.8; BYOL, C.

    Multinomial logistic regression on the features as they are, neither augmented nor
    standardised. The loss is the sum of the cross-entropies + strength/2 |kernel|^2;
    the bias is not penalised. scikit-learn calls 1 / strength C. L-BFGS uses all
    pictures at every step.

    The strength is that of the best head on a part of the training pictures, of equally
    good ones the largest; then a head of this strength is fitted to all of them. The
    fits go from the largest strength to the smallest, each from the head before.

    Args:
      train: [N, F]; train_label: [N] integers in [0, classes).
      test: [M, F]; test_label: [M].
      mesh: of any size.
      progress: called with (fits done, total fits) after each of them.
      weakest, strongest, strengths: limits of the strengths and their number, evenly
        spaced in the logarithm.
      validation: share of every class of the training pictures that selects the
        strength; the papers use the sets' own parts where there are some.
      metric: to select by, one of METRICS. SimCLR reports the second on Aircraft, Pets,
        Caltech-101 and Flowers.
      iterations: largest number of a fit's L-BFGS iterations; fewer if the gradient
        vanishes.
      seed: of the draw of the validation part.

    Returns:
      the scores of `classification`, "strength", and "validation": the metric by
      strength, from the weakest.

    Raises:
      ValueError: a setting out of its range, fewer than two classes in the training
        pictures, and as `features.check`.
    """
    grid = _grid(weakest, strongest, strengths)
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, got {metric!r}.")
    if not 0 < validation < 1 or iterations < 1:
        raise ValueError(
            "transfer needs validation between 0 and 1 and iterations >= 1, got "
            f"validation={validation}, iterations={iterations}."
        )
    check(train, train_label, test, test_label, classes)
    out = stratified(train_label, validation, seed)
    _check_classes(train_label, out)
    total = strengths + 1
    on_part = on_devices(train[~out], train_label[~out], classes, mesh)
    head, scores, heads = zeros(train.shape[1], classes), [], []
    for done, strength in enumerate(reversed(grid), 1):
        head = on_part(head, strength, iterations)
        scores.append(score(head, train[out], train_label[out], mesh)[metric])
        heads.append(jax.device_get(head))
        progress(done, total)
    best = int(np.argmax(scores))
    strength = grid[::-1][best]
    on_all = on_devices(train, train_label, classes, mesh)
    head = on_all(heads[best], strength, iterations)
    progress(total, total)
    result = score(head, test, test_label, mesh)
    curve = [[s, x] for s, x in zip(grid, reversed(scores), strict=True)]
    return result | {"strength": strength, "validation": curve}


def _grid(weakest: float, strongest: float, strengths: int) -> list[float]:
    """The strengths, ascending."""
    if not 0 < weakest <= strongest or strengths < 1:
        raise ValueError(
            "transfer needs 0 < weakest <= strongest and strengths >= 1, got weakest="
            f"{weakest}, strongest={strongest}, strengths={strengths}. The published "
            "grid is 1e-6 to 1e5 in 45."
        )
    return np.geomspace(weakest, strongest, strengths).tolist()


def _check_classes(label: np.ndarray, out: np.ndarray) -> None:
    present = len(np.unique(label))
    if present < 2 or not out.any():
        raise ValueError(
            "transfer needs training pictures of two classes or more, and two of one "
            f"class or more; there are {len(label)} pictures of {present} classes."
        )


@functools.partial(jax.jit, static_argnames=("classes", "count"))
def _fit(x, label, head, classes: int, count: int, strength: float, iterations: int):
    """As `Fit.__call__`, on features scaled so that all directions are alike curved.

    The curvature along a weight of a class of probability 1 / C is about its feature's
    variance / C, plus strength / N.
    """
    mean, deviation = moments(x, label, count)
    curvature = deviation**2 + classes * strength / count
    scale = jnp.where(deviation > 0, jax.lax.rsqrt(curvature), 0)

    def loss(head):
        raw = unfold(head, mean, scale)
        penalty = strength / 2 * jnp.sum(raw["kernel"] ** 2)
        return (total_cross_entropy(raw, x, label, classes) + penalty) / count

    kernel = head["kernel"] * jnp.where(deviation > 0, jnp.sqrt(curvature), 0)[:, None]
    start = {"kernel": kernel, "bias": head["bias"] + mean @ head["kernel"]}
    return unfold(minimise(loss, start, iterations), mean, scale)
