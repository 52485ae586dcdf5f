"""Jaccard index of attention and objects, against loops over pixels."""

from typing import Any

import numpy as np
import pytest

from simclr_jax.evaluate import attention as module
from simclr_jax.evaluate.attention import attention, bootstrap, jaccard, top_mass

SIDE, PATCH, HEADS = 12, 3, 3
VOID = 255


def kept_by_hand(weights, mass):
    """[R, K] -> bool [R, K], by adding from the smallest weight up."""
    cells = sorted(np.ndindex(weights.shape), key=lambda cell: weights[cell])
    total, result = 0.0, np.zeros(weights.shape, bool)
    for cell in cells:
        total += weights[cell] / weights.sum()
        result[cell] = total > 1 - mass
    return result


def index_by_hand(weights, mask, mass):
    """Of a picture: mean over its objects of the best head; None without one."""
    scores = []
    for label in sorted(set(mask.ravel().tolist()) - {0, VOID}):
        best = 0.0
        for head in weights:
            kept, both, either = kept_by_hand(head, mass), 0, 0
            for r, k in np.ndindex(mask.shape):
                if mask[r, k] == VOID:
                    continue
                seen, inside = kept[r // PATCH, k // PATCH], mask[r, k] == label
                both += seen and inside
                either += seen or inside
            best = max(best, both / either)
        scores.append(best)
    return np.mean(scores) if scores else None


def drawn(count, seed=0):
    """Attention [count, HEADS, 4, 4] and masks [count, SIDE, SIDE] of some labels."""
    draw = np.random.default_rng(seed)
    weights = draw.exponential(size=(count, HEADS, SIDE // PATCH, SIDE // PATCH))
    masks = np.zeros((count, SIDE, SIDE), np.int32)
    for mask in masks:
        for label in draw.choice([1, 2, 7, VOID], 3, replace=False):
            r, k = draw.integers(0, SIDE - 4, 2)
            mask[r : r + 4, k : k + draw.integers(2, 8)] = label
    return weights.astype(np.float32), masks


class Pairs:
    """The pictures carry their number in the first pixel."""

    name = "pairs"

    def __init__(self, masks):
        self.masks = masks

    def __len__(self):
        return len(self.masks)


@pytest.fixture
def evaluate(monkeypatch):
    """attention() of arrays, two pictures at a time."""

    def batches(data, *, size, batch_size):
        assert size == SIDE
        for first in range(0, len(data), batch_size):
            masks = data.masks[first : first + batch_size]
            yield first + np.arange(len(masks)), masks

    monkeypatch.setattr(module, "masked_batches", batches)

    def run(weights, masks, **settings):
        settings: Any = {"size": SIDE + 2} | settings  # rounded down to patches
        data: Any = Pairs(masks)
        return attention(lambda rows: weights[rows], data, 99, PATCH, 2, **settings)

    return run


@pytest.mark.parametrize("mass", [0.6, 0.8])
def test_the_index_is_that_of_a_loop(evaluate, mass):
    weights, masks = drawn(9)
    masks[4] = np.where(masks[4] == VOID, VOID, 0)  # no object
    expected = [index_by_hand(*pair, mass) for pair in zip(weights, masks, strict=True)]
    assert [i for i, x in enumerate(expected) if x is None] == [4]
    scores = [x for x in expected if x is not None]
    result = evaluate(weights, masks, mass=mass)
    assert result["accuracy"] == pytest.approx(np.mean(scores), abs=1e-9)
    assert (result["count"], result["left_out"], result["size"]) == (8, 1, SIDE)
    objects = sum(len(set(m.ravel().tolist()) - {0, VOID}) for m in masks)
    assert result["objects"] == objects
    alone = [
        np.mean(
            [
                index_by_hand(w[h : h + 1], m, mass) or 0
                for w, m in zip(
                    np.delete(weights, 4, 0), np.delete(masks, 4, 0), strict=True
                )
            ]
        )
        for h in range(HEADS)
    ]
    np.testing.assert_allclose(result["heads"], alone, atol=1e-9)
    assert max(alone) < result["accuracy"]  # the best head differs
    low, high = result["interval"]
    assert low < result["accuracy"] < high


def test_void_pixels_count_neither_as_object_nor_as_attention():
    mask = np.array([[1, 1, 255, 0]])
    kept = np.array([[[True, False, True, False]]])
    assert jaccard(kept, mask, 0, 255) == [[0.5]]  # 1 of 2; with void it is 1 of 3
    kept = np.array([[[True, False, True, True]]])
    assert jaccard(kept, mask, 0, 255) == [[1 / 3]]


def test_other_labels_of_background_and_void():
    """As in Oxford's pets: 1 pet, 2 background, 3 border."""
    mask = np.array([[1, 2, 3, 2]])
    kept = np.array([[[True, True, True, False]]])
    assert jaccard(kept, mask, 2, 3) == [[0.5]]


def test_the_largest_weights_with_the_mass_are_kept():
    weights = np.array([[[0.1, 0.4], [0.2, 0.3]]])
    # cumulated from the smallest: 0.1, 0.3, 0.6, 1.0
    kept = {m: top_mass(weights, m)[0].ravel().tolist() for m in (0.35, 0.6, 0.75, 1)}
    assert kept[0.35] == [False, True, False, False]
    assert kept[0.6] == [False, True, False, True]
    assert kept[0.75] == [False, True, True, True]
    assert kept[1] == [True] * 4
    np.testing.assert_array_equal(top_mass(7 * weights, 0.6), top_mass(weights, 0.6))


def test_the_bootstrap_agrees_with_the_standard_error():
    values = np.random.default_rng(1).normal(0.4, 0.1, 400)
    low, high = bootstrap(values)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=1e-3)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


@pytest.mark.parametrize("settings", [{"mass": 0.0}, {"mass": 1.1}, {"size": 2}])
def test_settings_that_are_refused(evaluate, settings):
    with pytest.raises(ValueError, match="mass in"):
        evaluate(*drawn(2), **settings)


def test_pictures_without_any_object_are_refused(evaluate):
    weights, masks = drawn(2)
    with pytest.raises(ValueError, match="has no objects"):
        evaluate(weights, masks * 0)
