"""SimSiam (Chen and He 2021, arXiv:2011.10566).

One view's prediction is compared with the other view's projection, through which no
gradient flows. No negatives, no second network, no queue.
"""

from typing import Any

import jax

from simclr_jax.losses.regression import cosine
from simclr_jax.methods.base import Method, online_forward, pair, plain_init
from simclr_jax.methods.health import Health, collapse
from simclr_jax.models.heads import MLP, Layer, inner
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def simsiam(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    layers: int = 3,  # of the projector; 2 on CIFAR-10
    out: int = 2048,
    bottleneck: int = 512,  # of the predictor
) -> Method:
    """SimSiam with an encoder as `network.network` takes it.

    Raises:
      ValueError: the projector has no layers.
    """
    # The released code's last Dense has a bias too, frozen; its batch norm cancels it.
    projector = MLP((*inner(Layer(out), layers), Layer(out, norm="plain")))
    predictor = MLP((Layer(bottleneck), Layer(out, bias=True, norm="")))
    net = network(encoder, projector, predictor, options=options)

    def loss(params, state, batch, rng):
        y, state = online_forward(net, params, state, pair(batch.views), rng)
        p, z = y.heads["predictor"], jax.lax.stop_gradient(y.heads["projector"])
        loss = -(cosine(p[0], z[1]) + cosine(p[1], z[0])) / 2
        return loss, (state, y, {})

    remedy = (
        "Check that no gradient flows through the projection (stop_gradient), and that "
        "there is a predictor; the loss, {loss:.3f}, is -1 in the end."
    )
    return Method(
        plain_init(net),
        loss,
        net,
        health=Health(signs=lambda images: (collapse(remedy, loss=(-1, -0.6)),)),
    )
