"""What an encoder computes at every position of a picture."""

from typing import NamedTuple

import jax


class Spatial(NamedTuple):
    """Features and attention on a grid of R rows and K columns; both float32."""

    # [N, R, K, C]: of a ViT the patches of the last block after the last layer norm, of
    # a ResNet its last feature map.
    features: jax.Array
    # [N, heads, R, K]: of a ViT the attention of the class token to the patches in the
    # last block; with that to itself, a head's weights sum to 1. None for a ResNet.
    attention: jax.Array | None = None
