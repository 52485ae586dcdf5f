"""BYOL (Grill et al. 2020, arXiv:2006.07733).

The online network predicts the target network's projection of the other view; the
target follows by EMA. There are no negatives; predictor and EMA prevent collapse.
"""

from typing import Any

import jax

from simclr_jax.losses.regression import regression
from simclr_jax.methods.base import (
    Method,
    cosine_to_one,
    online_forward,
    pair,
    target_forward,
    target_init,
)
from simclr_jax.methods.health import Health, collapse
from simclr_jax.models.heads import MLP, Layer
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def byol(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    hidden: int = 4096,
    out: int = 256,
    bias: bool = False,  # of the heads' last layers; True in lightly and solo-learn
    ema: float = 0.996,  # tau_base for 1000 epochs (0.99 for 100 and 300); grows to 1
    total_steps: int,
) -> Method:
    """BYOL with an encoder as `network.network` takes it.

    Raises:
      ValueError: ema is not in [0, 1].
    """
    layers = (Layer(hidden, bias=True), Layer(out, bias=bias, norm=""))
    head = MLP(layers, "haiku")
    online = network(encoder, head, MLP(layers, "haiku"), options=options)
    target = network(encoder, head, options=options)

    def loss(params, state, batch, rng):
        views = pair(batch.views)
        y, state = online_forward(online, params, state, views, rng)
        t, state = target_forward(target, state, views, rng)
        q, z = y.heads["predictor"], jax.lax.stop_gradient(t.heads["projector"])
        loss = regression(q[0], z[1]) + regression(q[1], z[0])  # eq. 2, both ways
        return loss, (state, y, {})

    remedy = (
        "Check that no gradient reaches the target (stop_gradient), and that it is an "
        "EMA of the online network: method.ema close to 1."
    )
    return Method(
        target_init(online),
        loss,
        online,
        ema=cosine_to_one(ema, total_steps),
        health=Health(signs=lambda images: (collapse(remedy, loss=(0, 2)),)),
    )
