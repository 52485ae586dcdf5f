"""MoCo v3 (Chen, Xie and He 2021, arXiv:2104.02057).

The queue is gone: with large batches the keys of the same batch are negatives enough.
A predictor on the online side, a slowly following momentum encoder on the other, and
each view is query once and key once.
"""

from functools import partial

import jax

from simclr_jax.losses.contrastive import ctr
from simclr_jax.methods.base import (
    Method,
    check_temperature,
    cosine_to_one,
    pair,
    with_target,
)
from simclr_jax.models.heads import MLP, Layer, inner
from simclr_jax.models.network import network


def mocov3(
    encoder,
    *,
    temperature: float = 1.0,  # of ResNet-50; ViTs have 0.2
    layers: int = 2,  # of the projector; with ViTs 3
    hidden: int = 4096,
    out: int = 256,
    predictor_norm: bool = False,  # with ViTs a batch norm ends the predictor, too
    ema: float = 0.99,  # at first; it grows to 1. 0.996 for 1000 epochs
    block: int = 0,  # keys met at a time, 0: what does well
    total_steps: int,
) -> Method:
    check_temperature(temperature)
    last = Layer(out, norm="plain")
    projector = MLP((*inner(Layer(hidden), layers), last))
    predictor = MLP((Layer(hidden), last if predictor_norm else Layer(out, norm="")))
    online = network(encoder, projector, predictor)
    target = network(encoder, projector)
    contrast = partial(ctr, temperature=temperature, block=block)

    def loss(params, state, batch, rng):
        views, stats = pair(batch.views), state.model_state
        y, online_stats = online.apply(params, stats["online"], views, rng)
        t, target_stats = target.apply(state.target_params, stats["target"], views, rng)
        q, k = y.p, jax.lax.stop_gradient(t.z)
        loss = contrast(q[0], k[1]) + contrast(q[1], k[0])
        stats = {"online": online_stats, "target": target_stats}
        return loss, (state.replace(model_state=stats), y, {})

    return Method(
        with_target(online), loss, online, ema=cosine_to_one(ema, total_steps)
    )
