"""Features of a frozen network by name: those of its method, and any of its layers.

| name | feature |
|---|---|
| `h`, `z`, ... | those of the method, see `base.Features` |
| `head1`, `head2`, ... | layers of the projection head before its last |
| `cls` | a ViT's class token, after the last layer norm: h |
| `cls2`, `cls3`, ... | class tokens of so many last blocks, the oldest first |
| `patch` | the mean of the patches' tokens of the last block |
| `cls_patch` | `cls` and `patch`, interleaved as in DINO's released code |

Layers are taken after their ReLU or GELU, tokens of every block after the last layer
norm. DINO's linear evaluation has `cls4` of
ViT-S and `cls_patch` of ViT-B (arXiv:2104.14294, appendix F). Nothing of this is
computed in training.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.methods.base import Features, Method
from simclr_jax.models.network import Encode, Network, Outputs


def layer_names(network: Network) -> tuple[str, ...]:
    """The names of the features that the network has beside those of its method."""
    heads = tuple(f"head{i}" for i in range(1, network.head_layers))
    if not network.blocks:
        return heads
    several = tuple(f"cls{n}" for n in range(2, network.blocks + 1))
    return (*heads, "cls", "patch", "cls_patch", *several)


@dataclasses.dataclass(frozen=True)
class EncodeLayers:
    """`Network.encode` with layers; equal for equal fields, so it is compiled once."""

    encode: Encode
    token_blocks: tuple[int, ...]
    head_layers: tuple[int, ...]

    def __call__(self, params: Any, stats: Any, images: Any) -> Outputs:
        """The outputs of images [N, H, W, 3], with the layers."""
        return self.encode(params, stats, images, self.token_blocks, self.head_layers)


@dataclasses.dataclass(frozen=True)
class LayerFeatures:
    """Outputs -> {name: [V, N, D]} of some names; equal for equal fields."""

    names: tuple[str, ...]
    of_method: Features
    blocks: int

    def __call__(self, outputs: Outputs) -> dict[str, jax.Array]:
        """The features of the outputs of `EncodeLayers`."""
        values = self.of_method(outputs)
        return {
            name: values[name] if name in values else self._layer(name, outputs)
            for name in self.names
        }

    def _layer(self, name: str, outputs: Outputs) -> jax.Array:
        if name.startswith("head"):
            return outputs.heads[f"projector{name.removeprefix('head')}"]
        tokens = [outputs.tokens[i] for i in token_blocks(name, self.blocks)]
        if name == "patch":
            return jnp.mean(tokens[-1].patches, 2)
        if name == "cls_patch":
            patch = jnp.mean(tokens[-1].patches, 2)
            pairs = jnp.stack([tokens[-1].class_token, patch], -1)
            return pairs.reshape(*pairs.shape[:2], -1)
        return jnp.concatenate([x.class_token for x in tokens], -1)


def is_token(name: str) -> bool:
    """Whether a feature is made of a ViT's tokens, before any head."""
    return name.startswith(("cls", "patch"))


def token_blocks(name: str, blocks: int) -> tuple[int, ...]:
    """The blocks, counted from 0, whose tokens the feature is made of."""
    if not is_token(name):
        return ()
    digits = name.removeprefix("cls")
    count = int(digits) if digits.isdecimal() else 1
    return tuple(range(blocks - count, blocks))


def select(method: Method, names: Sequence[str]) -> tuple[EncodeLayers, LayerFeatures]:
    """Functions for `FrozenEncoder` that compute these features in one pass.

    Args:
      method: whose network is evaluated.
      names: of its features, or of `layer_names`.
    """
    network = method.network
    layers = [name for name in names if name in layer_names(network)]
    blocks = {i for name in layers for i in token_blocks(name, network.blocks)}
    heads = [int(name.removeprefix("head")) for name in layers if name[0] == "h"]
    encode = EncodeLayers(network.encode, tuple(sorted(blocks)), tuple(sorted(heads)))
    return encode, LayerFeatures(tuple(names), method.features, network.blocks)
