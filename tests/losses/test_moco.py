"""InfoNCE against a queue, the queue, MoCo v3's term: the released codes' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.losses.contrastive import ctr, enqueue, info_nce


def wave(n, d, s):
    """A(n, d, s)[i, j] = sin(0.7 (i d + j) + s), float64."""
    return np.sin(0.7 * np.arange(n * d).reshape(n, d) + s)


def unit(x, axis=1):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


Q, K = wave(2, 4, 0), wave(2, 4, 0.3)
QUEUE = unit(wave(4, 6, 1.0), axis=0).T  # [6, 4]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(0.07, 5.0998748e-05), (0.2, 0.0670062912), (1.0, 1.2112607416)],
)
def test_info_nce(temperature, expected):
    with jax.enable_x64(True):
        q, k, queue = map(jnp.asarray, (Q, K, QUEUE))
        loss, metrics = info_nce(q, k, queue, temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-7)
    assert float(metrics["contrast_accuracy"]) == 1
    q, k, queue = (jnp.asarray(x, jnp.float32) for x in (Q, K, QUEUE))
    loss, _ = info_nce(q, k, queue, temperature)
    np.testing.assert_allclose(loss, expected, atol=5e-5)


def test_info_nce_of_a_loop_and_its_gradient():
    """A double loop in float64; differences for the gradient of the queries."""
    q, k, queue = wave(3, 4, 0.1), wave(3, 4, 2.0), QUEUE

    def loop(q):
        each = []
        for i in range(3):
            a = unit(q)[i]
            right = np.exp(a @ unit(k)[i] / 0.2)
            each.append(-np.log(right / (right + sum(np.exp(queue @ a / 0.2)))))
        return np.mean(each)

    with jax.enable_x64(True):
        value = jax.value_and_grad(lambda q: info_nce(q, k, queue, 0.2)[0])
        loss, grad = value(jnp.asarray(q))
    np.testing.assert_allclose(loss, loop(q), rtol=1e-12)
    step = 1e-6 * np.eye(12).reshape(12, 3, 4)
    slopes = [(loop(q + e) - loop(q - e)) / 2e-6 for e in step]
    np.testing.assert_allclose(np.ravel(grad), slopes, atol=1e-8)


@pytest.mark.parametrize(
    ("rows", "oldest", "batch", "after"), [(6, 4, 2, 0), (6, 5, 2, 1), (5, 0, 5, 0)]
)
def test_newest_in_oldest_out(rows, oldest, batch, after):
    queue, k = jnp.zeros((rows, 3)), jnp.asarray(wave(batch, 3, 0.2), jnp.float32)
    new, pointer = enqueue(queue, jnp.int32(oldest), k)
    assert int(pointer) == after
    for i in range(batch):
        np.testing.assert_allclose(new[(oldest + i) % rows], unit(k)[i], atol=1e-6)
    assert (np.abs(new).sum(1) > 0).sum() == batch


def test_a_queue_that_no_batch_divides_holds_the_last_keys():
    queue, oldest = jnp.zeros((7, 2)), jnp.int32(0)
    for i in range(5):  # fifteen keys, three at a time
        angle = jnp.arange(3 * i, 3 * i + 3) / 10
        k = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
        queue, oldest = enqueue(queue, oldest, k)
    held = np.arctan2(queue[:, 1], queue[:, 0]) * 10
    np.testing.assert_allclose(np.sort(held), np.arange(8, 15), atol=1e-4)
    np.testing.assert_allclose(held[int(oldest)], 8, atol=1e-4)


def test_a_queue_smaller_than_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"queue of 4 keys.*batch of 5"):
        enqueue(jnp.zeros((4, 2)), jnp.int32(0), jnp.ones((5, 2)))


def test_the_queue_on_a_mesh():
    k, queue = jnp.asarray(wave(8, 3, 0.2), jnp.float32), jnp.ones((11, 3))
    alone = enqueue(queue, jnp.int32(9), k)
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        placed = jax.device_put(k, sharding.by_batch(mesh))
        together = jax.jit(enqueue)(queue, jnp.int32(9), placed)
    np.testing.assert_allclose(together[0], alone[0], atol=1e-6)
    assert int(together[1]) == int(alone[1]) == 6


@pytest.mark.parametrize(
    ("temperature", "first", "second"),
    [(0.2, 0.1422088240, 0.1415488379), (1.0, 1.4924414868, 1.4611258302)],
)
def test_ctr(temperature, first, second):
    q1, k2, q2, k1 = (wave(4, 3, s) for s in (0, 0.25, 1.0, 1.3))
    with jax.enable_x64(True):
        both = ctr(q1, k2, temperature), ctr(q2, k1, temperature)
    np.testing.assert_allclose(both, (first, second), rtol=1e-8)


def test_ctr_on_a_mesh_and_its_gradient():
    """Every device's queries meet all keys: value and gradient as on one device."""
    q, k = (jnp.asarray(wave(16, 5, s), jnp.float32) for s in (0, 0.6))
    value = jax.value_and_grad(lambda q, k: ctr(q, k, 0.2), argnums=(0, 1))
    alone = value(q, k)
    for devices in (2, 4, 8):
        mesh = sharding.make_mesh(jax.devices()[:devices])
        with jax.set_mesh(mesh):
            placed = jax.device_put((q, k), sharding.by_batch(mesh))
            together = jax.jit(value)(*placed)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), together, alone
        )


def test_ctr_s_limits():
    """2 tau log N where all are alike; 2 tau log(1 + (N - 1) exp(-1/tau)) at best."""
    n, tau = 256, 0.2
    alike = jnp.ones((n, 4))
    np.testing.assert_allclose(2 * ctr(alike, alike, tau), 4.436, atol=1e-3)
    ideal = jnp.eye(n)
    np.testing.assert_allclose(2 * ctr(ideal, ideal, tau), 0.800, atol=1e-3)
