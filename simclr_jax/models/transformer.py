"""The transformer's layers, on tokens [N, T, D], and their initialisation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.rows import WHOLE, Rows

EPSILON = 1e-6  # of all layer norms
STD = 0.02


def uniform(bound: float) -> nn.initializers.Initializer:
    """Uniform between -bound and bound."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def xavier(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    """Glorot's uniform initialisation."""
    return uniform(math.sqrt(6 / (fan_in + fan_out)))


def torch_default(fan_in: int, _: int) -> nn.initializers.Initializer:
    """PyTorch's default for linear layers and convolutions."""
    return uniform(1 / math.sqrt(fan_in))


class Initializers(NamedTuple):
    """Initialisers by (fan_in, fan_out). All other biases are 0.

    DINO truncates its normals at 100 standard deviations, which has no effect and is
    left out.
    """

    dense: Callable
    patch: Callable
    patch_bias: Callable
    class_token: float  # standard deviation


INITIALIZERS = {
    "dino": Initializers(
        dense=lambda *_: nn.initializers.normal(STD),
        patch=torch_default,
        patch_bias=torch_default,
        class_token=STD,
    ),
    "moco_v3": Initializers(
        dense=xavier,
        patch=xavier,
        patch_bias=lambda *_: nn.initializers.zeros,
        class_token=1e-6,
    ),
}


@jax.custom_vjp
def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """[..., I] times [I, O] plus [O], in the dtype of x.

    The kernel's gradient is rounded to the dtype of x, as in `convolution.convolve`;
    the bias and its gradient are float32.
    """
    y = jnp.dot(x, kernel.astype(x.dtype), preferred_element_type=kernel.dtype)
    return (y + bias).astype(x.dtype)


def _affine_fwd(x, kernel, bias):
    return affine(x, kernel, bias), (x, kernel)


def _affine_bwd(saved, dy):
    x, kernel = saved
    rows = list(range(x.ndim - 1))
    dx = jnp.dot(dy, kernel.T.astype(dy.dtype))
    dk = jnp.tensordot(x, dy, (rows, rows)).astype(kernel.dtype)
    return dx, dk, jnp.sum(dy, rows, dtype=kernel.dtype)


affine.defvjp(_affine_fwd, _affine_bwd)


class Dense(nn.Module):
    """[..., I] -> [..., O]; float32 parameters, computes in the dtype of x."""

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        return affine(x, kernel, bias)


class Attention(nn.Module):
    """Multi-head self-attention, [N, T, D] -> [N, T, D]; softmax in float32."""

    heads: int
    initializers: Initializers

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the result and the weights [N, heads, T, T], float32."""
        n, tokens, dim = x.shape
        init = self.initializers.dense(dim, dim)  # q, k, v count as separate matrices
        qkv = Dense(3 * dim, init, name="qkv")(x)
        qkv = qkv.reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores / math.sqrt(dim // self.heads))
        y = jnp.einsum("nhqk,nkhd->nqhd", weights.astype(x.dtype), v)
        return Dense(dim, init, name="out")(y.reshape(x.shape)), weights


class FeedForward(nn.Module):
    """[N, T, D] -> [N, T, D] with 4 D hidden units and the exact GELU, as PyTorch's."""

    initializers: Initializers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim, hidden = x.shape[-1], 4 * x.shape[-1]
        x = Dense(hidden, self.initializers.dense(dim, hidden), name="dense1")(x)
        x = nn.gelu(x, approximate=False)
        return Dense(dim, self.initializers.dense(hidden, dim), name="dense2")(x)


class Block(nn.Module):
    """A pre-norm block, [N, T, D] -> [N, T, D].

    drop: the probability of dropping each of its two branches, per image, in training
      with a "dropout" stream of random numbers; without one (teacher) none is dropped.
    """

    heads: int
    initializers: Initializers
    drop: float

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        rows: Rows = WHOLE,
        with_attention: bool = False,
    ) -> Any:
        """Returns y; with_attention (y, the attention's weights [N, heads, T, T])."""
        attend = Attention(self.heads, self.initializers, name="attention")
        mlp = FeedForward(self.initializers, name="mlp")
        index = jnp.arange(x.shape[0]) if rows.index is None else rows.index
        y, weights = attend(layer_norm("norm1", x.dtype)(x))
        x = x + self._drop_path(y, index, train)
        y = mlp(layer_norm("norm2", x.dtype)(x))
        x = x + self._drop_path(y, index, train)
        return (x, weights) if with_attention else x

    def _drop_path(self, y, index, train):
        """Stochastic depth (arXiv:1603.09382); the scale 1 / keep preserves the mean.

        Each image has its own key, so that microbatches do not change the draws.
        """
        if not (train and self.drop and self.has_rng("dropout")):
            return y
        keep = 1 - self.drop
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep))(keys)
        return jnp.where(kept[:, None, None], y / keep, 0)


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
    """A layer norm over the channels in float32; `dtype` is that of the output."""
    return nn.LayerNorm(EPSILON, dtype, use_fast_variance=False, name=name)
