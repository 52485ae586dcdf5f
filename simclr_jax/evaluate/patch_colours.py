"""Features by position as colours: their first three principal components."""

import numpy as np

CLIPPED = 1.0  # % of the positions at each end of a component


def patch_colours(features: np.ndarray) -> np.ndarray:
    """The first three principal components of all positions as red, green and blue.

    The pictures share components and scale, so that equal colours mean similar
    features. A component is scaled from 0 to 1, apart from the lowest and the highest
    hundredth of its values, which are clipped. Its sign is that with a positive sum of
    cubes: the longer tail is bright.

    Args:
      features: [N, R, K, C], C at least 3.

    Returns:
      float32 [N, R, K, 3] in [0, 1]; a component without variance is 0.5.
    """
    x = features.reshape(-1, features.shape[-1]).astype(np.float64)
    x = x - x.mean(0)
    variance, vectors = np.linalg.eigh(x.T @ x)
    y = x @ vectors[:, :-4:-1]  # eigh's order is ascending
    y *= np.where((y**3).sum(0) < 0, -1, 1)
    y[:, variance[:-4:-1] <= 1e-12 * variance[-1]] = 0
    low, high = np.percentile(y, (CLIPPED, 100 - CLIPPED), axis=0)
    flat = high <= low
    scaled = (y - low) / np.where(flat, 1, high - low)
    scaled = np.where(flat, 0.5, np.clip(scaled, 0, 1))
    return scaled.reshape(*features.shape[:-1], 3).astype(np.float32)
