"""Maps of pictures to two dimensions, PCA and t-SNE, and the accuracy of any map."""

from typing import Any

import numpy as np

from simclr_jax.evaluate.features import check
from simclr_jax.evaluate.scores import TOP, classification

MAX_PICTURES = 60_000  # largest map of pixels: t-SNE would take hours for more


def map2d(
    train: np.ndarray,
    train_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    classes: int,
    *,
    k: int = 15,
) -> dict[str, Any]:
    """Accuracy of an unweighted vote of the k nearest training points of a map.

    By Euclidean distance, as in t-SimCNE (arXiv:2210.09879). The test points may be
    mapped together with the training points; their labels do not vote.

    Args:
      train: [N, 2]; train_label: [N] integers in [0, classes).
      test: [M, 2]; test_label: [M].
      k: the number of neighbours that vote, or all training points if there are fewer.
        Ties go to the lower class.

    Returns:
      as `scores.classification`.

    Raises:
      ValueError: points not of two dimensions, k below 1, and as `features.check`.
    """
    from sklearn.neighbors import KNeighborsClassifier  # takes seconds

    if k < 1:
        raise ValueError(f"map2d needs k >= 1, got k={k}. The usual value is 15.")
    check(train, train_label, test, test_label, classes)
    if train.shape[1] != 2:
        raise ValueError(
            f"map2d needs points of 2 coordinates; these have {train.shape[1]} "
            "coordinates. z has 2 with method.out=2."
        )
    model = KNeighborsClassifier(min(k, len(train))).fit(train, train_label)
    shares = np.zeros((len(test), classes))
    shares[:, model.classes_] = model.predict_proba(test)
    ranked = np.argsort(-shares, 1, kind="stable")[:, :TOP]
    return classification(ranked, test_label, classes)


def pca(x: np.ndarray, dimensions: int = 2, seed: int = 0) -> np.ndarray:
    """[N, F] -> [N, dimensions], or fewer if N or F are smaller."""
    from sklearn.decomposition import PCA

    model = PCA(min(dimensions, *x.shape), random_state=seed)
    return model.fit_transform(x)


def tsne(x: np.ndarray, *, seed: int = 0, iterations: int = 1000) -> np.ndarray:
    """[N, F] -> [N, 2] by PCA to 50 and t-SNE; reproducible on one machine."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    solver = TSNE(
        perplexity=min(30, (len(x) - 1) / 3),
        init="pca",
        max_iter=iterations,
        random_state=seed,
    )
    # For thousands of points several threads are slower: they wait for each other.
    with threadpool_limits(1):
        return solver.fit_transform(pca(x, 50, seed))
