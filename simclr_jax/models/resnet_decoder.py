"""The mirror image of a ResNet, for autoencoders.

| encoder | decoder |
|---|---|
| mean over the last feature map | h at all its positions, plus a code of each |
| group of blocks, narrow to wide | the same number of blocks, wide to narrow |
| stride of 2 | every pixel four times, before the narrowing block |
| stem: convolution from 3 channels | convolution of the same size to 3 channels |
| `(x - mean) / std` of the pixels | `std x + mean` |

h is repeated as in the spatial broadcast decoder (Watters et al. 2019,
arXiv:1901.07017), with the fixed code of `positions.sincos`: a Dense layer to the whole
map instead would have 200 million weights for ResNet-50 at 224 pixels. Pixels are
repeated and then convolved, as transposed convolutions would leave a grid in the
pictures (Odena et al. 2016). Selective kernels are not mirrored: the blocks are plain.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.convolution import Conv
from simclr_jax.models.norm import BatchNorm, group_count
from simclr_jax.models.positions import at_positions
from simclr_jax.models.residual import BLOCKS, BOTTLENECK, Block
from simclr_jax.models.rows import WHOLE, Rows

STEM_STRIDES = {"imagenet": 2, "small": 1, "cifar": 0}  # strides of 2, with the pool's
STEM_SIZES = {"imagenet": 7, "small": 3, "cifar": 3}  # of the kernel


class ResNetDecoder(nn.Module):
    """h [N, F] -> pictures [N, S, S, 3] float32, around [0, 1] but not clipped.

    Attributes:
      size: S.
      others: as those of the encoder, `resnet.ResNet`.
    """

    size: int
    depth: int
    channels: int
    stem: str
    dtype: str
    bn_group: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    initializer: str
    zero_init: bool

    @nn.compact
    def __call__(self, h: jax.Array, train: bool, rows: Rows = WHOLE) -> jax.Array:
        """[N, F] -> [N, S, S, 3]."""
        groups = group_count(self.bn_group, len(h)) if train else 1
        make_block = partial(
            Block,
            stride=1,
            bottleneck=self.depth >= BOTTLENECK,
            sk_ratio=0.0,
            zero_init=self.zero_init,
            conv=partial(Conv, initializer=self.initializer),
            norm=partial(BatchNorm, groups=groups, dtype=self.dtype),
        )
        *before, last = self._sides()
        x = at_positions(h, last, last).reshape(len(h), last, last, -1)
        x = x.astype(self.dtype)
        for g in reversed(range(4)):
            blocks = BLOCKS[self.depth][g]
            for b in range(blocks):
                narrows = b == blocks - 1 and g > 0
                if narrows:
                    x = repeat_pixels(x, before.pop())
                filters = self.channels * 2 ** (g - narrows)
                block = make_block(filters, project=narrows, name=f"layer{g + 1}_{b}")
                x = block(x, train, rows)
        while before:
            x = repeat_pixels(x, before.pop())
        x = Conv(3, STEM_SIZES[self.stem], initializer=self.initializer, name="conv")(x)
        x = x.astype(jnp.float32) + self.param("bias", nn.initializers.zeros, (3,))
        return x * jnp.array(self.std) + jnp.array(self.mean)

    def _sides(self) -> list[int]:
        """Sides of the encoder's maps: of the picture, after each stride of 2."""
        sides = [self.size]
        for _ in range(STEM_STRIDES[self.stem] + 3):
            sides.append(-(-sides[-1] // 2))
        return sides


def repeat_pixels(x: jax.Array, side: int) -> jax.Array:
    """[N, H, W, C] -> [N, side, side, C]: every pixel twice along both sides, cut.

    The mirror image of a stride of 2, which makes ceil(side / 2) pixels.
    """
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)[:, :side, :side]
