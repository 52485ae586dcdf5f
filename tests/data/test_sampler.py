"""The order: each epoch a permutation, from the step alone, for any processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_jax.data.sampler import Sampler, permute

ORDERS = [
    Sampler(100, 10, seed=0),
    Sampler(103, 8, seed=1),
    Sampler(64, 64, seed=2),
    Sampler(1000, 64, seed=0, block=16),
    Sampler(999, 96, seed=3, block=7, window=3),
    Sampler(130, 64, seed=0, block=100, window=1),
    Sampler(80, 16, seed=0, block=200),
    Sampler(777, 45, seed=5, block=8, window=4),
]
IMAGENET = 1_281_167


def epoch_of(order, epoch):
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order.indices(step)[0] for step in steps])


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 3000), seed=st.integers(-(2**63), 2**64 - 1))
def test_permute_is_a_bijection(n, seed):
    np.testing.assert_array_equal(np.sort(permute(np.arange(n), n, seed)), range(n))


def test_permute_is_a_bijection_on_imagenet():
    seen = np.bincount(permute(np.arange(IMAGENET), IMAGENET, 0, 7), minlength=IMAGENET)
    assert (seen == 1).all()


def test_permute_broadcasts_sizes_and_keys():
    i, n, key = (
        np.array([0, 3, 2, 0]),
        np.array([5, 5, 1000, 1]),
        np.array([1, 1, 2, 3]),
    )
    expected = [permute(*one, 9) for one in zip(i, n, key, strict=True)]
    np.testing.assert_array_equal(permute(i, n, key, 9), expected)


def test_different_keys_give_different_permutations():
    i = np.arange(1000)
    keys = [(0,), (1,), (-1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**63,)]
    made = [permute(i, 1000, *key) for key in keys]
    for a in range(len(keys)):
        for b in range(a):
            # two random permutations of any size share one fixed point on average
            assert np.sum(made[a] == made[b]) < 10, (keys[a], keys[b])


@pytest.mark.parametrize("n", [3, 4, 5, 17, 50])
def test_every_position_is_equally_likely(n):
    """Chi-square of (position, value) over many keys, with n (n - 1) freedoms or so."""
    trials = 400 * n
    i = np.tile(np.arange(n), trials)
    values = permute(i, n, 11, np.repeat(np.arange(trials), n))
    table = np.histogram2d(i, values, bins=n, range=[[0, n], [0, n]])[0]
    freedom = (n - 1) ** 2
    chi = np.sum((table - 400) ** 2 / 400)
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_are_separated():
    """In a random permutation |p(i) - i| and |p(i+1) - p(i)| are n/3 on average, and
    neighbouring values are not correlated."""
    n = 50_000
    p = permute(np.arange(n), n, 0, 0)
    assert np.mean(np.abs(p - np.arange(n))) == pytest.approx(n / 3, rel=0.02)
    assert np.mean(np.abs(np.diff(p))) == pytest.approx(n / 3, rel=0.02)
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_no_example_twice_in_an_epoch(order):
    for epoch in range(3):
        seen = epoch_of(order, epoch)
        assert len(seen) == order.n // order.batch_size * order.batch_size
        assert len(np.unique(seen)) == len(seen)
        assert seen.min() >= 0
        assert seen.max() < order.n
        assert seen.dtype == np.int64


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_all_examples_appear_in_some_epoch(order):
    seen = set()
    for epoch in range(40):
        seen.update(epoch_of(order, epoch).tolist())
    assert seen == set(range(order.n))


@pytest.mark.parametrize("block", [1, 16])
def test_epochs_and_seeds_differ(block):
    first = epoch_of(Sampler(2000, 100, seed=0, block=block), 0)
    second = epoch_of(Sampler(2000, 100, seed=0, block=block), 1)
    other = epoch_of(Sampler(2000, 100, seed=1, block=block), 0)
    for changed in (second, other):
        assert np.mean(first == changed) < 0.02


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_one_global_batch(block, count):
    order = Sampler(500, 32, seed=4, block=block)
    for step in (0, 7, 14, 15, 40):
        parts = [order.indices(step, p, count)[0] for p in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), order.indices(step)[0])


def test_indices_depend_on_the_step_only():
    asked = np.random.default_rng(0).permutation(60)
    order = Sampler(200, 10, seed=3, block=4)
    forwards = [order.indices(step) for step in range(60)]
    for step in asked:
        indices, epoch = Sampler(200, 10, seed=3, block=4).indices(step)
        np.testing.assert_array_equal(indices, forwards[step][0])
        assert epoch == forwards[step][1] == step // 20


def test_the_cost_is_independent_of_the_step():
    indices, epoch = Sampler(IMAGENET, 4096, seed=0).indices(10**9)
    assert epoch == 10**9 // (IMAGENET // 4096)
    assert len(np.unique(indices)) == 4096


@pytest.mark.parametrize("count", [1, 4])
def test_blocks_are_read_evenly_and_about_once(count):
    """A process that caches two windows' blocks reads few new ones at any step."""
    order = Sampler(40_000, 256, seed=0, block=32)
    for process in range(count):
        kept, asked = [], []
        for step in range(order.steps_per_epoch):
            blocks = set((order.indices(step, process, count)[0] // 32).tolist())
            asked.append(len(blocks - set(kept)))
            kept = [b for b in kept if b not in blocks] + sorted(blocks)
            kept = kept[-256 // count :]  # the latest
        fair = 256 / 32 / count
        assert max(asked[1:]) <= 4 * fair
        assert sum(asked) <= 1.25 * order.steps_per_epoch * fair


def test_blocks_mix_over_the_batch():
    """A batch draws from many places of the set, not from a few blocks."""
    order = Sampler(40_000, 256, seed=0, block=32)
    for step in (0, 50, 100):
        blocks = np.unique(order.indices(step)[0] // 32)
        assert len(blocks) >= 64


def test_a_batch_larger_than_the_set():
    with pytest.raises(ValueError, match=r"batch_size=512 is larger .*300 examples"):
        Sampler(300, 512, seed=0)


def test_processes_that_do_not_divide():
    with pytest.raises(ValueError, match="does not divide among 3 processes"):
        Sampler(300, 32, seed=0).indices(0, 0, 3)


@pytest.mark.parametrize("key", ["batch_size", "block", "window"])
def test_sizes_are_positive(key):
    sizes = {"batch_size": 4, "block": 1, "window": 1} | {key: 0}
    with pytest.raises(ValueError, match=f"{key}=0"):
        Sampler(300, seed=0, **sizes)
