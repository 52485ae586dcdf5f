"""Spread: 1 on the sphere, 0 when collapsed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.geometry import effective_rank, normalize, spread


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
