"""BYOL (Grill et al. 2020, arXiv:2006.07733).

The online network predicts what a slowly following target network says of the other
view. There are no negatives; the predictor and the slow target keep the space open.
"""

import jax

from simclr_jax.losses.regression import regression
from simclr_jax.methods.base import Method, cosine_to_one, pair, with_target
from simclr_jax.models.heads import MLP, Layer
from simclr_jax.models.network import network


def byol(
    encoder,
    *,
    hidden: int = 4096,
    out: int = 256,
    bias: bool = False,  # of the heads' last layers, which lightly and solo-learn have
    ema: float = 0.996,  # tau_base for 1000 epochs; it grows to 1. 0.99 for 100 and 300
    total_steps: int,
) -> Method:
    layers = (Layer(hidden, bias=True), Layer(out, bias=bias, norm=""))
    online = network(encoder, MLP(layers, "haiku"), predictor=MLP(layers, "haiku"))
    target = network(encoder, MLP(layers, "haiku"))

    def loss(params, state, batch, rng):
        views, stats = pair(batch.views), state.model_state
        y, online_stats = online.apply(params, stats["online"], views, rng)
        t, target_stats = target.apply(state.target_params, stats["target"], views, rng)
        q, z = y.p, jax.lax.stop_gradient(t.z)
        loss = regression(q[0], z[1]) + regression(q[1], z[0])  # eq. 2, both ways
        stats = {"online": online_stats, "target": target_stats}
        return loss, (state.replace(model_state=stats), y, {})

    return Method(
        with_target(online), loss, online, ema=cosine_to_one(ema, total_steps)
    )
