"""Pictures as points on a plane: two classic maps, and how to judge any."""

import numpy as np

from simclr_jax.evaluate.features import check

MOST = 60_000  # pixels of more pictures are not mapped: t-SNE would take hours


def map2d(
    train: np.ndarray,
    train_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    classes: int,
    *,
    k: int = 15,
) -> dict:
    """Top-1 accuracy of the k nearest training points of a map, one vote each.

    As t-SimCNE (arXiv:2210.09879) judges its maps: by Euclidean distance. All points
    may have been mapped together; only the labels are kept apart.

    Args:
      train: [N, 2]; train_label: [N] integers in [0, classes).
      test: [M, 2]; test_label: [M].
      k: neighbours that vote; of fewer points all do. Ties go to the lower class.

    Returns:
      {"accuracy": in [0, 1], "count": M}.

    Raises:
      ValueError: for points not on a plane, k below 1, and as `features.check`.
    """
    from sklearn.neighbors import KNeighborsClassifier  # seconds to import

    if k < 1:
        raise ValueError(f"map2d needs k >= 1, got k={k}. The usual value is 15.")
    check(train, train_label, test, test_label, classes)
    if train.shape[1] != 2:
        raise ValueError(
            f"map2d judges points on a plane; these have {train.shape[1]} coordinates. "
            "z has two where method.out=2."
        )
    judge = KNeighborsClassifier(min(k, len(train))).fit(train, train_label)
    right = judge.predict(test) == test_label
    return {"accuracy": float(np.mean(right)), "count": len(test)}


def pca(x: np.ndarray, dimensions: int = 2, seed: int = 0) -> np.ndarray:
    """[N, F] -> [N, dimensions], or fewer where N or F are fewer."""
    from sklearn.decomposition import PCA

    model = PCA(min(dimensions, *x.shape), random_state=seed)
    return model.fit_transform(x)


def tsne(x: np.ndarray, *, seed: int = 0, iterations: int = 1000) -> np.ndarray:
    """[N, F] -> [N, 2] by PCA to 50 and t-SNE; equal on every run of one machine."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    solver = TSNE(
        perplexity=min(30, (len(x) - 1) / 3),
        init="pca",
        max_iter=iterations,
        random_state=seed,
    )
    # Thousands of points take longer with threads, which wait for each other busily.
    with threadpool_limits(1):
        return solver.fit_transform(pca(x, 50, seed))
