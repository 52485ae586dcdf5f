"""Spread: 1 on the sphere, 0 when collapsed. Fixtures of the specification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.geometry import (
    alignment,
    deviation,
    effective_rank,
    lidar,
    normalize,
    spread,
    uniformity,
)


def test_normalize_survives_zero():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: normalize(x).sum())(x)).all()


def test_spread():
    z = jax.random.normal(jax.random.key(0), (2, 4096, 64))
    np.testing.assert_allclose(spread(z), 1, atol=0.01)
    np.testing.assert_allclose(spread(jnp.ones((2, 64, 8))), 0, atol=1e-6)
    flat = z.at[..., 32:].set(0)  # half of the dimensions are dead
    np.testing.assert_allclose(spread(flat), 0.5**0.5, atol=0.01)


@pytest.mark.parametrize(
    ("x", "rank"),
    [
        (np.eye(8), 8.0000069),
        (np.ones((16, 8)), 1.0000112),
        (np.diag([4.0, 3, 2, 1]), 3.5961165),
    ],
)
def test_effective_rank(x, rank):
    np.testing.assert_allclose(effective_rank(jnp.asarray(x, jnp.float32)), rank, 1e-6)


def wave(n, d, shift):
    """A fixture: sin(0.7 (i d + j) + shift)."""
    return np.sin(0.7 * (np.arange(n)[:, None] * d + np.arange(d)) + shift)


def test_alignment_and_uniformity_of_fixtures():
    with jax.enable_x64(True):
        x, y = (jnp.asarray(wave(4, 3, shift)) for shift in (0, 0.25))
        np.testing.assert_allclose(alignment(x, y), 0.0645013456, rtol=1e-8)
        np.testing.assert_allclose(uniformity(x), -1.7648003857, rtol=1e-9)
        np.testing.assert_allclose(uniformity(y), -1.7741265235, rtol=1e-9)


def test_alignment_and_uniformity_in_closed_form():
    square = jnp.asarray([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    np.testing.assert_allclose(uniformity(square), -4.3963489672, rtol=1e-6)
    np.testing.assert_allclose(uniformity(square[::2]), -8, rtol=1e-6)
    np.testing.assert_allclose(uniformity(jnp.ones((5, 3))), 0, atol=1e-5)
    np.testing.assert_allclose(alignment(square, -3 * square), 4, rtol=1e-6)
    np.testing.assert_allclose(alignment(square, square[::-1]), 2, rtol=1e-6)


@pytest.mark.parametrize(("d", "value"), [(2, -1.57503), (16, -3.51304)])
def test_uniformity_of_the_uniform_sphere(d, value):
    x = jax.random.normal(jax.random.key(1), (2048, d))
    np.testing.assert_allclose(uniformity(x), value, atol=0.01)


def test_deviation_is_spread_by_coordinate():
    z = jax.random.normal(jax.random.key(0), (2, 512, 8)).at[..., 3].set(0)
    values = deviation(z)
    assert values[3] == 0
    np.testing.assert_allclose(values.mean(), spread(z), rtol=1e-6)


def lidar_by_hand(z, delta=1e-4, eps=1e-7):
    views, n, d = z.shape
    means = z.mean(0)
    between, within = np.zeros((d, d)), delta * np.eye(d)
    for i in range(n):
        a = means[i] - means.mean(0)
        between += np.outer(a, a) / (n - 1)
        for v in range(views):
            b = z[v, i] - means[i]
            within += np.outer(b, b) / (n * (views - 1))
    values = np.linalg.eigvals(np.linalg.solve(within, between)).real
    p = values / values.sum() + eps
    return np.exp(-(p * np.log(p)).sum())


def test_lidar():
    z = np.random.default_rng(0).normal(size=(3, 20, 4)) * [1.0, 0.1, 2, 3]
    with jax.enable_x64(True):
        np.testing.assert_allclose(lidar(jnp.asarray(z)), lidar_by_hand(z), rtol=1e-9)


@pytest.mark.parametrize(("means", "rank"), [(np.eye(4), 4), (np.eye(4)[:1], 1)])
def test_lidar_counts_the_directions_that_tell_images_apart(means, rank):
    """Of means on so many axes, with the same scatter of the views everywhere."""
    means = np.repeat(np.concatenate([means, -means]), 4, axis=0)
    noise = 0.1 * np.tile(np.eye(4), (len(means) // 4, 1))
    z = jnp.asarray([means + noise, means - noise], jnp.float32)
    np.testing.assert_allclose(lidar(z), rank, rtol=1e-4)
