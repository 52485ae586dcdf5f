"""Convolutions on one CPU device, where XLA's own are slow (docs/processors.md).

`way` is the decision which of three ways a shape goes:

| way | forward | gradients |
|---|---|---|
| dense | one product with a matrix of all pairs of pixels | of that product |
| patches | products of patches, a few pictures at a time | products of patches |
| slide | XLA's convolution | without zeros between pixels and without transposes |
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax.models.sliding import NONE, pad, rotated, slide

CACHE = 2**17  # bytes of pictures, which with their copies fit into a core's cache
FEW_CHANNELS = 4  # XLA's convolution uses a part of the vector unit below that

# XLA gives convolutions of 32 or more channels to YNNPACK; its own are faster. Sums and
# products stay with YNNPACK: without it the sums take 2 to 20 times as long.
OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    )
}

Pads = list[tuple[int, int]]  # rows before and after, columns before and after


def alone() -> bool:
    """Whether the mesh in use is one CPU device."""
    return _is_one_cpu(jax.sharding.get_abstract_mesh())


def _is_one_cpu(mesh) -> bool:
    return mesh.size == 1 and mesh.abstract_device.platform == "cpu"


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """What to compile a network for this mesh with; nothing but on one CPU device."""
    return _known_options() if _is_one_cpu(mesh.abstract_mesh) else {}


@functools.cache
def _known_options() -> dict[str, str]:
    """OPTIONS, or nothing if this jaxlib does not know the experimental name."""
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return OPTIONS


def way(picture: tuple[int, ...], kernel: tuple[int, ...]) -> str:
    """How pictures [N, H, W, I] are convolved with a kernel [K, K, I, O]."""
    if picture[1] * picture[2] < kernel[0] * kernel[1]:
        return "dense"
    return "patches" if picture[3] < FEW_CHANNELS else "slide"


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolves [N, H, W, I] with [K, K, I, O], in the dtype of x."""
    ways = {"dense": _dense, "patches": _patches, "slide": _slide}
    compute = ways[way(x.shape, kernel.shape)]
    return compute(x, kernel.astype(x.dtype), stride, pads)


def gradients(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of pictures and kernel from `dy`, in the dtype of x."""
    if way(x.shape, kernel.shape) == "dense":
        wide = jnp.promote_types(x.dtype, jnp.float32)  # rounded once, at the end
        _, pull = jax.vjp(
            lambda x, k: _dense(x, k, stride, pads), x.astype(wide), kernel.astype(wide)
        )
        dx, dk = pull(dy.astype(wide))
        return dx.astype(x.dtype), dk.astype(x.dtype)
    # Tap i connects row h of dy with row stride * h + i - before of x.
    dy = jax.lax.optimization_barrier(dy)  # computed once, not at each use
    before = [b for b, _ in pads]
    dx = _picture_gradient(stride, before, kernel, dy, x.shape)
    if way(x.shape, kernel.shape) == "patches":
        dk = _patches_kernel_gradient(x, kernel, stride, pads, dy)
    else:
        dk = _kernel_gradient(stride, before, x, dy, kernel.shape)
    return dx, dk.astype(x.dtype)


def _slide(x, kernel, stride, pads):
    return slide(x, kernel, pads, stride=stride)


def _dense(x, kernel, stride, pads):
    """One product of matrices: no zeros around a picture are multiplied.

    Entry (n, m) of `taps` is the tap that connects row n of the picture with row m of
    the result; `size`, a tap of zeros, if there is none.
    """
    size = kernel.shape[0]
    taps, sides = [], []
    for side, (before, after) in zip(x.shape[1:3], pads, strict=True):
        sides.append((side + before + after - size) // stride + 1)
        tap = np.arange(side)[:, None] + before - stride * np.arange(sides[-1])
        taps.append(np.where((tap >= 0) & (tap < size), tap, size))
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    matrix = kernel[taps[0][:, None, :, None], taps[1][None, :, None, :]]
    matrix = matrix.transpose(0, 1, 4, 2, 3, 5).reshape(x[0].size, -1)
    flat = x.reshape(len(x), -1)
    flat, matrix = jax.lax.optimization_barrier((flat, matrix))  # plain operands
    return (flat @ matrix).reshape(len(x), *sides, kernel.shape[3])


class _Grid(NamedTuple):
    """Patches of pictures: all that pairs of neighbouring pixels of the result see.

    A pair shares a patch, which is `stride` columns wider than the kernel, and has two
    copies of the kernel side by side: few channels make a wider product.
    """

    size: int  # of the kernel
    stride: int
    pads: Pads
    rows: int  # of the result
    columns: int

    @property
    def pair(self) -> int:
        return 2 - self.columns % 2  # 1 if the columns are odd

    @property
    def width(self) -> int:
        return self.stride * (self.pair - 1) + self.size

    def matrix(self, kernel):
        """[K, K, I, O] -> [size * width * I, pair * O]."""
        spare, no = self.width - self.size, (0, 0)
        copies = [
            jnp.pad(kernel, (no, (shift, spare - shift), no, no))
            for shift in range(0, spare + 1, self.stride)
        ]
        return jnp.stack(copies, 3).reshape(-1, self.pair * kernel.shape[3])

    def patches(self, x):
        """[n, H, W, I] -> [n * rows * columns / pair, size * width * I]."""
        x = pad(x, (*self.pads[0], 0), (*self.pads[1], 0))
        inputs, step = x.shape[3], self.stride * self.pair
        x = x.reshape(*x.shape[:2], -1)  # a row is W I numbers
        starts = [step * j * inputs for j in range(self.columns // self.pair)]
        x = jnp.stack([x[:, :, s : s + self.width * inputs] for s in starts], 2)
        last = self.stride * (self.rows - 1) + 1
        tops = [x[:, i : i + last : self.stride] for i in range(self.size)]
        return jnp.concatenate(tops, -1).reshape(-1, self.size * self.width * inputs)

    def groups(self, x, *others):
        """Each array [N, ...] -> [N / n, n, ...]: the patches of n pictures are few."""
        count = self.rows * self.columns // self.pair * self.size * self.width
        patch_bytes = count * x.shape[3] * x.dtype.itemsize
        n = _largest_divisor(len(x), 4 * CACHE // patch_bytes)
        return [a.reshape(-1, n, *a.shape[1:]) for a in (x, *others)]


def _grid(x, size, stride, pads):
    sides = (
        (side + sum(edges) - size) // stride + 1
        for side, edges in zip(x.shape[1:3], pads, strict=True)
    )
    return _Grid(size, stride, pads, *sides)


def _patches(x, kernel, stride, pads):
    """Products of the kernel with all patches of a few pictures at a time."""
    grid = _grid(x, kernel.shape[0], stride, pads)
    matrix = grid.matrix(kernel)

    def convolve_few(_, x):
        return None, grid.patches(x) @ matrix

    _, y = jax.lax.scan(convolve_few, None, *grid.groups(x))
    return y.reshape(len(x), grid.rows, grid.columns, kernel.shape[3])


def _patches_kernel_gradient(x, kernel, stride, pads, dy):
    """The gradient of the kernel of `_patches`."""
    grid = _grid(x, kernel.shape[0], stride, pads)
    wide = kernel.astype(jnp.promote_types(x.dtype, jnp.float32))
    matrix, pull = jax.vjp(grid.matrix, wide)

    def add(total, few):
        x, dy = few
        patches = grid.patches(x)
        dy = dy.reshape(len(patches), -1)
        return total + jnp.dot(patches.T, dy, preferred_element_type=total.dtype), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(matrix), grid.groups(x, dy))
    return pull(total)[0]


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
        return slide(dy, rotated(taps), pads)

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
    few = _largest_divisor(len(x), most)

    def add(total, pictures):
        x, dy = pictures
        end = stride * dy.shape[2]
        x = pad(x, NONE, (before[1], end + size - 1 - x.shape[2] - before[1], 0))
        for tap in range(min(stride, size)):
            shift, residue = divmod(tap - before[0], stride)
            rows = x[:, residue::stride]
            spare = rows.shape[1] - dy.shape[1]
            shifts = range(shift, shift + len(range(tap, size, stride)))
            left = _side_by_side(
                [rows[:, :, j : j + end : stride] for j in range(size)]
            )
            right = _side_by_side([pad(dy, (s, spare - s, 0), NONE) for s in shifts])
            taps = jnp.tensordot(
                left, right, (0, 0), preferred_element_type=total.dtype
            )
            taps = taps.reshape(size, inputs, -1, outputs).transpose(2, 0, 1, 3)
            total = total.at[tap::stride].add(taps)
        return total, None

    parts = [a.reshape(-1, few, *a.shape[1:]) for a in (x, dy)]
    zeros = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.scan(add, zeros, parts)[0]


def _side_by_side(pictures):
    """Pictures [N, H, W, C] -> [N H W, the channels of all]."""
    x = jnp.concatenate(pictures, -1)
    return x.reshape(-1, x.shape[-1])


def _largest_divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, at least 1."""
    return max(d for d in range(1, max(most, 1) + 1) if n % d == 0)
