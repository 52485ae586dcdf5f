import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.models import convolution, cpu
from simclr_jax.models.sliding import padding
from tests.tools import convolve_by_hand


def lax_convolve(x, kernel, stride, pad="even"):
    size = kernel.shape[0]
    even = [((size - 1) // 2, size // 2)] * 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        even if pad == "even" else "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def gradients_by_hand(x, kernel, dy, stride):
    """Of sum(dy * convolve_by_hand(x, kernel, stride)), to x and to the kernel."""
    size = kernel.shape[0]
    edge, (height, width) = (size - 1) // 2, x.shape[1:3]
    x = np.pad(x, ((0, 0), *[(edge, size // 2)] * 2, (0, 0)))
    dx, dk = np.zeros_like(x), np.zeros_like(kernel)
    for i, j in np.ndindex(dy.shape[1:3]):
        seen = np.s_[:, stride * i : stride * i + size, stride * j : stride * j + size]
        dk += np.tensordot(x[seen], dy[:, i, j], ([0], [0]))
        dx[seen] += np.tensordot(dy[:, i, j], kernel, ([1], [3]))
    return dx[:, edge : edge + height, edge : edge + width], dk


# height, kernel, stride; on the first four XLA would swap picture and kernel
CASES = [(2, 3, 1), (1, 3, 1), (4, 7, 2), (2, 3, 2)]
CASES += [(4, 3, 2), (5, 3, 2), (8, 7, 2), (5, 1, 2), (4, 3, 1), (6, 1, 1)]


@pytest.mark.parametrize("devices", [1, 2])  # a processor by itself has its own way
@pytest.mark.parametrize("pad", ["even", "same"])
@pytest.mark.parametrize(("height", "size", "stride"), CASES)
def test_convolution_and_its_gradients(height, size, stride, pad, devices):
    random = np.random.default_rng(0)
    x = random.normal(size=(3, height, height + 1, 4)).astype(np.float32)
    kernel = random.normal(size=(size, size, 4, 5)).astype(np.float32)
    expected, theirs = jax.vjp(lambda x, k: lax_convolve(x, k, stride, pad), x, kernel)
    dy = random.normal(size=expected.shape).astype(np.float32)
    with jax.set_mesh(sharding.make_mesh(jax.devices()[:devices])):
        y, pull = jax.vjp(
            lambda x, k: convolution.convolve(x, k, stride, pad), x, kernel
        )
        gradients = pull(dy)
    by = convolve_by_hand(x, kernel, stride) if pad == "even" else expected
    np.testing.assert_allclose(y, by, atol=1e-4)
    for mine, other in zip(gradients, theirs(dy), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 5])  # few go another way
@pytest.mark.parametrize("images", [6, 7, 12])
@pytest.mark.parametrize(("height", "size", "stride"), CASES)
def test_a_processor_takes_a_few_pictures_at_a_time(
    height, size, stride, images, channels, monkeypatch
):
    random = np.random.default_rng(0)
    x = random.normal(size=(images, height, height + 1, channels))
    kernel = random.normal(size=(size, size, channels, 3))
    # Then no more pictures at a time than have the bytes of the kernel, at least one.
    monkeypatch.setattr(cpu, "CACHE", 0)
    with jax.enable_x64(True), jax.set_mesh(sharding.make_mesh(jax.devices()[:1])):
        y, pull = jax.vjp(lambda x, k: convolution.convolve(x, k, stride), x, kernel)
        dy = random.normal(size=y.shape)
        dx, dk = pull(jnp.asarray(dy))
    np.testing.assert_allclose(y, convolve_by_hand(x, kernel, stride), atol=1e-12)
    assert dk.dtype == jnp.float64
    for mine, exact in zip(
        (dx, dk), gradients_by_hand(x, kernel, dy, stride), strict=True
    ):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("devices", "loops"), [(1, True), (2, False)])
def test_only_a_processor_by_itself_has_its_own_way(devices, loops):
    def gradient(kernel):
        return convolution.convolve(jnp.ones((4, 8, 8, 3)), kernel, 1).sum()

    with jax.set_mesh(sharding.make_mesh(jax.devices()[:devices])):
        jaxpr = jax.make_jaxpr(jax.grad(gradient))(jnp.ones((3, 3, 3, 2)))
    assert ("scan" in str(jaxpr)) == loops


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("side", [2, 6])  # 2: smaller than the kernel
def test_kernel_gradients_in_bfloat16_are_rounded_once(side, devices):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(8, side, side, 4)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(3, 3, 4, 5)), jnp.float32)

    def gradient(convolve):
        return jax.grad(lambda k: convolve(k).astype(jnp.float32).sum())(kernel)

    with jax.set_mesh(sharding.make_mesh(jax.devices()[:devices])):
        mine = gradient(lambda k: convolution.convolve(x, k, 1))
    exact = gradient(lambda k: lax_convolve(x.astype(jnp.float32), k, 1))
    assert mine.dtype == jnp.float32
    np.testing.assert_allclose(mine, exact, rtol=2**-8)
    np.testing.assert_array_equal(mine, mine.astype(x.dtype))  # what travels


def test_even_padding_is_not_xla_s_same():
    even = [padding(k, 2, 224, "even") for k in (1, 2, 3, 7)]
    assert even == [(0, 0), (0, 1), (1, 1), (3, 3)]
    for side, size, expected in [(224, 7, (2, 3)), (56, 3, (0, 1)), (57, 3, (1, 1))]:
        assert padding(size, 2, side, "same") == expected
        assert jax.lax.padtype_to_pads([side], [size], [2], "SAME") == [expected]
    x = jnp.arange(56.0)[None, :, None, None]
    tap = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    middle = convolution.convolve(x, tap, 2).ravel()
    np.testing.assert_array_equal(middle, np.arange(0, 56, 2))  # SAME: 1, 3, 5, ...
