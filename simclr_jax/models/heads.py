"""Heads on top of h."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.norm import BatchNorm


class MLP(nn.Module):
    """SimCLR's projection head g: h -> z (v1 appendix B.9, v2 section 2.2).

    Each layer is a Dense without bias and a batch norm; then, in hidden layers, a ReLU.
    The last batch norm scales but does not shift. All of it is float32.

    widths: of the layers, the last one's is D; 0 means as wide as h.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, h, train: bool, upto: int = -1):
        """[N, F] -> [N, D], or what comes out of layer `upto`.

        upto: how many layers to run, for fine-tuning from the middle of the head: 0
          returns h, 1 the first layer's output after its ReLU, -1 the head's output.

        Raises:
          ValueError: the head does not have that many layers.
        """
        if not -1 <= upto <= len(self.widths):
            raise ValueError(
                f"upto = {upto}, but this head has {len(self.widths)} layers: give 0 "
                f"(h) to {len(self.widths)} or -1 (both the output)."
            )
        x = h.astype(jnp.float32)
        last = len(self.widths)
        for i, width in enumerate(self.widths[: None if upto < 0 else upto], start=1):
            x = nn.Dense(
                width or h.shape[-1],
                use_bias=False,
                kernel_init=nn.initializers.normal(0.01),
                name=f"dense{i}",
            )(x)
            norm = BatchNorm(use_bias=i < last, name=f"bn{i}")
            x = norm(x, train)
            x = nn.relu(x) if i < last else x
        return x


def projector(*, layers: int = 2, hidden: int = 0, out: int = 128) -> MLP:
    """SimCLR's head: v1 has 2 layers, v2 has 3; hidden = 0 is as wide as h.

    Raises:
      ValueError: fewer than one layer, or a width that none can have.
    """
    if layers < 1 or hidden < 0 or out < 1:
        raise ValueError(
            "A projector needs layers and out of at least 1, and hidden of at least 0 "
            f"(as wide as h); got layers = {layers}, hidden = {hidden}, out = {out}."
        )
    return MLP((hidden,) * (layers - 1) + (out,))


class DistillationHead(nn.Module):
    """DINO's head up to the bottleneck (arXiv:2104.14294, appendix C): h -> z.

    Three Dense layers with bias, a GELU after the first two, and z on the unit sphere.
    The layer of prototypes that follows is the method's. All of it is float32.

    hidden: width of the first two layers.
    out: D.
    batch_norm: between the first two layers and their GELUs (the released ResNet-50).
    """

    hidden: int
    out: int
    batch_norm: bool = False

    @nn.compact
    def __call__(self, h, train: bool):
        """[N, F] -> [N, D] unit vectors."""
        x = h.astype(jnp.float32)
        for i, width in enumerate((self.hidden, self.hidden, self.out), start=1):
            # The released code cuts its normal off at 100 deviations, so not at all.
            init = nn.initializers.normal(0.02)
            x = nn.Dense(width, kernel_init=init, name=f"dense{i}")(x)
            if i == 3:
                break
            if self.batch_norm:
                x = BatchNorm(name=f"bn{i}")(x, train)
            x = nn.gelu(x, approximate=False)
        length = jnp.sum(x * x, -1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.maximum(length, 1e-24))
