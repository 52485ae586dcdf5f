"""A square convolution and its gradients, which are written out for two reasons.

They say in what type a kernel's gradient crosses the devices; and XLA's own ones are
slow on a processor (README, "On processors"), which here has its own way.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

CACHE = 2**18  # bytes of pictures that a core keeps at hand
NONE = (0, 0, 0)  # no padding


def padding(size: int, stride: int, side: int, pad: str) -> tuple[int, int]:
    """Rows to add before and after `side` rows, for a kernel of `size` rows.

    "even": alike on both sides, whatever the stride; "same": XLA's SAME, as few as
    will do.
    """
    if pad == "even":
        return (size - 1) // 2, size // 2
    rows = max((-(-side // stride) - 1) * stride + size - side, 0)
    return rows // 2, rows - rows // 2


def _paddings(x, kernel, stride, pad):
    """Of height and width."""
    return [padding(kernel.shape[0], stride, side, pad) for side in x.shape[1:3]]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x, kernel, stride: int, pad: str = "even"):
    """Convolves [N, H, W, I] with [K, K, I, O], in the type of x.

    The kernel's gradient is rounded to the type of x, too, and so summed over the
    devices where all views pass together: in bfloat16 that is half the bytes, for an
    error far below that of computing in bfloat16 at all.
    """
    return _slide(x, kernel, _paddings(x, kernel, stride, pad), stride=stride)


def _slide(x, kernel, pads, *, stride: int = 1, dilation: int = 1):
    """Slides a kernel over pictures whose pixels lie `dilation` apart."""
    if x.shape[1] * x.shape[2] < kernel.shape[0] * kernel.shape[1]:
        # XLA would swap the two, as the picture is the smaller one, and on a CPU has
        # only a slow loop for that (40 times slower on 2x2). So make it larger first.
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
    """Zeros before, after and between rows and columns; below 0: takes them away."""
    edges = [NONE, rows, columns, NONE]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def _forward(x, kernel, stride, pad):
    return convolve(x, kernel, stride, pad), (x, kernel)


def _backward(stride, pad, saved, dy):
    x, kernel = saved
    pads = _paddings(x, kernel, stride, pad)
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.size == 1 and mesh.abstract_device.platform == "cpu"
    return (_on_processor if alone else _gradients)(stride, pads, x, kernel, dy)


def _gradients(stride, pads, x, kernel, dy):
    """To the pictures and to the kernel, each by one convolution."""
    size = kernel.shape[0]
    before = [b for b, _ in pads]
    sides = list(zip(x.shape[1:3], dy.shape[1:3], before, strict=True))

    # To the pictures: dy, its pixels `stride` apart, under the kernel turned round.
    dx = _slide(
        dy,
        _turned(kernel),
        [(size - 1 - b, n + b - 1 - stride * (m - 1)) for n, m, b in sides],
        dilation=stride,
    )
    # To the kernel: for each of its taps x times dy, summed over images, which is a
    # convolution too, with the images in the part of the channels.
    dk = jax.lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        [(b, stride * (m - 1) + size - n - b) for n, m, b in sides],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )
    return dx, dk.astype(kernel.dtype)


def _turned(kernel):
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _on_processor(stride, pads, x, kernel, dy):
    """The same for one processor: no zeros between pixels, no pictures turned round.

    Row h of dy has seen, by tap i, row stride * h + i - before of x.
    """
    x, dy = jax.lax.optimization_barrier((x, dy))  # computed once, not for each use
    before = [b for b, _ in pads]
    dx = _to_pictures(stride, before, kernel, dy, x.shape)
    dk = _to_kernel(stride, before, x, dy, kernel.shape)
    return dx, dk.astype(x.dtype).astype(kernel.dtype)


def _to_pictures(stride, before, kernel, dy, shape):
    """[N, H, W, I]: a pixel is seen by every `stride`-th tap only.

    By which ones depends on its row and column modulo the stride. So there are as many
    convolutions, each with its part of the kernel, which are laid into one another.
    """
    sides = [-(-side // stride) for side in shape[1:3]]

    def part(*residues):
        taps, pads = kernel, []
        for axis, residue in enumerate(residues):
            down, first = divmod(residue + before[axis], stride)
            taps = jax.lax.slice_in_dim(taps, first, None, stride, axis)
            low = taps.shape[axis] - 1 - down
            rows = dy.shape[1 + axis] + low
            pads.append((low, sides[axis] + taps.shape[axis] - 1 - rows))
        if not taps.size:
            return jnp.zeros((len(dy), *sides, shape[3]), dy.dtype)
        return _slide(dy, _turned(taps), pads)

    each = range(stride)
    dx = jnp.stack([jnp.stack([part(i, j) for j in each], 3) for i in each], 2)
    dx = dx.reshape(len(dy), *(stride * side for side in sides), shape[3])
    return dx[:, : shape[1], : shape[2]]


def _to_kernel(stride, before, x, dy, shape):
    """[K, K, I, O]: of each tap, the pixels that it has seen times dy.

    Taps `stride` rows apart see the same rows of x. These lie K times beside
    themselves, one column further each time, and dy once for each of the taps, one row
    further each time: so all their products are one product of matrices. It is done
    for a few pictures at a time, which stay in the core's cache meanwhile.
    """
    size, _, inputs, outputs = shape
    most = max(CACHE, 4 * math.prod(shape)) // (x.nbytes // len(x))
    few = max(n for n in range(1, max(most, 1) + 1) if len(x) % n == 0)

    def add(total, pictures):
        x, dy = pictures
        end = stride * dy.shape[2]
        x = _pad(x, NONE, (before[1], end + size - 1 - x.shape[2] - before[1], 0))
        for first in range(min(stride, size)):
            down, residue = divmod(first - before[0], stride)
            seen = x[:, residue::stride]
            spare = seen.shape[1] - dy.shape[1]
            downs = range(down, down + len(range(first, size, stride)))
            left = _beside([seen[:, :, j : j + end : stride] for j in range(size)])
            right = _beside([_pad(dy, (d, spare - d, 0), NONE) for d in downs])
            taps = jnp.tensordot(
                left, right, (0, 0), preferred_element_type=total.dtype
            )
            taps = taps.reshape(size, inputs, -1, outputs).transpose(2, 0, 1, 3)
            total = total.at[first::stride].add(taps)
        return total, None

    parts = [a.reshape(-1, few, *a.shape[1:]) for a in (x, dy)]
    start = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.scan(add, start, parts)[0]


def _beside(pictures):
    """[N, H, W, C] each -> [N H W, all C]."""
    x = jnp.concatenate(pictures, -1)
    return x.reshape(-1, x.shape[-1])


convolve.defvjp(_forward, _backward)
