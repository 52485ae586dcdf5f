"""The autoencoder, the baseline without contrast (Hinton & Salakhutdinov 2006).

h must hold what it takes to draw the view again, every pixel of it: the opposite of
what the other methods keep, which is what two views have in common. The decoder is the
encoder's mirror image, see `models/resnet_decoder.py` and `models/vit_decoder.py`.
"""

from typing import Any

import jax.numpy as jnp

from simclr_jax.losses.regression import squared_error
from simclr_jax.methods.base import Method, h_only, online_forward, plain_init
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network
from simclr_jax.models.norm import pixels


def autoencoder(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    size: int,
) -> Method:
    """Reconstruction of every view, the view itself being the target.

    The loss is the mean squared error of pixels in [0, 1]. There is no z.

    Args:
      encoder: as `network.network` takes it, with a method `decoder(size)`.
      size: S, the side of the views in pixels.

    Raises:
      ValueError: the encoder has no decoder, or a view another size.
    """
    if not hasattr(encoder, "decoder"):
        raise ValueError(
            "method.name=autoencoder needs an encoder with a method decoder(size), and "
            f"{type(encoder).__name__} has none."
        )
    net = network(encoder, encoder.decoder(size), options=options, joint=True)

    def loss(params, state, batch, rng):
        y, state = online_forward(net, params, state, batch.views, rng)
        target = jnp.stack([_in_unit_range(x, size) for x in batch.views])
        return squared_error(y.heads["projector"], target), (state, y, {})

    return Method(plain_init(net), loss, net, features=h_only)


def _in_unit_range(view, size):
    """[N, S, S, 3] uint8, or float in [0, 1], as float32 in [0, 1]."""
    if view.shape[1:3] != (size, size):
        raise ValueError(
            f"method.name=autoencoder reconstructs views of {size} x {size} pixels, "
            f"and augment.name makes one of {view.shape[1]} x {view.shape[2]}."
        )
    return pixels(view, (0.0,) * 3, (1.0,) * 3, "float32")
