"""Neighbours and near duplicates, against all pairs in float64."""

import jax
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.evaluate import neighbours


def features(n, f=6):
    return np.random.default_rng(0).normal(size=(n, f)).astype(np.float32)


def cosines(x):
    x = x.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@pytest.fixture(params=[1, 8])
def mesh(request, monkeypatch):
    """Of one and of eight devices, with blocks that N does not divide."""
    monkeypatch.setattr(neighbours, "QUERIES", 8)
    monkeypatch.setattr(neighbours, "BANK", 24)
    return sharding.make_mesh(jax.devices()[: request.param])


def test_neighbours_are_the_largest_cosines(mesh):
    x, k = features(70), 4
    similar = cosines(x)
    np.fill_diagonal(similar, -2)
    expected = np.argsort(-similar, 1)[:, :k]
    with jax.set_mesh(mesh):
        index, similarity = neighbours.nearest(x, k, mesh)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(
        similarity, np.take_along_axis(similar, expected, 1), atol=1e-6
    )


def test_a_picture_is_not_its_own_neighbour_among_duplicates(mesh):
    x = np.repeat(features(3), 5, 0)
    with jax.set_mesh(mesh):
        index, _ = neighbours.nearest(x, 2, mesh)
    assert (index // 5 == np.arange(15)[:, None] // 5).all()
    assert (index != np.arange(15)[:, None]).all()
    assert index[4].tolist() == [0, 1]  # of equal ones the earlier


def components(similar, threshold):
    """The connected components of two rows or more, by a search from every row."""
    left, result = set(range(len(similar))), []
    while left:
        component = [left.pop()]
        for row in component:
            near = [j for j in left if similar[row, j] > threshold]
            component += near
            left -= set(near)
        result.append(sorted(component))
    large = [c for c in result if len(c) > 1]
    return sorted(large, key=lambda c: (-len(c), c[0]))


def test_groups_are_the_connected_components(mesh):
    x, threshold = features(70, 3), 0.97
    with jax.set_mesh(mesh):
        group = neighbours.duplicate_groups(x, threshold, mesh)
    expected = components(cosines(x), threshold)
    assert len(expected) > 5
    actual = [np.flatnonzero(group == i).tolist() for i in range(group.max() + 1)]
    assert actual == expected
    assert (group == -1).sum() == 70 - sum(map(len, expected))


def test_a_chain_is_one_group():
    """Its ends are not similar, and its links join in an order that is not theirs."""
    angle = np.arange(40) * 0.1
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    x = x[np.random.default_rng(0).permutation(40)]
    mesh = sharding.make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        assert (neighbours.duplicate_groups(x, 0.99, mesh) == 0).all()
        assert (neighbours.duplicate_groups(x, 0.999, mesh) == -1).all()


@pytest.mark.parametrize("k", [0, 3, -1])
def test_numbers_of_neighbours_that_there_are_not(k):
    with pytest.raises(ValueError, match=f"1 to 2 neighbours each; got {k}"):
        neighbours.nearest(features(3), k, sharding.make_mesh())


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, float("nan")])
def test_thresholds_that_are_no_cosine(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        neighbours.duplicate_groups(features(3), threshold, sharding.make_mesh())
