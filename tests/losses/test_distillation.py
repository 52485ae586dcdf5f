"""DINO's loss against the released code's numbers and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.distillation import (
    distil,
    entropy,
    prototype_logits,
    recentre,
    sharpen,
    weight_normalised,
)


def waves(rows, columns, shift):
    """sin(0.7 (i columns + j) + shift), as the specification's fixtures have it."""
    i, j = np.mgrid[:rows, :columns]
    return jnp.asarray(np.sin(0.7 * (i * columns + j) + shift))


def student_of(logits):
    """z and w whose logits are these."""
    return logits, jnp.eye(logits.shape[-1], dtype=logits.dtype)


@pytest.mark.parametrize(
    ("x64", "rtol"), [(True, 1e-9), (False, 5e-6)], ids=["float64", "float32"]
)
def test_the_released_loss(x64, rtol):
    with jax.enable_x64(x64):
        z, w = student_of(waves(8, 5, 0).reshape(4, 2, 5))
        teacher = waves(4, 5, 0.5).reshape(2, 2, 5)
        centre = 0.05 * waves(1, 5, 0.2)[0]

        p = sharpen(teacher, centre, 0.04)
        loss, h = distil(z, w, p, 0.1), jnp.mean(entropy(p))
        np.testing.assert_allclose(loss, 2.4112440139, rtol=rtol)
        np.testing.assert_allclose(h, 0.3334611597, rtol=rtol)
        np.testing.assert_allclose(loss - h, 2.0777828543, rtol=rtol)

        p = sharpen(teacher, centre, 0.07)
        loss, grad = jax.value_and_grad(distil)(z, w, p, 0.1)
        np.testing.assert_allclose(loss, 2.4064767648, rtol=rtol)
        expected = [-0.49425873, -0.31782959, 0.62647881, 0.18467116, 0.00093835]
        np.testing.assert_allclose(grad[0, 0], expected, atol=6e-9 if x64 else 1e-6)

        expected = [0.00045594, 0.03802128, 0.05770462, 0.05024857, 0.01915984]
        after = recentre(centre, teacher, 0.9)
        np.testing.assert_allclose(after, expected, atol=6e-9 if x64 else 1e-7)


@pytest.mark.parametrize("k", [7, 17, 48])
def test_parts_of_the_prototypes_make_no_difference(k):
    """Value and gradients are those of the pairs' plain cross-entropies."""

    def pairs(z, w, p):
        said = jax.nn.log_softmax(jnp.einsum("vnd,kd->vnk", z, w) / 0.1)
        cross = -jnp.einsum("tnk,vnk->tv", p, said) / z.shape[1]
        return sum(cross[t, v] for t in range(2) for v in range(4) if t != v) / 6

    with jax.enable_x64(True):
        z, w = waves(12, 3, 0).reshape(4, 3, 3), waves(k, 3, 1)
        p = sharpen(waves(6, k, 2).reshape(2, 3, k), jnp.zeros(k), 0.2)
        own, expected = (
            jax.value_and_grad(loss, (0, 1))(z, w, p)
            for loss in (lambda z, w, p: distil(z, w, p, 0.1), pairs)
        )
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_student_that_knows_pays_the_entropy():
    """Cross-entropy is entropy where both distributions are the same."""
    logits = jnp.stack([waves(4, 6, 0)] * 3)
    p = sharpen(logits[:2], jnp.zeros(6), 0.2)
    loss = distil(*student_of(logits), p, 0.2)
    np.testing.assert_allclose(loss, jnp.mean(entropy(p)), rtol=1e-6)


def test_what_all_images_share_is_centred_away():
    logits = waves(4, 6, 0)
    shared = 7 * waves(1, 6, 1)[0]
    np.testing.assert_allclose(
        sharpen(logits + shared, shared, 0.1),
        sharpen(logits, jnp.zeros(6), 0.1),
        atol=1e-5,
    )


@pytest.mark.parametrize("k", [1024, 4096, 65536])
def test_entropy_from_certain_to_even(k):
    certain = jax.nn.one_hot(jnp.array([3]), k)
    np.testing.assert_array_equal(entropy(certain), 0)
    expected = {1024: 6.93147, 4096: 8.31777, 65536: 11.09035}[k]
    np.testing.assert_allclose(entropy(jnp.full((1, k), 1 / k)), expected, rtol=1e-6)


def test_prototypes_count_by_direction_and_length():
    z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    v = jax.random.normal(jax.random.key(1), (5, 4))
    g = jnp.array([1.0, 2.0, 0.5, 1.0, 3.0])
    unit = np.asarray(v) / np.linalg.norm(v, axis=1, keepdims=True)
    logits = prototype_logits(z, weight_normalised(v))
    np.testing.assert_allclose(logits, z @ unit.T, rtol=1e-5, atol=1e-6)
    logits = prototype_logits(z, weight_normalised(7 * v, g))
    np.testing.assert_allclose(logits, z @ unit.T * g, rtol=1e-5, atol=1e-6)
