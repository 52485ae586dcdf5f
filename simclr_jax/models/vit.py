"""Vision transformers as DINO and MoCo v3 train them.

Dosovitskiy et al. 2021 (arXiv:2010.11929), in the sizes of DeiT. DINO (Caron et al.
2021, arXiv:2104.14294) has learned positions, resampled for its small crops, and
stochastic depth; MoCo v3 (Chen et al. 2021, arXiv:2104.02057) has fixed positions, a
frozen patch projection, and in the small size heads half as wide.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.checks import DTYPES, check_pixels, one_of
from simclr_jax.models.norm import pixels
from simclr_jax.models.positions import resample, sincos
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.models.spatial import Spatial
from simclr_jax.models.transformer import (
    INITIALIZERS,
    STD,
    Block,
    Initializers,
    affine,
    layer_norm,
)
from simclr_jax.models.vit_decoder import ViTDecoder


class Tokens(NamedTuple):
    """The tokens of a block."""

    class_token: jax.Array  # [N, D]
    patches: jax.Array  # [N, T, D], row by row of the picture


POSITIONS = ("learned", "sincos")


class Patches(nn.Module):
    """The patch projection, [N, H, W, 3] -> [N, T, D], patches row by row.

    frozen: it gets no gradient, which stabilises the training of MoCo v3.
    """

    dim: int
    side: int
    initializers: Initializers
    frozen: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side, (n, height, width, channels) = self.side, x.shape
        fans = side * side * channels, self.dim
        shape = (side, side, channels, self.dim)
        kernel = self.param("kernel", self.initializers.patch(*fans), shape)
        bias = self.param("bias", self.initializers.patch_bias(*fans), shape[3:])
        if self.frozen:
            kernel, bias = jax.lax.stop_gradient((kernel, bias))
        # A matrix product instead of a convolution; contiguous pixels stay contiguous.
        x = x.reshape(n, height // side, side, width // side, side * channels)
        x = x.swapaxes(2, 3).reshape(n, -1, fans[0])
        return affine(x, kernel.reshape(fans), bias)


class ViT(nn.Module):
    """[N, H, W, 3] uint8 or float in [0, 1] -> h [N, F] float32: the class token.

    Built by a factory, which checks the arguments. F is `dim`. In bfloat16 the
    parameters, norms, softmax and h stay float32.

    Learned positions have the grid of the square pictures that the network was
    initialised with, and are resampled for any other; see `positions.bicubic`. The
    sides of pictures must be multiples of the patch's.
    """

    dim: int
    depth: int
    heads: int
    patch_side: int  # the names "patch" and "positions" are used for parameters
    position_kind: str
    initializer: str
    frozen_patch: bool
    drop_path: float
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def width(self) -> int:
        """F, the width of h."""
        return self.dim

    @property
    def blocks(self) -> int:
        """The number of blocks whose tokens may be requested."""
        return self.depth

    @nn.nowrap
    def decoder(self, size: int) -> ViTDecoder:
        """The mirror image of the network, h [N, F] -> pictures [N, size, size, 3]."""
        return ViTDecoder(
            size,
            self.depth,
            self.heads,
            self.patch_side,
            self.initializer,
            self.drop_path,
            self.dtype,
            self.mean,
            self.std,
        )

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        rows: Rows = WHOLE,
        token_blocks: tuple[int, ...] = (),
        spatial: bool = False,
    ):
        """[N, H, W, 3] -> h [N, F] float32.

        Args:
          token_blocks: blocks, counted from 0, whose tokens are returned too.
          spatial: whether the patches and the attention of the last block are returned,
            instead of any tokens.

        Returns:
          h; with token_blocks (h, {block: Tokens}), the blocks' outputs after the last
          layer norm, float32; if spatial (h, Spatial).

        Raises:
          ValueError: there is no such block.
        """
        if not all(0 <= i < self.depth for i in token_blocks):
            raise ValueError(
                f"token_blocks = {token_blocks}: this network has blocks 0 to "
                f"{self.depth - 1}."
            )
        x = pixels(x, self.mean, self.std, self.dtype)
        grid = self._grid(x)
        initializers = INITIALIZERS[self.initializer]
        embed = Patches(
            self.dim, self.patch_side, initializers, self.frozen_patch, name="patch"
        )
        x = embed(x)
        token_init = nn.initializers.normal(initializers.class_token)
        token = self.param("class_token", token_init, (1, 1, self.dim))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.dim))
        # In float32, because the gradients of token and positions sum over all images.
        x = jnp.concatenate([token, x.astype(jnp.float32)], axis=1)
        x = (x + self._positions(*grid)).astype(self.dtype)
        outputs, attention = {}, []
        for i in range(self.depth):
            drop = self.drop_path * i / max(self.depth - 1, 1)
            block = Block(self.heads, initializers, drop, name=f"block{i}")
            x, weights = block(x, train, rows, with_attention=True)
            attention.append(weights)
            if i in token_blocks:
                outputs[i] = x
        norm = layer_norm("norm", jnp.float32)
        h = norm(x[:, 0])
        if spatial:
            features = norm(x[:, 1:]).reshape(len(x), *grid, self.dim)
            seen = attention[-1][:, :, 0, 1:].reshape(len(x), -1, *grid)
            return h, Spatial(features, seen)
        if not token_blocks:
            return h
        normed = {i: norm(x) for i, x in outputs.items()}
        return h, {i: Tokens(x[:, 0], x[:, 1:]) for i, x in normed.items()}

    def _grid(self, x) -> tuple[int, int]:
        height, width = x.shape[1:3]
        side = self.patch_side
        if height % side or width % side:
            raise ValueError(
                f"Patches of {side}x{side} do not divide pictures of {height}x{width}: "
                f"sides must be multiples of {side}."
            )
        return height // side, width // side

    def _positions(self, rows, columns):
        """[1, 1 + T, D] float32."""
        if self.position_kind == "sincos":
            return jnp.asarray(sincos(rows, columns, self.dim))[None]
        if self.has_variable("params", "positions"):
            # Not by self.param, which would require the shape of these pictures.
            positions = self.get_variable("params", "positions")
            return resample(positions, rows, columns)
        if rows != columns:
            raise ValueError(
                "Learned positions are initialised on a square grid; these pictures "
                f"have {rows}x{columns} patches. Initialise with square pictures."
            )
        shape = (1, 1 + rows * columns, self.dim)
        return self.param("positions", nn.initializers.normal(STD), shape)


def vit(
    dim: int,
    depth: int,
    usual_heads: int,
    *,
    patch: int = 16,
    heads: int = 0,
    positions: str = "learned",
    initializer: str = "dino",
    frozen_patch: bool = False,
    drop_path: float = 0.0,
    dtype: str = "float32",
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> ViT:
    """A vision transformer; the positional arguments are those of its size.

    Args:
      patch: pixels on a side of a patch; 16 or 8 as published.
      heads: of attention; 0 is DINO's number. MoCo v3's vit_s has 12.
      positions: "learned" (DINO) or "sincos" (MoCo v3, no parameter).
      initializer: "dino" or "moco_v3", the initialisation; see INITIALIZERS.
      frozen_patch: whether the patch projection gets no gradient (MoCo v3). Weight
        decay still moves it: the optimiser needs a rule for it (optim.frozen).
      drop_path: stochastic depth of the last block, growing from 0 at the first; DINO's
        student has 0.1.
      dtype: of activations and products, "float32" or "bfloat16".
      mean, std: of the pixels in [0, 1], per channel.

    Raises:
      ValueError: a value is not among the above, or heads do not divide dim.
    """
    one_of("positions", positions, POSITIONS)
    one_of("initializer", initializer, tuple(INITIALIZERS))
    one_of("dtype", dtype, DTYPES)
    check_pixels(mean, std)
    if patch < 1 or heads < 0 or not 0 <= drop_path < 1:
        raise ValueError(
            "patch must be at least 1, heads at least 0 (the usual number) and "
            f"drop_path in [0, 1); got patch = {patch}, heads = {heads}, "
            f"drop_path = {drop_path}."
        )
    heads = heads or usual_heads
    if dim % heads:
        raise ValueError(f"heads = {heads} does not divide the width of {dim}.")
    return ViT(
        dim,
        depth,
        heads,
        patch,
        positions,
        initializer,
        frozen_patch,
        drop_path,
        dtype,
        mean,
        std,
    )


vit_mini = partial(vit, 128, 4, 4, patch=4)  # for laptops and pictures of 32x32
vit_ti = partial(vit, 192, 12, 3)
vit_s = partial(vit, 384, 12, 6)
vit_b = partial(vit, 768, 12, 12)
