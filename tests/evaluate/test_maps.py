"""Maps are judged as if counted by hand, and the classic ones are what they are."""

import numpy as np
import pytest

from simclr_jax.evaluate.maps import map2d, pca, tsne


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
def test_agrees_with_counting(k):
    x, label = blobs(250, 5, apart=1.0, width=2)
    said = map2d(x[:200], label[:200], x[200:], label[200:], 5, k=k)
    expected = counted(x[:200], label[:200], x[200:], label[200:], k)
    assert said == {"accuracy": pytest.approx(expected), "count": 50}
    assert 0.1 < expected < 0.9 or k == 300


def test_distance_counts_and_direction_does_not():
    """Two rings in the same directions: by cosine they could not be told apart."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    x, label = np.concatenate([ring, 10 * ring]), np.arange(2).repeat(60)
    assert map2d(x, label, x * 1.01, label, 2, k=5)["accuracy"] == 1


def test_what_is_refused():
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


def test_neighbours_on_the_map_are_of_a_kind():
    x, label = blobs(120, 4)
    xy = tsne(x, iterations=500)
    assert xy.shape == (120, 2)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.eye(120) * 1e9
    assert np.mean(label[np.argmin(apart, 1)] == label) > 0.95
