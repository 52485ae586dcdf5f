"""Losses block by block against float64, written out; and what they hold and send."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.experiment import build, config
from simclr_jax.losses.block_size import Matrix, block_size, queries_matrix
from simclr_jax.losses.blockwise import most_similar, retrieve
from simclr_jax.losses.contrastive import ctr, info_nce, nt_xent
from simclr_jax.losses.neighbours import cauchy
from simclr_jax.sharding import DATA, make_mesh
from tests.tools import collectives, plain, temporary_bytes

PRECISION = {np.float32: (2e-6, 1e-6), np.float64: (1e-13, 1e-13)}


def unit(x):
    """x on the sphere, and the way back of a gradient."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    u = x / length
    return u, lambda g: (g - np.sum(g * u, -1, keepdims=True) * u) / length


def shares(s):
    """log-sum-exp of each row, and the softmax."""
    most = s.max(1, keepdims=True)
    sums = most[:, 0] + np.log(np.exp(s - most).sum(1))
    return sums, np.exp(s - sums[:, None])


def nt_xent_of_numpy(z, temperature):
    """Eq. 1 and its gradient, the matrix as a whole, in float64."""
    n = z.shape[1]
    u, back = unit(np.concatenate(z).astype(np.float64))
    s = u @ u.T / temperature
    np.fill_diagonal(s, -np.inf)
    twin = (np.arange(2 * n) + n) % (2 * n)
    sums, p = shares(s)
    p[np.arange(2 * n), twin] -= 1
    grad = back((p + p.T) @ u / temperature / (2 * n))
    return np.mean(sums - s[np.arange(2 * n), twin]), grad.reshape(z.shape)


def cauchy_of_numpy(z, _):
    n = z.shape[1]
    x = np.concatenate(z).astype(np.float64)
    apart = x[:, None] - x[None]
    far = np.sum(apart**2, -1)
    s = -np.log1p(far)
    np.fill_diagonal(s, -np.inf)
    twin = (np.arange(2 * n) + n) % (2 * n)
    sums, p = shares(s)
    p[np.arange(2 * n), twin] -= 1
    pull = (p + p.T) * -2 / (1 + far) / (2 * n)
    grad = np.sum(pull[..., None] * apart, 1)
    return np.mean(sums - s[np.arange(2 * n), twin]), grad.reshape(z.shape)


def against_keys(q, keys, positives, temperature):
    """Mean cross-entropy of queries among keys, and its gradient for the queries."""
    (u, back), (k, _) = unit(q.astype(np.float64)), unit(keys.astype(np.float64))
    s = u @ k.T / temperature
    sums, p = shares(s)
    rows = np.arange(len(q))
    p[rows, positives] -= 1
    return np.mean(sums - s[rows, positives]), back(p @ k / temperature / len(q))


def error(result, true):
    return np.linalg.norm(np.asarray(result, np.float64) - true) / np.linalg.norm(true)


PAIRS = {
    "nt_xent": (nt_xent, nt_xent_of_numpy),
    "cauchy": (lambda z, t, block: cauchy(z, block=block), cauchy_of_numpy),
}


@pytest.fixture(params=range(6))
def case(request):
    """Sizes, a block, a temperature and numbers, drawn anew for each case."""
    draw = np.random.default_rng(request.param)
    n, d, block = draw.integers((8, 4, 1), (40, 24, 45))
    temperature = (0.02, 0.03, 0.1, 0.2, 0.5, 1.0)[request.param]
    return int(n), int(d), int(block), temperature, draw


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("name", list(PAIRS))
def test_pairs_in_any_blocks(name, dtype, case):
    (loss, written), (n, d, block, temperature, draw) = PAIRS[name], case
    z = draw.normal(size=(2, n, d)).astype(dtype)
    with jax.enable_x64(dtype is np.float64):
        value = lambda z: loss(z, temperature, block=block)[0]  # noqa: E731
        found, grad = plain(jax.jit(jax.value_and_grad(value))(z))
    true, slope = written(z, temperature)
    assert grad.dtype == dtype
    assert abs(found - true) <= PRECISION[dtype][1] * max(1, abs(true))
    assert error(grad, slope) <= PRECISION[dtype][0]


def test_a_gather_in_bfloat16_rounds_z_and_sums_exactly(case):
    """Within 1e-2 of the exact gradient, and within 1e-5 of that of the rounded z."""
    n, d, block, temperature, draw = case
    z = unit(draw.normal(size=(2, n, d)))[0].astype(np.float32)
    short = partial(nt_xent, temperature=temperature, block=block, gather="bfloat16")
    found, grad = plain(jax.jit(jax.value_and_grad(lambda z: short(z)[0]))(z))
    assert error(grad, nt_xent_of_numpy(z, temperature)[1]) <= 1e-2
    u = np.asarray(jnp.asarray(z).astype(jnp.bfloat16), np.float64)
    s = np.concatenate(u) @ np.concatenate(u).T / temperature
    twins = np.mean(np.diag(s, n))
    np.fill_diagonal(s, -np.inf)
    true = np.mean(shares(s)[0]) - twins
    assert abs(found - true) <= 1e-5 * max(1, abs(true))


def test_a_gather_in_no_known_type():
    with pytest.raises(ValueError, match="got 'float16'"):
        nt_xent(jnp.zeros((2, 4, 8)), 0.1, gather="float16")


@pytest.mark.parametrize("dtype", PRECISION)
def test_keys_in_any_blocks(dtype, case):
    """MoCo v3's keys are the batch's, MoCo's the own one and the queue."""
    n, d, block, temperature, draw = case
    q, k, queue = (draw.normal(size=(m, d)).astype(dtype) for m in (n, n, 2 * n + 3))
    queue = unit(queue)[0].astype(dtype)
    with jax.enable_x64(dtype is np.float64):
        third = lambda q: ctr(q, k, temperature, block=block)  # noqa: E731
        found = plain(jax.jit(jax.value_and_grad(third))(q))
        first = lambda q: info_nce(q, k, queue, temperature, block=block)[0]  # noqa: E731
        other = plain(jax.jit(jax.value_and_grad(first))(q))
    true, slope = against_keys(q, k, np.arange(n), temperature)
    value, gradient = PRECISION[dtype][1], PRECISION[dtype][0]
    scale = 2 * temperature
    assert abs(found[0] - scale * true) <= value * max(1, scale * abs(true))
    assert error(found[1], scale * slope) <= gradient

    # Each query has its own key first, and then the queue.
    rows = [
        against_keys(q[i, None], np.vstack([k[i, None], queue]), [0], temperature)
        for i in range(n)
    ]
    true = np.mean([value for value, _ in rows])
    slope = np.concatenate([grad for _, grad in rows]) / n
    assert abs(other[0] - true) <= value * max(1, abs(true))
    assert error(other[1], slope) <= gradient


def test_keys_get_their_gradient_too():
    """As by autodiff of the whole matrix; that none is wanted is the method's say."""
    arrays = np.random.default_rng(0).normal(size=(3, 9, 4)).astype(np.float32)

    def dense(q, k, queue):
        q, k = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
        positive = jnp.sum(q * k, 1, keepdims=True) / 0.2
        third = jax.nn.logsumexp(q @ k.T / 0.2, 1) - positive[:, 0]
        both = jnp.concatenate([positive, q @ queue.T / 0.2], 1)
        first = jax.nn.logsumexp(both, 1) - positive[:, 0]
        return 2 * 0.2 * jnp.mean(third) + jnp.mean(first)

    def streamed(q, k, queue):
        return ctr(q, k, 0.2, block=4) + info_nce(q, k, queue, 0.2, block=4)[0]

    with jax.default_matmul_precision("highest"):
        true = jax.grad(dense, (0, 1, 2))(*arrays)
    found = jax.jit(jax.grad(streamed, (0, 1, 2)))(*arrays)
    for a, b in zip(found, true, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_of_well_aligned_pairs_the_rounding_is_that_of_the_matrix(temperature):
    """There the gradient itself vanishes: no worse than 3 times the dense one."""
    draw = np.random.default_rng(0)
    place = draw.normal(size=(1, 64, 16))
    z = (place + 1e-3 * draw.normal(size=(2, 64, 16))).astype(np.float32)
    _, slope = nt_xent_of_numpy(z, temperature)

    def dense(z):
        u = jnp.concatenate(z / jnp.linalg.norm(z, axis=-1, keepdims=True))
        s = jnp.matmul(u, u.T, precision="highest") / temperature
        sums = jax.nn.logsumexp(jnp.where(jnp.eye(128, dtype=bool), -jnp.inf, s), 1)
        return jnp.mean(sums - jnp.sum(u * jnp.roll(u, 64, 0), 1) / temperature)

    found = jax.grad(lambda z: nt_xent(z, temperature, block=24)[0])(z)
    assert error(found, slope) <= 3 * error(jax.grad(dense)(z), slope)


@pytest.mark.parametrize("loss", [nt_xent, lambda z, t, block: cauchy(z, block=block)])
def test_blocks_change_no_metric(loss):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 4)), jnp.float32)
    z = z.at[1].add(z[0])
    _, whole = loss(z, 0.1, block=40)
    _, parts = loss(z, 0.1, block=7)
    assert 0.05 < whole["contrast_accuracy"] < 0.9
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5)


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("block", [5, 16])
def test_any_mesh_with_a_rest(devices, block):
    z = np.random.default_rng(0).normal(size=(2, 24, 8)).astype(np.float32)
    mesh = make_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        rows = jax.device_put(z, NamedSharding(mesh, P(None, DATA)))
        value = lambda z: nt_xent(z, 0.1, block=block)[0]  # noqa: E731
        found, grad = jax.jit(jax.value_and_grad(value))(rows)
    true, slope = nt_xent_of_numpy(z, 0.1)
    np.testing.assert_allclose(found, true, rtol=1e-6)
    assert error(grad, slope) <= 2e-6


def test_no_matrix_of_65_536_pairs_is_held_and_two_gathers_are_sent():
    """Eight devices hold z, which is 64 MiB, a block and their rows; not 8 GiB."""
    n, mesh = 65_536, make_mesh()
    rows = NamedSharding(mesh, P(None, DATA))
    z = jax.ShapeDtypeStruct((2, n, 128), jnp.float32, sharding=rows)
    with jax.set_mesh(mesh):
        both = jax.value_and_grad(lambda z: nt_xent(z, 0.1), has_aux=True)
        compiled = jax.jit(both).lower(z).compile()
    assert temporary_bytes(compiled) <= 150 * 2**20
    gathers = [kinds for kind, kinds in collectives(compiled) if kind == "all-gather"]
    assert sorted(x.partition("{")[0] for x in gathers) == [
        "f32[2,65536,128]",
        "f32[2,65536]",
    ]
    assert {kind for kind, _ in collectives(compiled)} == {"all-gather", "all-reduce"}


def test_block_size_by_shape():
    small, large = (Matrix(2 * n, n, views=2) for n in (256, 4096))
    assert block_size(small, 1) == 256  # all of a small batch
    assert block_size(small._replace(block=100), 1) == 100
    assert block_size(small._replace(block=1000), 1) == 256
    assert block_size(Matrix(4096, 2048, views=2), 1) == 2048  # 64 MiB on one device
    assert block_size(large, 1) == 128  # a matrix of 256 MiB: 8 at a time
    assert block_size(large, 8) == 4096
    assert block_size(Matrix(131_072, 65_536, views=2), 8) == 64
    assert block_size(queries_matrix(2**30, 2**30), 1) == 1
    with pytest.raises(ValueError, match="got -1"):
        block_size(small._replace(block=-1), 1)


def test_block_size_counts_the_devices_of_the_mesh():
    z = jax.ShapeDtypeStruct((2, 4096, 8), jnp.float32)
    loops = []
    for devices in (1, 8):
        with jax.set_mesh(make_mesh(jax.devices()[:devices])):
            traced = jax.make_jaxpr(lambda z: nt_xent(z, 0.1)[0])(z)
        loops.append("scan" in str(traced))
    assert loops == [True, False]


def similarity(a, b):
    return jnp.einsum("vnd,wmd->vnwm", a, b, precision="highest")


@pytest.mark.parametrize("block", [3, 5, 11])
def test_most_similar_has_the_gradient_of_max(block):
    draw = np.random.default_rng(0)
    rows, columns, slope = (
        draw.normal(size=shape).astype(np.float32)
        for shape in ((2, 7, 4), (2, 11, 4), (2, 7))
    )
    columns[1, 3] = columns[0, 2]  # equally similar: the gradient is shared

    def dense(rows, columns):
        return jnp.sum(slope * jnp.max(similarity(rows, columns), (2, 3)))

    def blocks(rows, columns):
        return jnp.sum(slope * most_similar(rows, columns, similarity, block))

    exact = jax.grad(dense, (0, 1))(rows, columns)
    grads = jax.jit(jax.grad(blocks, (0, 1)))(rows, columns)
    assert np.abs(exact[1]).max() > 0.1
    for a, b in zip(grads, exact, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_retrieve_refuses_to_be_differentiated():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4)), jnp.float32)
    entropy = lambda z: jnp.sum(retrieve(z[:1], z, similarity, 3)[1])  # noqa: E731
    assert np.isfinite(entropy(z))
    with pytest.raises(NotImplementedError, match="metric and has no gradient"):
        jax.grad(entropy)(z)


def test_a_run_says_what_was_chosen():
    c, mesh = config.load("configs/quickstart.py"), make_mesh(jax.devices()[:1])
    job = build.assemble(c, mesh, images=5000, classes=10)
    assert job.notes == ("loss: 512 x 512 similarities, computed at once",)
    c.method.block = 100
    job = build.assemble(c, mesh, images=5000, classes=10)
    (note,) = job.notes
    assert note == "loss: 512 x 512 similarities, computed 200 columns at a time"
