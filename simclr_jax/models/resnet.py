"""ResNets as SimCLR trains them: v1.5, wide, with the selective kernels of v2.

He et al. 2015; He et al. 2018 (ResNet-D); Li et al. 2019 (SK). The defaults are the
released SimCLR code's; others differ in details that matter for their checkpoints:

| | SimCLR | torchvision (MoCo, SimSiam, DINO) | Haiku (BYOL) |
|---|---|---|---|
| `padding` of strided convolutions | even | even | same |
| `pool_padding`, the max-pool's padding | same | torch | same |
| `initializer` of the kernels | lecun | he | haiku |
| `shortcut` with a projection (matters in ResNet-18, 34) | always | needed | always |
| `zero_init` last scales | yes | no (MoCo v3, SimSiam: yes) | yes |
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.checks import DTYPES, check_pixels, one_of
from simclr_jax.models.convolution import INITIALIZERS, Conv
from simclr_jax.models.norm import BatchNorm, group_count, pixels
from simclr_jax.models.pooling import max_pool
from simclr_jax.models.residual import BLOCKS, BOTTLENECK, Block
from simclr_jax.models.resnet_decoder import ResNetDecoder
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.models.spatial import Spatial

STEMS = ("imagenet", "cifar", "small")
POOL_PADDINGS = ("same", "torch")
PADDINGS = ("even", "same")
SHORTCUTS = ("always", "needed")


class ResNet(nn.Module):
    """[N, H, W, 3] uint8 or float in [0, 1] -> h [N, F] float32.

    Built by a factory, which checks the arguments. F is 8 times `channels`, with
    bottlenecks 32 times. The published SimCLR networks are float32 throughout; in
    bfloat16 the parameters, all statistics and h stay float32.
    """

    depth: int
    channels: int  # of the first group
    sk_ratio: float
    stem: str
    pool_padding: str
    dtype: str
    bn_group: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: str = "even"
    initializer: str = "lecun"
    shortcut: str = "always"
    zero_init: bool = True

    @property
    def width(self) -> int:
        """F, the width of h."""
        return self.channels * (32 if self.depth >= BOTTLENECK else 8)

    @nn.nowrap
    def decoder(self, size: int) -> ResNetDecoder:
        """The mirror image of the network, h [N, F] -> pictures [N, size, size, 3]."""
        return ResNetDecoder(
            size,
            self.depth,
            self.channels,
            self.stem,
            self.dtype,
            self.bn_group,
            self.mean,
            self.std,
            self.initializer,
            self.zero_init,
        )

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, rows: Rows = WHOLE, spatial: bool = False
    ):
        """[N, H, W, 3] -> h [N, F] float32; if spatial (h, Spatial)."""
        groups = group_count(self.bn_group, len(x)) if train else 1
        norm = partial(BatchNorm, groups=groups, dtype=self.dtype)
        conv = partial(Conv, padding=self.padding, initializer=self.initializer)
        x = pixels(x, self.mean, self.std, self.dtype)
        x = self._stem(x, conv, norm, train, rows)
        for g, blocks in enumerate(BLOCKS[self.depth]):
            for b in range(blocks):
                x = Block(
                    self.channels * 2**g,
                    stride=2 if g > 0 and b == 0 else 1,
                    project=b == 0 and (g > 0 or self._projects_first()),
                    bottleneck=self.depth >= BOTTLENECK,
                    sk_ratio=self.sk_ratio,
                    zero_init=self.zero_init,
                    conv=conv,
                    norm=norm,
                    name=f"layer{g + 1}_{b}",
                )(x, train, rows)
        h = jnp.mean(x, (1, 2), dtype=jnp.float32)
        return (h, Spatial(x.astype(jnp.float32))) if spatial else h

    def _projects_first(self) -> bool:
        """Whether the first group's shortcut is a projection; bottlenecks need one."""
        return self.shortcut == "always" or self.depth >= BOTTLENECK

    def _stem(self, x, conv, norm, train, rows):
        width, large = self.channels, self.stem == "imagenet"
        if large and self.sk_ratio:  # ResNet-D: three small kernels for one of 7x7
            convs = [(width // 2, 3, 2), (width // 2, 3, 1), (width, 3, 1)]
        elif large:
            convs = [(width, 7, 2)]
        else:
            convs = [(width, 3, 2 if self.stem == "small" else 1)]
        for i, (features, size, stride) in enumerate(convs, start=1):
            x = conv(features, size, stride, name=f"conv{i}")(x)
            x = norm(name=f"bn{i}", relu=True)(x, train, rows)
        return max_pool(x, self.pool_padding) if large else x


def resnet(
    depth: int,
    *,
    width: int = 1,
    sk_ratio: float = 0.0,
    stem: str = "imagenet",
    pool_padding: str = "same",
    padding: str = "even",
    initializer: str = "lecun",
    shortcut: str = "always",
    zero_init: bool = True,
    dtype: str = "float32",
    bn_group: int = 0,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> ResNet:
    """A ResNet of published depth.

    Args:
      depth: 18, 34 (basic blocks), 50, 101, 152 or 200 (bottlenecks).
      width: multiplies all channels; F = 512 or, with bottlenecks, 2048 times width.
      sk_ratio: 0.0625 for the selective kernels, stem and shortcuts of SimCLR v2; 0.0
        for none.
      stem: "imagenet" (7x7 at stride 2, max-pool), "cifar" (3x3), "small" (3x3 at
        stride 2).
      pool_padding: of the "imagenet" stem's max-pool: "same" (TensorFlow) or "torch".
      padding: of strided convolutions: "even" on both sides, or XLA's "same".
      initializer: of the kernels: "lecun", "he" (torchvision) or "haiku".
      shortcut: blocks with a projection: "always" the first of a group, or only where
        "needed", as width or size change (torchvision).
      zero_init: whether the last scale of each block is initialised to 0.
      dtype: of activations and products, "float32" or "bfloat16".
      bn_group: rows that share batch-norm statistics, 32 in MoCo v1 and v2; 0: all of
        a batch.
      mean, std: of the pixels in [0, 1], per channel; SimCLR does not normalise them.

    Raises:
      ValueError: a value is not among the above.
    """
    one_of("depth", depth, tuple(BLOCKS))
    one_of("stem", stem, STEMS)
    one_of("pool_padding", pool_padding, POOL_PADDINGS)
    one_of("padding", padding, PADDINGS)
    one_of("initializer", initializer, tuple(INITIALIZERS))
    one_of("shortcut", shortcut, SHORTCUTS)
    one_of("dtype", dtype, DTYPES)
    check_pixels(mean, std)
    if width < 1 or bn_group < 0 or sk_ratio < 0:
        raise ValueError(
            "width must be at least 1, bn_group and sk_ratio at least 0; got "
            f"width = {width}, bn_group = {bn_group}, sk_ratio = {sk_ratio}."
        )
    if sk_ratio and depth < BOTTLENECK:
        raise ValueError(
            f"Selective kernels (sk_ratio = {sk_ratio}) need bottlenecks, depth 50 or "
            f"more; ResNet-{depth} has basic blocks. Set sk_ratio = 0.0."
        )
    return ResNet(
        depth,
        64 * width,
        sk_ratio,
        stem,
        pool_padding,
        dtype,
        bn_group,
        mean,
        std,
        padding,
        initializer,
        shortcut,
        zero_init,
    )


def resnet10(
    *,
    channels: int = 16,
    stem: str = "imagenet",
    dtype: str = "float32",
    bn_group: int = 0,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> ResNet:
    """A ResNet for laptops: one basic block in each group, F = 8 * channels.

    The other arguments are those of `resnet`.
    """
    one_of("stem", stem, STEMS)
    one_of("dtype", dtype, DTYPES)
    check_pixels(mean, std)
    if channels < 1 or bn_group < 0:
        raise ValueError(
            "channels must be at least 1 and bn_group at least 0; got "
            f"channels = {channels}, bn_group = {bn_group}."
        )
    return ResNet(10, channels, 0.0, stem, "same", dtype, bn_group, mean, std)


resnet18 = partial(resnet, 18)
resnet34 = partial(resnet, 34)
resnet50 = partial(resnet, 50)
resnet101 = partial(resnet, 101)
resnet152 = partial(resnet, 152)
resnet200 = partial(resnet, 200)
