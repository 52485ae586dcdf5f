"""The mirror image of a vision transformer, for autoencoders.

| encoder | decoder |
|---|---|
| class token, alone | h as the token of every patch, plus a code of its position |
| blocks | as many blocks, with as many heads |
| projection of a patch's pixels | projection to a patch's pixels |
| `(x - mean) / std` of the pixels | `std x + mean` |

As MAE's decoder (He et al. 2022, arXiv:2111.06377) it has fixed positions; unlike it,
it gets no patch tokens of the encoder, only h, which is what is kept and evaluated.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.positions import at_positions
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.models.transformer import INITIALIZERS, Block, Dense, layer_norm


class ViTDecoder(nn.Module):
    """h [N, F] -> pictures [N, S, S, 3] float32, around [0, 1] but not clipped.

    Attributes:
      size: S, a multiple of the patch's side.
      others: as those of the encoder, `vit.ViT`.
    """

    size: int
    depth: int
    heads: int
    patch_side: int
    initializer: str
    drop_path: float
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, h: jax.Array, train: bool, rows: Rows = WHOLE) -> jax.Array:
        """[N, F] -> [N, S, S, 3]."""
        initializers = INITIALIZERS[self.initializer]
        grid, side = self.size // self.patch_side, self.patch_side
        x = at_positions(h, grid, grid).astype(self.dtype)
        for i in range(self.depth):
            drop = self.drop_path * i / max(self.depth - 1, 1)
            x = Block(self.heads, initializers, drop, name=f"block{i}")(x, train, rows)
        x = layer_norm("norm", jnp.float32)(x)
        init = initializers.dense(h.shape[-1], 3 * side**2)
        x = Dense(3 * side**2, init, name="patch")(x)
        return joined_patches(x, side) * jnp.array(self.std) + jnp.array(self.mean)


def joined_patches(x: jax.Array, side: int) -> jax.Array:
    """[N, T, side * side * 3], square pictures' patches row by row -> [N, S, S, 3]."""
    n, count, _ = x.shape
    grid = math.isqrt(count)
    x = x.reshape(n, grid, grid, side, side, 3).swapaxes(2, 3)
    return x.reshape(n, grid * side, grid * side, 3)
