import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.transformer import INITIALIZERS, Block, affine


def test_kernel_gradients_in_bfloat16_are_rounded_once():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(8, 6, 4)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(4, 5)), jnp.float32)
    bias = jnp.asarray(random.normal(size=5), jnp.float32)

    def plain(x, kernel, bias):
        return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)

    def gradients(product, x):
        def loss(x, kernel, bias):
            return (product(x, kernel, bias).astype(jnp.float32) * scale).sum()

        return jax.grad(loss, (0, 1, 2))(x, kernel, bias)

    scale = jnp.asarray(random.normal(size=(8, 6, 5)), jnp.bfloat16)
    mine, exact = gradients(affine, x), gradients(plain, x.astype(jnp.float32))
    assert [g.dtype for g in mine] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(mine[1], exact[1], rtol=2**-8)
    np.testing.assert_array_equal(mine[1], mine[1].astype(x.dtype))  # what travels
    np.testing.assert_allclose(mine[2], exact[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mine[0].astype(np.float32), exact[0], atol=0.05)


def test_gradients_agree_with_a_plain_product():
    random = np.random.default_rng(0)
    x, kernel, bias = (random.normal(size=s) for s in ((2, 3, 4), (4, 5), (5,)))
    dy = random.normal(size=(2, 3, 5)).astype(np.float32)
    args = [leaf.astype(np.float32) for leaf in (x, kernel, bias)]
    y, pull = jax.vjp(affine, *args)
    np.testing.assert_allclose(y, x @ kernel + bias, atol=1e-5)
    dk = x.reshape(6, 4).T @ dy.reshape(6, 5)
    expected = dy @ kernel.T, dk, dy.sum((0, 1))
    for mine, other in zip(pull(dy), expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_what_stays_is_scaled_and_the_branches_drop_apart():
    block = Block(2, INITIALIZERS["dino"], drop=0.25)
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    init = jax.jit(block.init, static_argnums=2)
    params = init(jax.random.key(0), x, False)["params"]
    keys = iter(jax.random.split(jax.random.key(1), 99))
    params = jax.tree.map(
        lambda p: p + 0.4 * jax.random.normal(next(keys), p.shape), params
    )
    params["mlp"]["dense1"] = jax.tree.map(jnp.zeros_like, params["mlp"]["dense1"])
    apply = jax.jit(block.apply, static_argnums=2)
    kept = apply({"params": params}, x, False) - x  # attention, and a constant bias
    bias = params["mlp"]["dense2"]["bias"]
    many = np.broadcast_to(x, (4096, 5, 8))
    y = apply({"params": params}, many, True, rngs={"dropout": jax.random.key(5)}) - x
    expected = {
        (a, b): (a * (kept - bias) + b * bias) / 0.75 for a in (0, 1) for b in (0, 1)
    }
    share = {
        case: np.mean(np.abs(y - found).max((1, 2)) < 1e-4)
        for case, found in expected.items()
    }
    assert sum(share.values()) == 1  # nothing else happens
    assert share[1, 1] == pytest.approx(0.75**2, abs=0.03)
    assert share[0, 0] == pytest.approx(0.25**2, abs=0.015)
