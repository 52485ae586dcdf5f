"""The residual block of ResNets and of their decoders (He et al. 2015, 2018)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.pooling import average_pool
from simclr_jax.models.rows import WHOLE, Rows

BLOCKS = {  # depth: blocks in each of the four groups
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK = 50  # from this depth on


class Block(nn.Module):
    """A residual block, [N, H, W, *] -> [N, H / stride, W / stride, *].

    Where the last scale of its branch is initialised to zero, the block initially is
    ReLU(shortcut).
    """

    filters: int
    stride: int
    project: bool  # the shortcut changes width or size: the first block of a group
    bottleneck: bool
    sk_ratio: float
    zero_init: bool  # of the last scale
    conv: Callable[..., Any]  # (filters, size, ...) -> module
    norm: Callable[..., Any]  # (name, ...) -> module

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: Rows = WHOLE) -> jax.Array:
        init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        norm = partial(self.norm, scale_init=init)
        out = self.filters * (4 if self.bottleneck else 1)
        shortcut = self._shortcut(x, out, train, rows) if self.project else x
        if self.bottleneck:
            x = self.conv(self.filters, 1, name="conv1")(x)
            x = self.norm(name="bn1", relu=True)(x, train, rows)
            x = self._middle(x, train, rows)
            x = norm(name="bn3")(self.conv(out, 1, name="conv3")(x), train, rows)
        else:
            x = self.conv(self.filters, 3, self.stride, name="conv1")(x)
            x = self.norm(name="bn1", relu=True)(x, train, rows)
            x = norm(name="bn2")(self.conv(out, 3, name="conv2")(x), train, rows)
        return nn.relu(x + shortcut)

    def _shortcut(self, x, out, train, rows):
        stride = self.stride
        if self.sk_ratio:  # ResNet-D: averages pixels instead of taking every other one
            x, stride = average_pool(x, self.stride), 1
        x = self.conv(out, 1, stride, name="shortcut_conv")(x)
        return self.norm(name="shortcut_bn")(x, train, rows)

    def _middle(self, x, train, rows):
        """The 3x3 convolution of a bottleneck, with the stride of the block."""
        streams = 2 if self.sk_ratio else 1
        x = self.conv(streams * self.filters, 3, self.stride, name="conv2")(x)
        x = self.norm(name="bn2", relu=True)(x, train, rows)
        return self._select(x, train, rows) if self.sk_ratio else x

    def _select(self, x, train, rows):
        """Selective kernel: mixes two streams, per image and channel, by a softmax."""
        x = x.reshape(*x.shape[:-1], 2, self.filters)
        y = jnp.mean(x.sum(-2), (1, 2), keepdims=True, dtype=jnp.float32)
        y = y.astype(x.dtype)
        squeezed = max(int(self.filters * self.sk_ratio), 32)
        y = self.conv(squeezed, 1, name="squeeze_conv")(y)
        y = self.norm(name="squeeze_bn", relu=True)(y, train, rows)
        y = self.conv(2 * self.filters, 1, name="excite_conv")(y)
        y = nn.softmax(y.reshape(*y.shape[:-1], 2, self.filters), axis=-2)
        return (x * y).sum(-2)
