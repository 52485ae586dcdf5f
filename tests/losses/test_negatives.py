"""The softmax of worked examples, and of all pairs in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.contrastive import cosine_by
from simclr_jax.losses.negatives import shares, shares_in_batch, shares_in_queue


@pytest.mark.parametrize(
    ("cosines", "temperature", "share", "loss"),
    [
        ((0.9, 0.2, 0.1, 0.3), 0.2, 0.910, 0.094),
        ((0.3, 0.2, 0.1, 0.3), 0.2, 0.336, 1.09),
        ((0.8, 0.6, 0.1), 0.1, 0.880, 0.128),
        ((0.8, 0.6, 0.1), 0.5, 0.522, 0.651),
    ],
)
def test_the_probability_of_the_positive(cosines, temperature, share, loss):
    logits = jnp.asarray(cosines) / temperature
    result = shares(logits[:1], logits[None, 1:])["positive_share"]
    np.testing.assert_allclose(result, share, atol=0.0007)
    np.testing.assert_allclose(-np.log(result), loss, atol=0.0025)


@pytest.mark.parametrize(
    ("negatives", "effective", "hardest"),
    [
        (np.zeros(250), 250, 3 / 250),  # all alike; 1 % of 250 is 3, rounded up
        (np.r_[50.0, np.zeros(99)], 1, 1),  # one has all
        (np.r_[np.full(2, 50.0), np.zeros(98)], 2, 0.5),
        ((0.6 / 0.1, 0.1 / 0.1), 1.0411, 0.99331),  # the softer, the more count
        ((0.6 / 0.5, 0.1 / 0.5), 1.78998, 0.73106),
    ],
)
def test_the_shares_of_the_negatives(negatives, effective, hardest):
    result = shares(jnp.zeros(1), jnp.asarray(negatives, jnp.float32)[None])
    np.testing.assert_allclose(result["effective_negatives"], effective, rtol=1e-4)
    np.testing.assert_allclose(result["hardest_share"], hardest, rtol=1e-4)


def by_hand(positive, negatives):
    """Means over anchors of (positive share, effective number, hardest share)."""
    rows = []
    for p, row in zip(positive, negatives, strict=True):
        e = np.exp(row)
        w = np.sort(e / e.sum())[::-1]
        count = int(np.ceil(len(w) / 100))
        entropy = -(w * np.log(w)).sum()
        share = np.exp(p) / (np.exp(p) + e.sum())
        rows.append((share, np.exp(entropy), w[:count].sum()))
    return np.mean(rows, 0)


def unit(*shape):
    x = np.random.default_rng(0).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_in_a_batch_other_images_are_the_negatives():
    z, tau = unit(2, 9, 4), 0.3
    with jax.enable_x64(True):
        result = shares_in_batch(jnp.asarray(z[0]), jnp.asarray(z), cosine_by(tau)[0])
    s = np.einsum("nd,wmd->nwm", z[0], z) / tau
    negatives = [np.delete(s[i], i, axis=1).ravel() for i in range(9)]
    expected = by_hand([s[i, 1, i] for i in range(9)], negatives)
    np.testing.assert_allclose([*result.values()], expected, rtol=1e-9)


def test_in_a_queue_its_keys_are_the_negatives():
    q, k, queue, tau = unit(5, 4), unit(5, 4)[::-1], unit(150, 4), 0.2
    with jax.enable_x64(True):
        a, b, c = (jnp.asarray(x) for x in (q, k.copy(), queue))
        result = shares_in_queue(a, b, c, cosine_by(tau)[0])
    expected = by_hand((q * k).sum(-1) / tau, q @ queue.T / tau)
    np.testing.assert_allclose([*result.values()], expected, rtol=1e-9)
