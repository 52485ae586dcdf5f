"""kNN against a naive float64 vote and scikit-learn, in any blocks, on any mesh."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from simclr_jax.evaluate import knn as module
from simclr_jax.evaluate.knn import knn, votes
from simclr_jax.sharding import make_mesh


def naive(train, train_label, test, test_label, classes, k, temperature):
    """One query at a time, one neighbour at a time, in float64."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    right = 0
    for x, label in zip(test, test_label, strict=True):
        sim = train @ (x / np.linalg.norm(x))
        votes = np.zeros(classes)
        for i in np.argsort(-sim, kind="stable")[:k]:
            votes[train_label[i]] += np.exp(sim[i] / temperature)
        right += np.argmax(votes) == label
    return right / len(test)


def blobs(n, seed, classes=7, width=16, noise=1.2):
    centres = np.random.default_rng(99).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n).astype(np.int32)
    x = centres[label] + noise * rng.normal(size=(n, width))
    return x.astype(np.float32), label


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of queries and bank, so that their seams are crossed."""
    monkeypatch.setattr(module, "QUERIES", 8)
    monkeypatch.setattr(module, "BANK", 32)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("bank", "queries", "k", "temperature"),
    [
        (301, 77, 20, 0.1),  # no multiples of anything
        (64, 64, 1, 0.1),  # full blocks; the nearest only
        (301, 77, 40, 0.07),  # more neighbours than a block of the bank has rows
    ],
)
def test_equals_the_naive_vote(small_blocks, devices, bank, queries, k, temperature):
    data = *blobs(bank, 0), *blobs(queries, 1), 7
    mesh = make_mesh(jax.devices()[:devices])
    result = knn(*data, mesh, k=k, temperature=temperature)
    assert result["count"] == queries
    expected = naive(*data, k=k, temperature=temperature)
    assert 0.2 < expected < 1.0  # hard enough to be wrong about
    assert result["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_defaults_in_one_block_equal_the_naive_vote():
    data = *blobs(1450, 0), *blobs(100, 1), 7
    expected = naive(*data, k=200, temperature=0.1)
    result = knn(*data, make_mesh())
    assert result["accuracy"] == pytest.approx(expected, abs=1e-9)
    assert result["k"] == 200


@pytest.mark.parametrize("k", [1, 2, 20])
def test_a_plain_vote_equals_scikit_learn(k):
    """Two neighbours often disagree: then the lower class wins in both."""
    x, label, test, truth = *blobs(301, 0), *blobs(77, 1)
    result = knn(x, label, test, truth, 7, make_mesh(), k=k, weighted=False)
    reference = KNeighborsClassifier(k, metric="cosine").fit(x, label)
    assert result["accuracy"] == pytest.approx(reference.score(test, truth), abs=1e-9)
    best = reference.predict(test)
    expected = np.bincount(7 * truth + best, minlength=49).reshape(7, 7)
    np.testing.assert_array_equal(result["confusion"], expected)


def test_no_more_neighbours_vote_than_a_class_has_pictures():
    assert votes(200, 5000, 10) == 200
    assert votes(200, 51, 3) == 17
    assert votes(200, 5, 10) == 1
    data = *blobs(60, 0), *blobs(40, 1), 7
    result = knn(*data, make_mesh(), k=200)
    assert result["k"] == 8
    expected = naive(*data, k=8, temperature=0.1)
    assert result["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_the_right_class_is_among_the_first_five():
    """Of the five best classes by a naive vote, in the naive order."""
    x, label, test, truth = *blobs(301, 0), *blobs(77, 1)
    result = knn(x, label, test, truth, 7, make_mesh(), k=20)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    sim = unit(test) @ unit(x).T
    order = np.argsort(-sim, 1)[:, :20]
    weight = np.exp(np.take_along_axis(sim, order, 1) / 0.1)
    share = [(weight * (label[order] == c)).sum(1) for c in range(7)]
    best = np.argsort(-np.stack(share, 1), 1, kind="stable")[:, :5]
    assert result["top5"] == pytest.approx((best == truth[:, None]).any(1).mean())


def test_settings_change_the_result():
    """The vote is weighted and k counts; else the tests above would prove little."""
    data = *blobs(301, 0), *blobs(77, 1), 7
    scores = {
        s: naive(*data, *s) for s in ((301, 0.1), (301, 9.0), (1, 0.1), (20, 0.1))
    }
    assert scores[301, 0.1] != scores[301, 9.0]
    assert scores[1, 0.1] != scores[20, 0.1]


def test_the_earlier_of_equal_neighbours_votes(small_blocks):
    """All the bank is one point: the k first vote, over the seams of blocks."""
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (200, 1))
    label = np.where(np.arange(200) < 40, 1, 0).astype(np.int32)
    query, mesh = bank[:3], make_mesh()
    for k, answer in ((1, 1), (40, 1), (79, 1), (81, 0), (100, 0)):
        truth = np.full(3, answer, np.int32)
        assert knn(bank, label, query, truth, 2, mesh, k=k)["accuracy"] == 1.0


def test_the_lower_class_of_equal_votes_wins():
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (12, 1))
    label = np.array([2, 1, 2, 1, *[0] * 8], np.int32)
    answer = knn(bank, label, bank[:1], np.array([1], np.int32), 3, make_mesh(), k=4)
    assert answer["accuracy"] == 1.0


def test_a_small_temperature_does_not_overflow():
    x, label = blobs(60, 0)
    result = knn(x, label, x, label, 7, make_mesh(), k=8, temperature=1e-3)
    assert result["accuracy"] == 1.0  # everybody's nearest neighbour is oneself


@pytest.mark.parametrize("settings", [{"k": 0}, {"temperature": 0.0}])
def test_invalid_settings_are_errors(settings):
    x, label = blobs(10, 0)
    with pytest.raises(ValueError, match="k >= 1 and temperature > 0"):
        knn(x, label, x, label, 7, make_mesh(), **settings)
