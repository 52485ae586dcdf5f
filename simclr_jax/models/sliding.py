"""Paddings and the sliding kernel: the parts of convolutions and their gradients."""

import jax
import jax.numpy as jnp

NONE = (0, 0, 0)  # no padding


def padding(size: int, stride: int, side: int, pad: str) -> tuple[int, int]:
    """Rows to add before and after `side` rows, for a kernel of `size` rows.

    "even": equal on both sides for any stride; "same": XLA's SAME, the fewest needed.
    """
    if pad == "even":
        return (size - 1) // 2, size // 2
    rows = max((-(-side // stride) - 1) * stride + size - side, 0)
    return rows // 2, rows - rows // 2


def pad(
    x: jax.Array, rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> jax.Array:
    """Adds zeros before, after and between rows and columns; below 0: removes them."""
    edges = [NONE, rows, columns, NONE]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def slide(
    x: jax.Array,
    kernel: jax.Array,
    pads: list[tuple[int, int]],
    *,
    stride: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """Slides a kernel over pictures whose pixels lie `dilation` apart.

    Args:
      x: [N, H, W, I].
      kernel: [K, L, I, O], computed with in the dtype of x.
      pads: rows before and after, columns before and after.
    """
    if x.shape[1] * x.shape[2] < kernel.shape[0] * kernel.shape[1]:
        # XLA swaps the operands if the picture is smaller than the kernel, and on a CPU
        # runs that in a slow loop (40 times slower on 2x2). So it is padded first.
        x = pad(x, *((a, b, dilation - 1) for a, b in pads))
        x, pads, dilation = jax.lax.optimization_barrier(x), [(0, 0)] * 2, 1
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        pads,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def rotated(kernel: jax.Array) -> jax.Array:
    """[K, L, I, O] -> [K, L, O, I], by half a turn."""
    return kernel[::-1, ::-1].swapaxes(2, 3)
