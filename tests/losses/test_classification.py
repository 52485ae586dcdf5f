"""Cross-entropy against closed forms and a float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.classification import cross_entropy


def reference(logits, label):
    """One row at a time in float64."""
    rows = zip(logits.astype(np.float64), label, strict=True)
    return np.mean([np.log(np.sum(np.exp(x))) - x[c] for x, c in rows])


def test_equals_the_reference_and_its_gradient():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 5)).astype(np.float32) * 3
    label = rng.integers(0, 5, 7).astype(np.int32)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        loss, grad = jax.value_and_grad(cross_entropy)(jnp.asarray(logits), label)
    np.testing.assert_allclose(loss, reference(logits, label), rtol=1e-6)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(grad, (softmax - np.eye(5)[label]) / 7, atol=1e-6)


def test_equal_logits_cost_the_log_of_the_classes():
    loss = cross_entropy(jnp.zeros((2, 3, 1000)), jnp.zeros((2, 3), jnp.int32))
    np.testing.assert_allclose(loss, np.log(1000), rtol=1e-6)


def test_large_logits_do_not_overflow():
    loss = cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    np.testing.assert_allclose(loss, 2e4)


def test_bfloat16_logits_are_summed_in_float32():
    logits = jnp.zeros((1, 1000), jnp.bfloat16)
    loss = cross_entropy(logits, jnp.array([3]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(1000), rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_makes_the_loss_nan(label):
    assert np.isnan(cross_entropy(jnp.zeros((2, 3)), jnp.array([0, label])))


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="one label per row"):
        cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32))


def test_smoothing_mixes_the_label_with_all_classes():
    """Against the definition, sum of target times -log p, in float64."""
    rng = np.random.default_rng(2)
    logits, label = rng.normal(0, 3, (5, 7)), rng.integers(0, 7, 5)
    target = 0.9 * np.eye(7)[label] + 0.1 / 7
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    classes = jnp.asarray(label)
    smoothed = cross_entropy(jnp.float32(logits), classes, 0.1)
    np.testing.assert_allclose(smoothed, -(target * log_p).sum(-1).mean(), rtol=1e-5)
    assert np.isnan(cross_entropy(jnp.float32(logits), classes + 7, 0.1))
