"""Heads on top of h."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.checks import one_of
from simclr_jax.models.norm import BatchNorm
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.models.transformer import uniform

NORMS = {"plain": (False, False), "scale": (True, False), "affine": (True, True)}


class Layer(NamedTuple):
    """A Dense and, unless `norm` is empty, a batch norm."""

    width: int  # 0: as wide as h
    bias: bool = False  # of the Dense
    norm: str = "affine"  # "plain", "scale", "affine": what the batch norm learns
    initializer: str = ""  # of the Dense, one of INITIALIZERS; "": the head's


class MLP(nn.Module):
    """h -> z or z -> p: layers with a ReLU after each but the last. All is float32.

    initializer: of the Dense layers, one of INITIALIZERS.

    Raises:
      ValueError: a negative width, or an unknown initializer.
    """

    layers: tuple[Layer, ...]
    initializer: str = "torch"

    def __post_init__(self):
        super().__post_init__()
        for layer in self.layers:
            if layer.width < 0:
                raise ValueError(
                    f"A layer is at least 1 wide (or 0: as wide as h), got {layer}."
                )
            name = layer.initializer or self.initializer
            one_of("initializer", name, tuple(INITIALIZERS))

    @property
    def layer_count(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @nn.compact
    def __call__(
        self, h: jax.Array, train: bool, rows: Rows = WHOLE, upto: int = -1
    ) -> jax.Array:
        """[N, F] -> [N, D], or the output of layer `upto`.

        upto: how many layers to run, for fine-tuning from the middle of the head: 0
          returns h, 1 the first layer's output after its ReLU, -1 the head's output.

        Raises:
          ValueError: the head does not have that many layers.
        """
        last = len(self.layers)
        if not -1 <= upto <= last:
            raise ValueError(
                f"upto = {upto}, but this head has {last} layers: 0 (h) to {last}, or "
                "-1 (the last)."
            )
        x = h.astype(jnp.float32)
        for i, layer in enumerate(self.layers[: None if upto < 0 else upto], start=1):
            initializer = INITIALIZERS[layer.initializer or self.initializer]
            kernel, bias = initializer(x.shape[-1])
            x = nn.Dense(
                layer.width or h.shape[-1],
                use_bias=layer.bias,
                kernel_init=kernel,
                bias_init=bias,
                name=f"dense{i}",
            )(x)
            if layer.norm:
                scale, bias = NORMS[layer.norm]
                norm = BatchNorm(use_scale=scale, use_bias=bias, name=f"bn{i}")
                x = norm(x, train, rows)
            x = nn.relu(x) if i < last else x
        return x


def _simclr(fan_in: int):
    """The released SimCLR code's: a normal of fixed deviation."""
    del fan_in
    return nn.initializers.normal(0.01), nn.initializers.zeros


def _torch(fan_in: int):
    """PyTorch's default: kernel and bias uniform within 1 / sqrt(fan_in)."""
    return (uniform(fan_in**-0.5),) * 2


def _haiku(fan_in: int):
    """Haiku's default: normal, deviation 1 / sqrt(fan_in), cut off at two of these."""
    return nn.initializers.truncated_normal(fan_in**-0.5), nn.initializers.zeros


def _normal(fan_in: int):
    """t-SimCNE's last layer of width 2: kernel N(0, 1), so that z is widely spread."""
    return nn.initializers.normal(1.0), _torch(fan_in)[1]


INITIALIZERS = {"simclr": _simclr, "torch": _torch, "haiku": _haiku, "normal": _normal}


def inner(layer: Layer, layers: int) -> tuple[Layer, ...]:
    """The layers of a head before the last one: layers - 1 times `layer`.

    Raises:
      ValueError: fewer than one layer in all.
    """
    if layers < 1:
        raise ValueError(f"A head has at least 1 layer; got layers = {layers}.")
    return (layer,) * (layers - 1)


def projector(*, layers: int = 2, hidden: int = 0, out: int = 128) -> MLP:
    """SimCLR's head g (v1 appendix B.9, v2 section 2.2): v1 has 2 layers, v2 has 3.

    Each has a batch norm; the last one scales but does not shift.

    Args:
      layers: the number of layers.
      hidden: width of all layers but the last; 0: as wide as h.
      out: D.

    Raises:
      ValueError: fewer than one layer, hidden below 0 or out below 1.
    """
    if hidden < 0 or out < 1:
        raise ValueError(
            "A projector needs out of at least 1, and hidden of at least 0 (as wide as "
            f"h); got hidden = {hidden}, out = {out}."
        )
    return MLP((*inner(Layer(hidden), layers), Layer(out, norm="scale")), "simclr")


class DistillationHead(nn.Module):
    """DINO's head up to the bottleneck (arXiv:2104.14294, appendix C): h -> z.

    Three Dense layers with bias, a GELU after the first two, and z on the unit sphere.
    The layer of prototypes that follows is in `methods/dino.py`. All is float32.

    hidden: width of the first two layers.
    out: D.
    batch_norm: between the first two layers and their GELUs (the released ResNet-50).
    """

    hidden: int
    out: int
    batch_norm: bool = False

    layer_count = 3

    @nn.compact
    def __call__(
        self, h: jax.Array, train: bool, rows: Rows = WHOLE, upto: int = -1
    ) -> jax.Array:
        """[N, F] -> [N, D] unit vectors.

        upto: -1, or the layer, counted from 1, whose output after its GELU is returned.
        """
        x = h.astype(jnp.float32)
        for i, width in enumerate((self.hidden, self.hidden, self.out), start=1):
            # The released code truncates at 100 deviations, which has no effect.
            init = nn.initializers.normal(0.02)
            x = nn.Dense(width, kernel_init=init, name=f"dense{i}")(x)
            if i == 3:
                break
            if self.batch_norm:
                x = BatchNorm(name=f"bn{i}")(x, train, rows)
            x = nn.gelu(x, approximate=False)
            if i == upto:
                return x
        length = jnp.sum(x * x, -1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.maximum(length, 1e-24))
