"""Pooling of pictures [N, H, W, C]."""

import flax.linen as nn
import jax


def average_pool(x: jax.Array, stride: int) -> jax.Array:
    """2x2 means; at stride 1 the means of the last row and column have fewer pixels."""
    if stride == 1:
        return nn.avg_pool(x, (2, 2), padding="SAME", count_include_pad=False)
    return nn.avg_pool(x, (2, 2), (stride, stride), padding=[(0, 1)] * 2)


def max_pool(x: jax.Array, padding: str) -> jax.Array:
    """3x3 maxima at stride 2, padded as in TensorFlow ("same") or PyTorch ("torch")."""
    return nn.max_pool(x, (3, 3), (2, 2), "SAME" if padding == "same" else [(1, 1)] * 2)
