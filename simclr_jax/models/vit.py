"""Vision transformers as DINO and MoCo v3 train them.

Dosovitskiy et al. 2021 (arXiv:2010.11929), in the sizes of DeiT. DINO (Caron et al.
2021, arXiv:2104.14294) learns its positions, drops paths and resamples the positions
for its small crops; MoCo v3 (Chen et al. 2021, arXiv:2104.02057) keeps positions and
patch projection as they were at first, and has heads half as wide in the small one.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.models.norm import pixels
from simclr_jax.models.resnet import DTYPES, _check, _check_pixels

POSITIONS = ("learned", "sincos")
EPSILON = 1e-6  # of all layer norms
STD = 0.02


def uniform(bound: float) -> nn.initializers.Initializer:
    """Numbers between -bound and bound."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def xavier(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    return uniform(math.sqrt(6 / (fan_in + fan_out)))


def torch_default(fan_in: int, _: int) -> nn.initializers.Initializer:
    return uniform(1 / math.sqrt(fan_in))


class Start(NamedTuple):
    """How parameters begin; initialisers of (fan_in, fan_out). All other biases are 0.

    DINO truncates its normals at a hundred deviations, which is not at all.
    """

    dense: Callable
    patch: Callable
    patch_bias: Callable
    class_token: float  # standard deviation


STARTS = {
    "dino": Start(
        dense=lambda *_: nn.initializers.normal(STD),
        patch=torch_default,
        patch_bias=torch_default,
        class_token=STD,
    ),
    "moco_v3": Start(
        dense=xavier,
        patch=xavier,
        patch_bias=lambda *_: nn.initializers.zeros,
        class_token=1e-6,
    ),
}


# Positions.


def sincos(rows: int, columns: int, dim: int) -> np.ndarray:
    """Fixed positions of MoCo v3, [1 + rows * columns, dim] float32, row by row.

    The class token's are zeros. The others' first half tells the row and the second
    the column, each as dim / 4 sines and then cosines of it times 10000^(-4i / dim).

    They count patches, whatever the size of the picture. The released code knows only
    one size, 224; counting keeps the distance from patch to patch the same in all.
    """
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    angles = np.indices((rows, columns)).reshape(2, -1, 1) * frequencies
    grid = np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], -1)
    return np.pad(grid, ((1, 0), (0, 0))).astype(np.float32)


def bicubic(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] of DINO's resize, that of PyTorch with a = -0.75.

    The scale is (new + 0.1) / old, a remedy against rounding that moves the values too;
    released weights have seen their small crops so. No antialiasing; what lies beyond
    the border is the border.
    """
    a = -0.75
    source = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    matrix = np.zeros((new, old), np.float32)
    for tap in range(-1, 3):
        index = np.floor(source).astype(int) + tap
        x = np.abs(source - index)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        weight = np.where(x <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(index, 0, old - 1)), weight)
    return matrix


def resample(positions, rows: int, columns: int):
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


# Layers.


@jax.custom_vjp
def affine(x, kernel, bias):
    """[..., I] times [I, O] plus [O], in the type of x.

    The gradients of kernel and bias are accumulated, and summed over the devices, in
    their own type: Jax's own rule would do so in the type of x, bfloat16 where x is.
    """
    y = jnp.dot(x, kernel.astype(x.dtype), preferred_element_type=kernel.dtype)
    return (y + bias).astype(x.dtype)


def _affine_fwd(x, kernel, bias):
    return affine(x, kernel, bias), (x, kernel)


def _affine_bwd(saved, dy):
    x, kernel = saved
    rows = list(range(x.ndim - 1))
    dx = jnp.dot(dy, kernel.T.astype(dy.dtype))
    dk = jnp.tensordot(x, dy, (rows, rows), preferred_element_type=kernel.dtype)
    return dx, dk, jnp.sum(dy, rows, dtype=kernel.dtype)


affine.defvjp(_affine_fwd, _affine_bwd)


class Dense(nn.Module):
    """[..., I] -> [..., O]; float32 parameters, computes in the type of x."""

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        return affine(x, kernel, bias)


class Patches(nn.Module):
    """The patch projection, [N, H, W, 3] -> [N, T, D], patches row by row.

    frozen: no gradient reaches it, which MoCo v3 found to steady the training.
    """

    dim: int
    side: int
    start: Start
    frozen: bool

    @nn.compact
    def __call__(self, x):
        side, (n, height, width, channels) = self.side, x.shape
        fans = side * side * channels, self.dim
        shape = (side, side, channels, self.dim)
        kernel = self.param("kernel", self.start.patch(*fans), shape)
        bias = self.param("bias", self.start.patch_bias(*fans), shape[3:])
        if self.frozen:
            kernel, bias = jax.lax.stop_gradient((kernel, bias))
        # As a product of matrices, not a convolution: pixels side by side stay so.
        x = x.reshape(n, height // side, side, width // side, side * channels)
        x = x.swapaxes(2, 3).reshape(n, -1, fans[0])
        return affine(x, kernel.reshape(fans), bias)


class Attention(nn.Module):
    """Multi-head self-attention, [N, T, D] -> [N, T, D]; softmax in float32.

    Sows its weights [N, heads, T, T], which costs nothing where nobody asks for them.
    """

    heads: int
    start: Start

    @nn.compact
    def __call__(self, x):
        n, tokens, dim = x.shape
        init = self.start.dense(dim, dim)  # q, k and v are a matrix each
        qkv = Dense(3 * dim, init, name="qkv")(x)
        qkv = qkv.reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores / math.sqrt(dim // self.heads))
        self.sow("intermediates", "weights", weights)
        y = jnp.einsum("nhqk,nkhd->nqhd", weights.astype(x.dtype), v)
        return Dense(dim, init, name="out")(y.reshape(x.shape))


class MLP(nn.Module):
    """[N, T, D] -> [N, T, D] by way of 4 D; the exact GELU, as PyTorch's."""

    start: Start

    @nn.compact
    def __call__(self, x):
        dim, hidden = x.shape[-1], 4 * x.shape[-1]
        x = Dense(hidden, self.start.dense(dim, hidden), name="dense1")(x)
        x = nn.gelu(x, approximate=False)
        return Dense(dim, self.start.dense(hidden, dim), name="dense2")(x)


class Block(nn.Module):
    """A pre-norm block, [N, T, D] -> [N, T, D].

    drop: how often each of its two branches is left out, by image. Only in training,
      and only where there is a "dropout" stream: a teacher without one drops nothing.
    """

    heads: int
    start: Start
    drop: float

    @nn.compact
    def __call__(self, x, train: bool):
        y = layer_norm("norm1", x.dtype)(x)
        x = x + self._dropped(
            Attention(self.heads, self.start, name="attention")(y), train
        )
        y = layer_norm("norm2", x.dtype)(x)
        return x + self._dropped(MLP(self.start, name="mlp")(y), train)

    def _dropped(self, y, train):
        """Stochastic depth, Huang et al. 2016: scaling what stays keeps the mean."""
        if not (train and self.drop and self.has_rng("dropout")):
            return y
        keep = 1 - self.drop
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (len(y), 1, 1))
        return jnp.where(kept, y / keep, 0)


def layer_norm(name: str, dtype) -> nn.LayerNorm:
    """Over the channels; all inside is float32, dtype is the output's."""
    return nn.LayerNorm(EPSILON, dtype, use_fast_variance=False, name=name)


class ViT(nn.Module):
    """[N, H, W, 3] uint8 or float in [0, 1] -> h [N, F] float32: the class token.

    Build it by a factory, which checks the words. F is `dim`. In bfloat16 the
    parameters, their gradients, norms, softmax and h stay float32.

    Learned positions have the grid of the (square) pictures that the network was
    initialised with, and are resampled for any other; see `bicubic`. Sides must be
    multiples of the patch's.
    """

    dim: int
    depth: int
    heads: int
    patch_side: int
    position_kind: str
    start: str
    frozen_patch: bool
    drop_path: float
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, x, train: bool):
        x = pixels(x, self.mean, self.std, self.dtype)
        rows, columns = self._grid(x)
        start = STARTS[self.start]
        x = Patches(self.dim, self.patch_side, start, self.frozen_patch, name="patch")(
            x
        )
        token_init = nn.initializers.normal(start.class_token)
        token = self.param("class_token", token_init, (1, 1, self.dim))
        token = jnp.broadcast_to(token, (len(x), 1, self.dim))
        # In float32, and so the gradients of both: they are sums over the images.
        x = jnp.concatenate([token, x.astype(jnp.float32)], axis=1)
        x = (x + self._positions(rows, columns)).astype(self.dtype)
        for i in range(self.depth):
            drop = self.drop_path * i / max(self.depth - 1, 1)
            x = Block(self.heads, start, drop, name=f"block{i}")(x, train)
        return layer_norm("norm", jnp.float32)(x[:, 0])

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
            # Not by self.param, which would want the shape that these pictures have.
            positions = self.get_variable("params", "positions")
            return resample(positions, rows, columns)
        if rows != columns:
            raise ValueError(
                "Learned positions start on a square grid; these pictures have "
                f"{rows}x{columns} patches. Initialise with square pictures."
            )
        shape = (1, 1 + rows * columns, self.dim)
        return self.param("positions", nn.initializers.normal(STD), shape)


@partial(jax.jit, static_argnums=0)
def attention(encoder: ViT, params, images):
    """What the tokens of the last block look at, in evaluation mode.

    Args:
      params: of the encoder alone.
      images: [N, H, W, 3] as the encoder takes them.

    Returns:
      [N, heads, 1 + T, 1 + T] float32, rows sum to one. Row 0 is the class token's;
      its columns from 1 on are the patches, row by row.
    """
    _, seen = encoder.apply(
        {"params": params}, images, train=False, mutable=["intermediates"]
    )
    return seen["intermediates"][f"block{encoder.depth - 1}"]["attention"]["weights"][0]


def vit(
    dim: int,
    depth: int,
    usual_heads: int,
    *,
    patch: int = 16,
    heads: int = 0,
    positions: str = "learned",
    start: str = "dino",
    frozen_patch: bool = False,
    drop_path: float = 0.0,
    dtype: str = "float32",
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> ViT:
    """A vision transformer; the positional arguments are those of its size.

    Args:
      patch: pixels on a side of a patch; 16 or 8 as published.
      heads: of attention; 0 is as many as DINO has. MoCo v3's vit_s has 12.
      positions: "learned" (DINO) or "sincos" (MoCo v3, no parameter).
      start: "dino" or "moco_v3", whose parameters begin otherwise; see STARTS.
      frozen_patch: whether the patch projection stays as it began (MoCo v3). Weight
        decay does not know of it: the optimiser needs a rule of its own.
      drop_path: stochastic depth of the last block, growing from 0 at the first; DINO's
        student has 0.1.
      dtype: of activations and products, "float32" or "bfloat16".
      mean, std: of the pixels in [0, 1], per channel.

    Raises:
      ValueError: a word or number is not among the above, or heads do not divide dim.
    """
    _check("positions", positions, POSITIONS)
    _check("start", start, tuple(STARTS))
    _check("dtype", dtype, DTYPES)
    _check_pixels(mean, std)
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
        start,
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
