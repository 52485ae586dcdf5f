"""A square convolution with custom gradients, for two reasons.

They fix the dtype in which a kernel's gradient is summed over devices, and on one CPU
device they are faster than XLA's (`models/cpu.py`).
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models import cpu
from simclr_jax.models.sliding import padding, rotated, slide


def _paddings(x, kernel, stride, pad):
    """The paddings of height and width."""
    return [padding(kernel.shape[0], stride, side, pad) for side in x.shape[1:3]]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, pad: str = "even"
) -> jax.Array:
    """Convolves [N, H, W, I] with [K, K, I, O], in the dtype of x.

    The kernel's gradient is rounded to the dtype of x, too. If all views run as one
    batch, it is summed over devices in that dtype: bfloat16 halves the bytes, and its
    error is far below that of computing in bfloat16.
    """
    pads = _paddings(x, kernel, stride, pad)
    if cpu.alone():
        return cpu.convolve(x, kernel, stride, pads)
    return slide(x, kernel, pads, stride=stride)


def _forward(x, kernel, stride, pad):
    if cpu.alone():
        x = jax.lax.optimization_barrier(x)  # computed once, also for the gradients
    return convolve(x, kernel, stride, pad), (x, kernel)


def _backward(stride, pad, saved, dy):
    x, kernel = saved
    gradients = cpu.gradients if cpu.alone() else _gradients
    pads = _paddings(x, kernel, stride, pad)
    dx, dk = gradients(x, kernel, stride, pads, dy)
    return dx, dk.astype(kernel.dtype)


def _gradients(x, kernel, stride, pads, dy):
    """The gradients of pictures and kernel, each by one convolution."""
    size = kernel.shape[0]
    before = [b for b, _ in pads]
    sides = list(zip(x.shape[1:3], dy.shape[1:3], before, strict=True))

    # Pictures: dy, with its pixels `stride` apart, convolved with the rotated kernel.
    dx = slide(
        dy,
        rotated(kernel),
        [(size - 1 - b, n + b - 1 - stride * (m - 1)) for n, m, b in sides],
        dilation=stride,
    )
    # Kernel: for each tap, x times dy summed over images, which is a convolution with
    # the images as channels.
    dk = jax.lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        [(b, stride * (m - 1) + size - n - b) for n, m, b in sides],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )
    return dx, dk


convolve.defvjp(_forward, _backward)


def _haiku(key, shape, dtype=jnp.float32):
    """Normal, deviation 1 / sqrt(fan_in), truncated at two of these, not rescaled."""
    scale = (shape[0] * shape[1] * shape[2]) ** -0.5
    return nn.initializers.truncated_normal(scale)(key, shape, dtype)


INITIALIZERS = {  # of kernels
    "lecun": nn.initializers.lecun_normal(),
    "he": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    "haiku": _haiku,
}


class Conv(nn.Module):
    """A square convolution without bias; float32 kernel, computes in the dtype of x."""

    features: int
    size: int
    stride: int = 1
    padding: str = "even"
    initializer: str = "lecun"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", INITIALIZERS[self.initializer], shape)
        return convolve(x, kernel, self.stride, self.padding)
