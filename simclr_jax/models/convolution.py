"""A square convolution with custom gradients, for two reasons.

They fix the dtype in which a kernel's gradient is summed over devices, and they are
faster than XLA's on a CPU (docs/processors.md).
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

CACHE = 2**18  # bytes of pictures that fit into a core's cache
NONE = (0, 0, 0)  # no padding


def padding(size: int, stride: int, side: int, pad: str) -> tuple[int, int]:
    """Rows to add before and after `side` rows, for a kernel of `size` rows.

    "even": equal on both sides for any stride; "same": XLA's SAME, the fewest needed.
    """
    if pad == "even":
        return (size - 1) // 2, size // 2
    rows = max((-(-side // stride) - 1) * stride + size - side, 0)
    return rows // 2, rows - rows // 2


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
    return _slide(x, kernel, _paddings(x, kernel, stride, pad), stride=stride)


def _slide(x, kernel, pads, *, stride: int = 1, dilation: int = 1):
    """Slides a kernel over pictures whose pixels lie `dilation` apart."""
    if x.shape[1] * x.shape[2] < kernel.shape[0] * kernel.shape[1]:
        # XLA swaps the operands if the picture is smaller than the kernel, and on a CPU
        # runs that in a slow loop (40 times slower on 2x2). So it is padded first.
        x = _pad(x, *((*pad, dilation - 1) for pad in pads))
        x, pads, dilation = jax.lax.optimization_barrier(x), [(0, 0)] * 2, 1
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        pads,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _pad(x, rows, columns):
    """Adds zeros before, after and between rows and columns; below 0: removes them."""
    edges = [NONE, rows, columns, NONE]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def _forward(x, kernel, stride, pad):
    return convolve(x, kernel, stride, pad), (x, kernel)


def _backward(stride, pad, saved, dy):
    x, kernel = saved
    pads = _paddings(x, kernel, stride, pad)
    mesh = jax.sharding.get_abstract_mesh()
    one_cpu = mesh.size == 1 and mesh.abstract_device.platform == "cpu"
    gradients = _gradients_on_cpu if one_cpu else _gradients
    return gradients(stride, pads, x, kernel, dy)


def _gradients(stride, pads, x, kernel, dy):
    """The gradients of pictures and kernel, each by one convolution."""
    size = kernel.shape[0]
    before = [b for b, _ in pads]
    sides = list(zip(x.shape[1:3], dy.shape[1:3], before, strict=True))

    # Pictures: dy, with its pixels `stride` apart, convolved with the rotated kernel.
    dx = _slide(
        dy,
        _rotated(kernel),
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
    return dx, dk.astype(kernel.dtype)


def _rotated(kernel):
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _gradients_on_cpu(stride, pads, x, kernel, dy):
    """The gradients on one CPU, without zeros between pixels and without transposes.

    Tap i connects row h of dy with row stride * h + i - before of x.
    """
    x, dy = jax.lax.optimization_barrier((x, dy))  # computed once, not at each use
    before = [b for b, _ in pads]
    dx = _picture_gradient(stride, before, kernel, dy, x.shape)
    dk = _kernel_gradient(stride, before, x, dy, kernel.shape)
    return dx, dk.astype(x.dtype).astype(kernel.dtype)


def _picture_gradient(stride, before, kernel, dy, shape):
    """[N, H, W, I]: each pixel is connected to every `stride`-th tap only.

    Which taps depends on its row and column modulo the stride. So there is one
    convolution for each pair of residues, with its part of the kernel, and the results
    are interleaved.
    """
    sides = [-(-side // stride) for side in shape[1:3]]

    def part(*residues):
        taps, pads = kernel, []
        for axis, residue in enumerate(residues):
            shift, first_tap = divmod(residue + before[axis], stride)
            taps = jax.lax.slice_in_dim(taps, first_tap, None, stride, axis)
            low = taps.shape[axis] - 1 - shift
            rows = dy.shape[1 + axis] + low
            pads.append((low, sides[axis] + taps.shape[axis] - 1 - rows))
        if not taps.size:
            return jnp.zeros((len(dy), *sides, shape[3]), dy.dtype)
        return _slide(dy, _rotated(taps), pads)

    residues = range(stride)
    columns = [jnp.stack([part(i, j) for j in residues], 3) for i in residues]
    dx = jnp.stack(columns, 2)
    dx = dx.reshape(len(dy), *(stride * side for side in sides), shape[3])
    return dx[:, : shape[1], : shape[2]]


def _kernel_gradient(stride, before, x, dy, shape):
    """[K, K, I, O]: for each tap, the pixels connected to it times dy.

    Taps `stride` rows apart use the same rows of x. K copies of these, each shifted by
    one column, and copies of dy for each of the taps, each shifted by one row, turn all
    their products into one product of matrices. It is computed for a few pictures at a
    time, which stay in the core's cache.
    """
    size, _, inputs, outputs = shape
    most = max(CACHE, 4 * math.prod(shape)) // (x.nbytes // len(x))
    group = max(n for n in range(1, max(most, 1) + 1) if len(x) % n == 0)

    def add(total, pictures):
        x, dy = pictures
        end = stride * dy.shape[2]
        x = _pad(x, NONE, (before[1], end + size - 1 - x.shape[2] - before[1], 0))
        for tap in range(min(stride, size)):
            shift, residue = divmod(tap - before[0], stride)
            rows = x[:, residue::stride]
            spare = rows.shape[1] - dy.shape[1]
            shifts = range(shift, shift + len(range(tap, size, stride)))
            left = _side_by_side(
                [rows[:, :, j : j + end : stride] for j in range(size)]
            )
            right = _side_by_side([_pad(dy, (s, spare - s, 0), NONE) for s in shifts])
            taps = jnp.tensordot(
                left, right, (0, 0), preferred_element_type=total.dtype
            )
            taps = taps.reshape(size, inputs, -1, outputs).transpose(2, 0, 1, 3)
            total = total.at[tap::stride].add(taps)
        return total, None

    parts = [a.reshape(-1, group, *a.shape[1:]) for a in (x, dy)]
    zeros = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.scan(add, zeros, parts)[0]


def _side_by_side(pictures):
    """Pictures [N, H, W, C] -> [N H W, the channels of all]."""
    x = jnp.concatenate(pictures, -1)
    return x.reshape(-1, x.shape[-1])


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
