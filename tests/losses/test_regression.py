"""BYOL's and SimSiam's losses against the specs' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.regression import cosine, regression, squared_error
from tests.losses.test_moco import wave


def test_byol_loss():
    q1, q2 = jnp.array([[1.0, 0], [3, 4]]), jnp.array([[0.0, 2], [1, 1]])
    t1, t2 = jnp.array([[0.0, 1], [4, 3]]), jnp.array([[1.0, 0], [-1, 0]])
    np.testing.assert_allclose(regression(q1, t2), (0 + 3.2) / 2, rtol=1e-6)
    loss = regression(q1, t2) + regression(q2, t1)
    np.testing.assert_allclose(loss, 1.61005051, rtol=1e-6)


@pytest.mark.parametrize(("z", "distance"), [((2, 0), 0), ((0, 5), 2), ((-1, 0), 4)])
def test_distances(z, distance):
    p = jnp.array([[1.0, 0.0]])
    np.testing.assert_allclose(regression(p, jnp.array([z], jnp.float32)), distance)


def test_simsiam_loss_and_gradient():
    p1, p2, z1, z2 = (wave(2, 3, s) for s in (0, 0.4, 0.8, 1.2))

    def loss(p1):
        return -(cosine(p1, z2) + cosine(p2, z1)) / 2

    with jax.enable_x64(True):
        value, grad = jax.value_and_grad(loss)(jnp.asarray(p1))
    np.testing.assert_allclose(value, -0.6095443285, rtol=1e-9)
    expected = [
        [-0.13890978, -0.06362045, 0.04159057],
        [0.0246647, 0.14852602, 0.20253323],
    ]
    np.testing.assert_allclose(grad, expected, atol=1e-8)


def test_half_precision_is_widened():
    p, z = (jnp.asarray(wave(4, 5, s), jnp.bfloat16) for s in (0, 1))
    assert cosine(p, z).dtype == jnp.float32


def test_squared_error_is_a_mean_over_all_elements():
    x, y = np.random.default_rng(0).uniform(0, 1, (2, 2, 3, 4, 4, 3))
    value = squared_error(jnp.float32(x), jnp.float32(y))
    np.testing.assert_allclose(value, ((x - y) ** 2).mean(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        squared_error(jnp.ones((2, 3)), jnp.ones(3))
