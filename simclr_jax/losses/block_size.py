"""The number of columns of a similarity matrix that are processed together."""

from typing import NamedTuple

from simclr_jax.sharding import mesh_size

DENSE = 2**26  # bytes on a device of the largest matrix that is computed at once
TILE = 2**23  # bytes on a device of one block of a larger matrix
REACH = 60.0  # exp(-REACH) is far above float32's smallest number


class Matrix(NamedTuple):
    """The shape of a similarity matrix, and the requested size of its blocks."""

    rows: int  # of all views, over all devices
    columns: int  # M, for each of the W views
    views: int = 1  # W
    block: int = 0  # columns of each view in a block; 0: chosen by `block_size`


def pairs_matrix(images: int, block: int = 0) -> Matrix:
    """All 2N views of N images against each other: NT-Xent, t-SimCNE."""
    return Matrix(2 * images, images, views=2, block=block)


def queries_matrix(queries: int, keys: int, block: int = 0) -> Matrix:
    """One view of each image against keys: MoCo."""
    return Matrix(queries, keys, block=block)


def block_size(matrix: Matrix, devices: int) -> int:
    """The number of columns of each view that are processed together.

    With `matrix.block` = 0: all of them if the matrix has at most DENSE bytes on a
    device, otherwise as many as fit into TILE bytes.

    Raises:
      ValueError: the block is negative.
    """
    block = matrix.block
    if block < 0:
        raise ValueError(f"block must be 0 (to have one chosen) or above, got {block}.")
    column = 4 * matrix.rows * matrix.views // devices  # bytes of a column on a device
    if block == 0:
        dense = column * matrix.columns <= DENSE
        block = matrix.columns if dense else TILE // column
    return max(min(block, matrix.columns), 1)


def describe(matrix: Matrix, devices: int) -> str:
    """A log line on how the matrix is computed."""
    block = block_size(matrix, devices)
    dense = block == matrix.columns
    how = "at once" if dense else f"{block * matrix.views} columns at a time"
    columns = matrix.columns * matrix.views
    return f"loss: {matrix.rows} x {columns} similarities, computed {how}"


def block_on_mesh(matrix: Matrix) -> int:
    """`block_size` on the mesh in use."""
    return block_size(matrix, mesh_size())


def shared_maximum(low: float, high: float) -> float | None:
    """An upper bound to subtract in every log-sum-exp, instead of each row's maximum.

    Args:
      low, high: the range of the log-similarities.

    Returns:
      `high`, or None if exp(low - high) could underflow in float32.
    """
    return high if high - low <= REACH else None
