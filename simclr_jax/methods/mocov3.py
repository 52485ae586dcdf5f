"""MoCo v3 (Chen, Xie and He 2021, arXiv:2104.02057).

No queue: in large batches the keys of the same batch are enough negatives. The online
network has a predictor, the target is its momentum encoder, and each view is used once
as query and once as key.
"""

import math
from functools import partial
from typing import Any

import jax

from simclr_jax.losses.block_size import queries_matrix
from simclr_jax.losses.contrastive import cosine_by, ctr
from simclr_jax.losses.geometry import normalize
from simclr_jax.losses.negatives import shares_in_batch
from simclr_jax.methods.base import (
    Method,
    check_temperature,
    cosine_to_one,
    online_forward,
    pair,
    target_forward,
    target_init,
    with_head,
)
from simclr_jax.methods.health import Health, chance, collapse
from simclr_jax.models.heads import MLP, Layer, inner
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def mocov3(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    temperature: float = 1.0,  # of ResNet-50; ViTs have 0.2
    layers: int = 2,  # of the projector; ViTs have 3
    hidden: int = 4096,
    out: int = 256,
    predictor_norm: bool = False,  # whether the predictor ends in a batch norm (ViTs)
    ema: float = 0.99,  # at first (0.996 for 1000 epochs); grows to 1
    block: int = 0,  # keys compared at a time; 0: chosen by `block_size`
    total_steps: int,
) -> Method:
    """MoCo v3 with an encoder as `network.network` takes it.

    Raises:
      ValueError: temperature is not above 0, the projector has no layers or ema is not
        in [0, 1].
    """
    check_temperature(temperature)
    last = Layer(out, norm="plain")
    projector = MLP((*inner(Layer(hidden), layers), last))
    predictor = MLP((Layer(hidden), last if predictor_norm else Layer(out, norm="")))
    online = network(encoder, projector, predictor, options=options)
    target = network(encoder, projector, options=options)
    contrast = partial(ctr, temperature=temperature, block=block)

    def loss(params, state, batch, rng):
        views = pair(batch.views)
        y, state = online_forward(online, params, state, views, rng)
        t, state = target_forward(target, state, views, rng)
        q, k = y.heads["predictor"], jax.lax.stop_gradient(t.heads["projector"])
        loss = contrast(q[0], k[1]) + contrast(q[1], k[0])
        return loss, (state, with_head("key", k, y), {})

    def measure(y, state):
        q, k = normalize(y.heads["predictor"][0]), normalize(y.heads["key"][1])
        return shares_in_batch(q, k[None], cosine_by(temperature)[0])

    def signs(images):
        return (
            chance(4 * temperature * math.log(images)),
            collapse(
                "Check that the loss repels the other pictures of the batch "
                "(negatives), and that no gradient reaches the keys."
            ),
        )

    return Method(
        target_init(online),
        loss,
        online,
        ema=cosine_to_one(ema, total_steps),
        similarities=lambda n: queries_matrix(n, n, block),
        health=Health(measure, signs),
    )
