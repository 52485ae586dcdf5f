import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.models.norm import BatchNorm, group_count, pixels


def train(norm, x, variables=None):
    variables = variables or norm.init(jax.random.key(0), x, False)
    y, new = norm.apply(variables, x, True, mutable=["batch_stats"])
    return y, variables | new


def two_pass(x, groups=1):
    """Normalises in float64, mean first, then the mean squared distance from it."""
    x = np.asarray(x, np.float64)
    parts = []
    for part in np.split(x, groups):
        axes = tuple(range(x.ndim - 1))
        mean = part.mean(axes)
        parts.append((part - mean) / np.sqrt(((part - mean) ** 2).mean(axes) + 1e-5))
    return np.concatenate(parts)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def test_statistics_are_those_of_the_global_batch():
    x = jnp.array([[1.0], [3.0], [5.0], [9.0]])
    mesh = sharding.make_mesh(jax.devices()[:2])
    x = jax.device_put(x, sharding.by_batch(mesh))
    norm = BatchNorm(momentum=0.0)
    _, variables = jax.jit(lambda x: train(norm, x))(x)
    assert variables["batch_stats"]["mean"] == pytest.approx(4.5)
    assert variables["batch_stats"]["var"] == pytest.approx(8.75)


def test_running_statistics():
    x = jnp.array([[0.0], [4.0]])  # mean 2, variance 4
    variables, means, variances = None, [], []
    for _ in range(3):
        _, variables = train(BatchNorm(), x, variables)
        means.append(float(variables["batch_stats"]["mean"][0]))
        variances.append(float(variables["batch_stats"]["var"][0]))
    assert means == pytest.approx([0.2, 0.38, 0.542])
    assert variances == pytest.approx([1.3, 1.57, 1.813])


@pytest.mark.parametrize("groups", [1, 4])
def test_agrees_with_two_passes_in_float64(groups):
    x = random((16, 5, 3, 7))
    y, _ = train(BatchNorm(groups=groups), x)
    np.testing.assert_allclose(y, two_pass(x, groups), atol=1e-5)


def test_gradient_agrees_with_flax_in_two_passes():
    x, dy = random((8, 3, 3, 4)), random((8, 3, 3, 4), 1)
    theirs = nn.BatchNorm(False, use_fast_variance=False)
    variables = theirs.init(jax.random.key(0), x)

    def pull(f):
        return jax.vjp(f, x)[1](dy)[0]

    mine = pull(lambda x: train(BatchNorm(), x)[0])
    two = pull(lambda x: theirs.apply(variables, x, mutable=["batch_stats"])[0])
    np.testing.assert_allclose(mine, two, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(16, 5, 3, 7), (64, 7)])  # pictures; rows of a head
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 5e-5), ("bfloat16", 6e-3)]
)
def test_gradients_are_those_of_the_definition_in_float64(
    groups, dtype, tolerance, shape, relu
):
    x, dy = random(shape), random(shape, 1)
    x, dy = (jnp.asarray(a, dtype) for a in (x, dy))
    norm = BatchNorm(groups=groups, relu=relu, dtype=dtype)
    variables = norm.init(jax.random.key(0), x, False)
    params = {"scale": random(7, 2), "bias": random(7, 3)}

    def ours(x, params):
        return train(norm, x, {**variables, "params": params})[0]

    def definition(x, params):
        y = x.reshape(groups, -1, 7)
        centred = y - y.mean(1, keepdims=True)
        y = centred / jnp.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        y = y.reshape(x.shape) * params["scale"] + params["bias"]
        return jnp.maximum(y, 0) if relu else y

    mine = jax.vjp(ours, x, params)[1](dy)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, params, dy))
        exact = jax.vjp(definition, *wide[:2])[1](jnp.asarray(wide[2]))
        exact = jax.tree.map(np.asarray, exact)
    assert mine[0].dtype == dtype
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(exact), strict=True):
        error = np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)
        assert error < tolerance


def test_running_statistics_of_groups_are_their_means():
    x = random((8, 3))
    _, variables = train(BatchNorm(groups=2, momentum=0.0), x)
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], x.reshape(2, 4, 3).var(1).mean(0), 1e-5)


def test_constant_channels_do_not_overflow():
    y, variables = train(BatchNorm(momentum=0.0), jnp.full((6, 1), 1000.1))
    assert np.isfinite(y).all()
    assert variables["batch_stats"]["var"][0] >= 0


def test_evaluation_uses_running_statistics():
    x = random((4, 2))
    variables = {
        "params": {"scale": jnp.array([2.0, 1.0]), "bias": jnp.array([0.0, 5.0])},
        "batch_stats": {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([4.0, 9.0])},
    }
    y = np.asarray(BatchNorm().apply(variables, x, False))
    np.testing.assert_allclose(y, (x - [1, 2]) / [2, 3] * [2, 1] + [0, 5], rtol=1e-4)


def test_bfloat16_leaves_statistics_in_float32():
    x = jnp.asarray(random((64, 8)), jnp.bfloat16)
    y, variables = train(BatchNorm(dtype="bfloat16", momentum=0.0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], exact.mean(0), 1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], exact.var(0), 1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8, 16])
def test_groups_on_a_mesh_move_no_images(groups):
    x, norm = random((32, 4, 4, 3)), BatchNorm(groups=groups)
    mesh = sharding.make_mesh()
    placed = jax.device_put(x, sharding.by_batch(mesh))
    step = jax.jit(lambda x: train(norm, x)[0]).lower(placed).compile()
    text = str(step.as_text())
    moved = re.findall(r"all-gather|all-to-all|collective-permute", text)
    assert not moved
    assert ("all-reduce" in text) == (groups < 8)
    y = step(placed)
    assert y.sharding.is_equivalent_to(sharding.by_batch(mesh), x.ndim)
    np.testing.assert_allclose(y, two_pass(x, groups), atol=1e-5)


def test_groups_must_divide_the_batch():
    with pytest.raises(ValueError, match=r"3 groups.*8 rows"):
        train(BatchNorm(groups=3), random((8, 2)))


def test_groups_follow_the_batch():
    assert [group_count(32, rows) for rows in (32, 256, 1024)] == [1, 8, 32]
    assert group_count(32, 8) == 1  # fewer than a group
    assert group_count(0, 256) == 1  # no groups at all
    with pytest.raises(ValueError, match=r"groups of 32 rows .* has 48 "):
        group_count(32, 48)


def test_pixels_scale_bytes_only():
    x = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3) * 10
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    y = pixels(jnp.asarray(x), mean, std, "float32")
    np.testing.assert_allclose(y, (x / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    same = pixels(jnp.asarray(x / 255, jnp.float32), mean, std, "float32")
    np.testing.assert_allclose(y, same, rtol=1e-5, atol=1e-6)
    assert pixels(jnp.asarray(x), mean, std, "bfloat16").dtype == jnp.bfloat16


def test_pixels_refuse_other_types():
    with pytest.raises(ValueError, match="int32"):
        pixels(jnp.zeros((1, 2, 2, 3), jnp.int32), (0.0,) * 3, (1.0,) * 3, "float32")
    with pytest.raises(ValueError, match=r"N, H, W, 3"):
        pixels(jnp.zeros((1, 2, 2, 1)), (0.0,) * 3, (1.0,) * 3, "float32")
