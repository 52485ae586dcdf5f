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
)


def waves(rows, columns, shift):
    """sin(0.7 (i columns + j) + shift), as the specification's fixtures have it."""
    i, j = np.mgrid[:rows, :columns]
    return jnp.asarray(np.sin(0.7 * (i * columns + j) + shift))


def released(student, teacher, centre, temperature):
    """The loss of two teacher and V student views, pair by pair."""
    p = sharpen(teacher, centre, temperature)
    pairs = [(t, s) for t in range(2) for s in range(len(student)) if t != s]
    return sum(distil(student[s], p[t], 0.1) for t, s in pairs) / len(pairs), p


@pytest.mark.parametrize(
    ("x64", "rtol"), [(True, 1e-9), (False, 5e-6)], ids=["float64", "float32"]
)
def test_the_released_loss(x64, rtol):
    with jax.enable_x64(x64):
        student = waves(8, 5, 0).reshape(4, 2, 5)
        teacher = waves(4, 5, 0.5).reshape(2, 2, 5)
        centre = 0.05 * waves(1, 5, 0.2)[0]

        loss, p = released(student, teacher, centre, 0.04)
        np.testing.assert_allclose(loss, 2.4112440139, rtol=rtol)
        h = jnp.mean(entropy(p))
        np.testing.assert_allclose(h, 0.3334611597, rtol=rtol)
        np.testing.assert_allclose(loss - h, 2.0777828543, rtol=rtol)

        again = lambda student: released(student, teacher, centre, 0.07)[0]  # noqa: E731
        loss, grad = jax.value_and_grad(again)(student)
        np.testing.assert_allclose(loss, 2.4064767648, rtol=rtol)
        expected = [-0.49425873, -0.31782959, 0.62647881, 0.18467116, 0.00093835]
        np.testing.assert_allclose(grad[0, 0], expected, atol=6e-9 if x64 else 1e-6)

        expected = [0.00045594, 0.03802128, 0.05770462, 0.05024857, 0.01915984]
        after = recentre(centre, teacher, 0.9)
        np.testing.assert_allclose(after, expected, atol=6e-9 if x64 else 1e-7)


def test_a_sum_of_targets_costs_the_sum():
    logits, p = waves(3, 5, 0), jax.nn.softmax(9 * waves(6, 5, 1).reshape(2, 3, 5))
    both = distil(logits, p[0] + p[1], 0.1)
    apart = distil(logits, p[0], 0.1) + distil(logits, p[1], 0.1)
    np.testing.assert_allclose(both, apart, rtol=1e-6)


def test_the_student_that_knows_pays_the_entropy():
    """Cross-entropy is entropy where both distributions are the same."""
    logits = waves(4, 6, 0)
    p = sharpen(logits, jnp.zeros(6), 0.2)
    np.testing.assert_allclose(distil(logits, p, 0.2), jnp.mean(entropy(p)), rtol=1e-6)


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
    w = np.asarray(v) / np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(prototype_logits(z, v), z @ w.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prototype_logits(z, 7 * v, g), z @ w.T * g, rtol=1e-5)
