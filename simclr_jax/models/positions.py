"""Position embeddings of patches, and their resampling for other picture sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def sincos(rows: int, columns: int, dim: int) -> np.ndarray:
    """Fixed positions of MoCo v3, [1 + rows * columns, dim] float32, row by row.

    The class token's position is zero. In those of the patches, the first half of the
    channels encodes the row and the second half the column, each by dim / 4 sines and
    then dim / 4 cosines of the row or column times 10000^(-4i / dim).

    Rows and columns are counted in patches for every size of picture, so that the
    distance between neighbours is always the same; the released code only has size 224.
    """
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    angles = np.indices((rows, columns)).reshape(2, -1, 1) * frequencies
    grid = np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], -1)
    return np.pad(grid, ((1, 0), (0, 0))).astype(np.float32)


def at_positions(h: jax.Array, rows: int, columns: int) -> jax.Array:
    """h [N, F] at every position of a grid, plus its code: [N, rows * columns, F]."""
    codes = sincos(rows, columns, h.shape[-1])[1:]
    return h[:, None] + jnp.asarray(codes)[None]


def bicubic(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] of DINO's bicubic resize: PyTorch's, with a = -0.75.

    The scale is (new + 0.1) / old, as in the released code, where it avoids a rounding
    error; released weights were trained with it. No antialiasing; the border is
    repeated.
    """
    a = -0.75
    source = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    matrix = np.zeros((new, old), np.float32)
    for tap in range(-1, 3):
        index = np.floor(source).astype(int) + tap
        x = np.abs(source - index)
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = a * (((x - 5) * x + 8) * x - 4)
        weight = np.where(x <= 1, inner, outer)
        np.add.at(matrix, (np.arange(new), np.clip(index, 0, old - 1)), weight)
    return matrix


def resample(positions: jax.Array, rows: int, columns: int) -> jax.Array:
    """Positions of a square grid, [1, 1 + G * G, D], for another: [1, 1 + T, D]."""
    side = math.isqrt(positions.shape[1] - 1)
    if rows == columns == side:
        return positions
    grid = positions[0, 1:].reshape(side, side, -1)
    grid = jnp.einsum(
        "ri,cj,ijd->rcd",
        bicubic(side, rows),
        bicubic(side, columns),
        grid,
        precision="highest",
    )
    grid = grid.reshape(1, rows * columns, -1)
    return jnp.concatenate([positions[:, :1], grid], axis=1)
