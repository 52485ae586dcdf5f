"""The Cauchy loss against a double loop, published values, and far from the origin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.neighbours import cauchy, squared_distances
from simclr_jax.sharding import DATA, make_mesh
from tests.tools import temporary_bytes


def by_hand(z):
    """Loss and gradient in float64, one pair of points at a time."""
    z = np.asarray(z, np.float64)
    n, points = z.shape[1], np.concatenate(z)
    loss, grad = 0.0, np.zeros_like(points)
    for i, a in enumerate(points):
        twin, others = (i + n) % (2 * n), [j for j in range(2 * n) if j != i]
        s = {j: 1 / (1 + np.sum((a - points[j]) ** 2)) for j in others}
        whole = sum(s.values())
        loss += np.log(whole) - np.log(s[twin])
        for j in others:
            share = s[j] / whole - (j == twin)  # d loss / d log s
            pull = share * -s[j] * 2 * (a - points[j])
            grad[i] += pull
            grad[j] -= pull
    return loss / (2 * n), grad.reshape(z.shape) / (2 * n)


def embeddings(n=8, d=2, scale=1.0, seed=0):
    """Pairs about a unit apart, around points that are `scale` apart."""
    draw = np.random.default_rng(seed)
    place = scale * draw.normal(size=(1, n, d))
    return jnp.asarray(place + draw.normal(size=(2, n, d)), jnp.float32)


def fixture(n, d, s):
    return np.sin(0.7 * np.arange(n * d).reshape(n, d) + s)


def test_official_values():
    """The paper's branch at its default temperature of 1, and its two parts."""
    z = jnp.asarray([2 * fixture(3, 2, 0), 2 * fixture(3, 2, 0.35)], jnp.float32)
    loss, metrics = cauchy(z)
    np.testing.assert_allclose(loss, 0.7224722452, rtol=1e-6)
    np.testing.assert_allclose(metrics["attraction"], 0.4342288077, rtol=1e-6)
    np.testing.assert_allclose(metrics["repulsion"], 0.2882434726, rtol=2e-6)


def test_closed_forms():
    """All points alike: each other one has a share of 1 / (2N - 1). One pair: all."""
    np.testing.assert_allclose(cauchy(jnp.ones((2, 8, 3)))[0], np.log(15), rtol=1e-6)
    np.testing.assert_allclose(cauchy(embeddings(1))[0], 0, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(1, 2), (5, 3), (8, 128)])
def test_agrees_with_a_double_loop(n, d):
    z = embeddings(n, d)
    (loss, _), grad = jax.value_and_grad(cauchy, has_aux=True)(z)
    expected, slope = by_hand(z)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-7)


def islands(d, where):
    """Two crowds, each a few units wide, on both sides of the origin."""
    side = jnp.where(jnp.arange(8) % 2, where, -where)
    return embeddings(8, d) + side[None, :, None]


@pytest.mark.parametrize("d", [2, 128])
@pytest.mark.parametrize("where", [500.0, 5000.0])
def test_is_exact_far_from_the_origin(d, where):
    """Coordinates of the size of the published maps, and of ten times it."""
    z = islands(d, where)
    (loss, _), grad = jax.value_and_grad(cauchy, has_aux=True)(z)
    expected, slope = by_hand(z)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-6 * np.abs(slope).max())


def test_distances_by_the_gram_matrix_would_fail_that():
    def gram(a, b):
        norms = jnp.sum(a**2, -1)[:, :, None, None] + jnp.sum(b**2, -1)
        return norms - 2 * jnp.einsum("vnd,wmd->vnwm", a, b, precision="highest")

    z = islands(2, 500.0)
    off = jnp.abs(gram(z, z) - squared_distances(z, z)).max()
    assert off > 0.02


def test_accuracy_counts_wrong_twins():
    z = jnp.asarray(np.arange(12.0).reshape(1, 6, 2).repeat(2, 0))
    swapped = z.at[1, :3].set(z[1, jnp.array([1, 2, 0])])
    assert cauchy(z)[1]["contrast_accuracy"] == 1
    assert cauchy(swapped)[1]["contrast_accuracy"] == 0.5


def test_moving_turning_and_swapping_change_nothing():
    z = embeddings()
    turn = jnp.asarray([[0.6, -0.8], [0.8, 0.6]])
    for same in (z + 3, z @ turn, z[::-1], z[:, ::-1]):
        np.testing.assert_allclose(cauchy(same)[0], cauchy(z)[0], rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_any_mesh_gives_the_global_loss(devices):
    z = embeddings(16, 2, 10)
    mesh = make_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        split = jax.device_put(z, NamedSharding(mesh, P(None, DATA)))
        (loss, _), grad = jax.jit(jax.value_and_grad(cauchy, has_aux=True))(split)
    expected, slope = by_hand(z)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-7)


def test_no_cube_of_differences_is_kept():
    """Memory is that of [2N, 2N], whatever D."""
    z = jax.ShapeDtypeStruct((2, 64, 128), jnp.float32)
    grad = jax.jit(jax.value_and_grad(cauchy, has_aux=True))
    kept = temporary_bytes(grad.lower(z).compile())
    assert kept < 10 * 128 * 128 * 4 + 10 * 2 * 64 * 128 * 4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_embeddings_give_a_float32_loss(dtype):
    z = embeddings(scale=50).astype(dtype)
    loss, _ = cauchy(z)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, by_hand(z.astype(jnp.float32))[0], rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 2), (3, 16, 2), (2, 4, 4, 2)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"needs z of shape \[2, N, D\]"):
        cauchy(jnp.ones(shape))


def test_no_silent_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.grad(lambda z: cauchy(z)[0])(embeddings())
