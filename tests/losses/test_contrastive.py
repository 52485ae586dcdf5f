"""NT-Xent against Algorithm 1 written out, published closed forms and wrong losses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.sharding import DATA, make_mesh

A3 = [[1, 2], [3, -1], [-2, 1]]
B3 = [[2, 1], [1, -1], [-1, 3]]
A4 = [[1, 2, 0], [3, -1, 1], [-2, 1, 1], [0, 1, -3]]
B4 = [[2, 1, 0], [1, -1, 1], [-1, 3, 0], [1, 0, -2]]
OFFICIAL = 2  # the released code sums the two directions


def algorithm_1(z, temperature):
    """SimCLR's Algorithm 1 as it is printed, in float64, one pair at a time."""
    z = np.asarray(z, np.float64)
    count = z.shape[1]
    flat = z.transpose(1, 0, 2).reshape(2 * count, -1)  # 2k-1, 2k are a pair

    def s(i, j):
        norms = np.linalg.norm(flat[i]) * np.linalg.norm(flat[j])
        return flat[i] @ flat[j] / norms / temperature

    def ell(i, j):
        others = [np.exp(s(i, k)) for k in range(2 * count) if k != i]
        return -np.log(np.exp(s(i, j)) / np.sum(others))

    pairs = [(2 * k, 2 * k + 1) for k in range(count)]
    return sum(ell(i, j) + ell(j, i) for i, j in pairs) / (2 * count)


def embeddings(n=16, d=8, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), (2, n, d), dtype)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 3), (7, 5), (16, 8)])
def test_agrees_with_algorithm_1(n, d, temperature):
    z = embeddings(n, d)
    np.testing.assert_allclose(
        nt_xent(z, temperature)[0], algorithm_1(z, temperature), rtol=2e-5, atol=1e-6
    )


def test_agrees_with_algorithm_1_in_float64():
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 4)))
        loss, _ = nt_xent(z, 0.1)
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, algorithm_1(z, 0.1), rtol=1e-13)


@pytest.mark.parametrize(
    ("a", "b", "temperature", "official"),
    [
        (A3, B3, 0.1, 0.50528270),
        (A3, B3, 0.5, 1.36271250),
        (A4, B4, 0.5, 1.737143265801091),
    ],
)
def test_official_values(a, b, temperature, official):
    z = jnp.asarray([a, b], jnp.float32)
    loss, _ = nt_xent(z, temperature)
    np.testing.assert_allclose(OFFICIAL * loss, official, rtol=3e-6)


@pytest.mark.parametrize(
    ("temperature", "entropy"), [(0.1, 0.32947436), (0.5, 0.67918712)]
)
def test_official_metrics(temperature, entropy):
    _, metrics = nt_xent(jnp.asarray([A3, B3], jnp.float32), temperature)
    assert metrics["contrast_accuracy"] == 1
    np.testing.assert_allclose(metrics["contrast_entropy"], entropy, rtol=1e-5)


def test_accuracy_counts_wrong_twins():
    z = jnp.eye(4)[None].repeat(2, 0)
    swapped = z.at[1, :2].set(z[1, 1::-1])  # the twins of images 0 and 1 exchanged
    assert nt_xent(swapped, 0.1)[1]["contrast_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("temperature", "gradient"),
    [(0.1, (-1.19425023, 0.59712517)), (0.5, (-0.31648776, 0.15824387))],
)
def test_official_gradient(temperature, gradient):
    z = jnp.asarray([A3, B3], jnp.float32)
    grad = jax.grad(lambda z: OFFICIAL * nt_xent(z, temperature)[0])(z)
    np.testing.assert_allclose(grad[0, 0], gradient, rtol=1e-5)


def test_collapse_and_perfect_pairs():
    same = jnp.ones((2, 256, 8))
    np.testing.assert_allclose(OFFICIAL * nt_xent(same, 0.1)[0], 12.4727392, rtol=2e-6)
    for temperature, official in ((0.1, 1.8159147e-4), (1.0, 1.10288943)):
        pairs = jnp.eye(2)[None].repeat(2, 0)
        loss, _ = nt_xent(pairs, temperature)
        np.testing.assert_allclose(OFFICIAL * loss, official, rtol=2e-6, atol=3e-6)


def test_invariances():
    z = embeddings()
    loss, _ = nt_xent(z, 0.1)
    scale = jnp.exp(jax.random.normal(jax.random.key(1), (2, 16, 1)))
    order = jax.random.permutation(jax.random.key(2), 16)
    for same in (z * scale, z[:, order], z[::-1]):
        np.testing.assert_allclose(nt_xent(same, 0.1)[0], loss, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_embeddings_give_a_float32_loss(dtype):
    z = embeddings(dtype=dtype)
    loss, _ = nt_xent(z, 0.1)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, algorithm_1(z, 0.1), rtol=2e-5)


@pytest.mark.parametrize("shape", [(16, 8), (3, 16, 8), (2, 4, 4, 8)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"needs z of shape \[2, N, D\]"):
        nt_xent(jnp.ones(shape), 0.1)


# On a mesh: the same numbers, and mutants that these tests catch.


def value_and_gradient(loss, z, devices):
    mesh = make_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        z = jax.device_put(z, NamedSharding(mesh, P(None, DATA)))
        value, grad = jax.jit(jax.value_and_grad(loss))(z)
        return np.asarray(value), np.asarray(grad)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_any_mesh_gives_the_global_loss(devices):
    z = embeddings()
    value, grad = value_and_gradient(lambda z: nt_xent(z, 0.1)[0], z, devices)
    np.testing.assert_allclose(value, algorithm_1(z, 0.1), rtol=2e-5)
    np.testing.assert_allclose(
        grad, jax.grad(lambda z: nt_xent(z, 0.1)[0])(z), atol=2e-6
    )


def test_agrees_with_explicit_collectives():
    """A twin by shard_map: rank arithmetic, all_gather and pmean by hand."""
    mesh = make_mesh()

    def local(z):  # [2, n, D] of this device
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        everyone = jax.lax.all_gather(z, DATA, axis=1, tiled=True)
        mine = jax.lax.axis_index(DATA) * z.shape[1] + jnp.arange(z.shape[1])
        a, b = z
        loss = 0
        for own, other, (same, twins) in ((a, b, everyone), (b, a, everyone[::-1])):
            del other
            logits = jnp.concatenate([own @ twins.T, own @ same.T], 1) / 0.1
            self_column = twins.shape[0] + mine
            logits = logits.at[jnp.arange(len(mine)), self_column].set(-jnp.inf)
            right = jnp.take_along_axis(logits, mine[:, None], 1)[:, 0]
            loss += jnp.mean(jax.nn.logsumexp(logits, 1) - right) / 2
        return jax.lax.pmean(loss, DATA)

    twin = jax.shard_map(local, mesh=mesh, in_specs=P(None, DATA), out_specs=P())
    z = embeddings(32)
    with jax.default_matmul_precision("highest"):
        expected = value_and_gradient(twin, z, 8)
    actual = value_and_gradient(lambda z: nt_xent(z, 0.1)[0], z, 8)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-6)


Z4 = jnp.asarray([A4, B4], jnp.float32)


def check(loss):
    """The released code's value and gradient norm on 4 pairs, at temperature 0.5."""
    value, grad = jax.value_and_grad(lambda z: OFFICIAL * loss(z, 0.5))(Z4)
    np.testing.assert_allclose(value, 1.737143265801091, rtol=3e-6)
    np.testing.assert_allclose(jnp.linalg.norm(grad), 0.5794282962, rtol=1e-5)
    row = (-0.22835381, 0.11417690, -0.05493008)
    np.testing.assert_allclose(grad[0, 0], row, rtol=1e-4)


def written_out(z, t, *, label=0, diagonal=False, gathered=lambda z: z):
    """NT-Xent in another form, with what can go wrong as arguments."""
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    both = jnp.concatenate(z)
    sim = both @ gathered(both).T / t
    n = len(both)
    if not diagonal:
        sim = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, sim)
    twin = (jnp.arange(n) + n // 2 + label) % n
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(sim), twin[:, None], 1))


def no_gather(z, t):
    """The multi-GPU bug: each of two replicas sees only its own negatives."""
    return sum(nt_xent(part, t)[0] for part in jnp.split(z, 2, axis=1)) / 2


def first_replica(z, t):
    """A replica's own mean, with global negatives, in place of the mean of all."""
    unit = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    own, terms = jnp.arange(2), []
    for v in (0, 1):
        sims = [unit[v, :2] @ unit[v].T, unit[v, :2] @ unit[1 - v].T]
        sim = jnp.concatenate(sims, 1) / t
        right = sim[own, 4 + own]
        sim = sim.at[own, own].set(-jnp.inf)
        terms.append(jnp.mean(jax.nn.logsumexp(sim, 1) - right))
    return (terms[0] + terms[1]) / 2


def test_the_check_knows_the_right_loss():
    check(lambda z, t: nt_xent(z, t)[0])
    check(written_out)


@pytest.mark.parametrize(
    "mutant",
    [
        no_gather,
        first_replica,
        partial(written_out, label=1),
        partial(written_out, diagonal=True),
        partial(written_out, gathered=jax.lax.stop_gradient),
    ],
    ids=["no gather", "mean per device", "shifted label", "diagonal", "stopped"],
)
def test_a_wrong_loss_is_caught(mutant):
    with pytest.raises(AssertionError):
        check(mutant)


def test_the_published_values_of_two_wrong_ones():
    """What the specification measured of the same bugs."""
    np.testing.assert_allclose(OFFICIAL * no_gather(Z4, 0.5), 0.8322003059, rtol=1e-6)
    np.testing.assert_allclose(
        OFFICIAL * first_replica(Z4, 0.5), 1.8085544138, rtol=1e-5
    )


def test_no_silent_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.grad(lambda z: nt_xent(z, 0.1)[0])(embeddings())
