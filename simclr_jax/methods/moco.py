"""MoCo (He et al. 2020, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297).

A query must retrieve its key, another view of the same image, among keys of other
images in a queue. The keys come from a momentum encoder, which changes so slowly that
keys of a few hundred batches ago remain comparable.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.losses.block_size import queries_matrix
from simclr_jax.losses.contrastive import cosine_by, enqueue, info_nce
from simclr_jax.losses.geometry import alignment, normalize
from simclr_jax.losses.negatives import shares_in_queue
from simclr_jax.methods.base import (
    Method,
    check_temperature,
    constant,
    online_forward,
    pair,
    target_forward,
    target_init,
    with_head,
)
from simclr_jax.methods.health import Health, chance
from simclr_jax.models.heads import MLP, Layer, inner
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def moco(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    temperature: float = 0.2,  # v2; v1 has 0.07
    layers: int = 2,  # of the head; v1 has 1
    hidden: int = 0,  # 0: as wide as h
    out: int = 128,
    queue: int = 65536,  # K, the number of keys
    ema: float = 0.999,  # m of the paper
    shuffle: bool = True,  # keys have other batch-norm groups than queries
    block: int = 0,  # keys compared at a time; 0: chosen by `block_size`
) -> Method:
    """MoCo v2 with an encoder as `network.network` takes it.

    Raises:
      ValueError: temperature is not above 0, the queue is empty, the head has no layers
        or ema is not in [0, 1].
    """
    check_temperature(temperature)
    if queue < 1:
        raise ValueError(f"queue is the number of keys, at least 1; got {queue}.")
    hidden_layers = inner(Layer(hidden, bias=True, norm=""), layers)
    head = MLP((*hidden_layers, Layer(out, bias=True, norm="")))
    net = network(encoder, head, options=options)

    def init(rng, views):
        keys = jax.random.normal(jax.random.fold_in(rng, 1), (queue, out))
        memory = {"queue": normalize(keys), "oldest": jnp.zeros((), jnp.int32)}
        return target_init(net)(rng, views).replace(method_state=memory)

    def loss(params, state, batch, rng):
        query, key = pair(batch.views)
        y, state = online_forward(net, params, state, [query], rng)
        # Shared batch-norm statistics would reveal which key belongs to a query.
        order = jax.random.permutation(rng, key.shape[0]) if shuffle else None
        t, state = target_forward(net, state, [key], rng, order)
        q = y.heads["projector"][0]
        k = jax.lax.stop_gradient(t.heads["projector"][0])
        memory = state.method_state
        loss, metrics = info_nce(q, k, memory["queue"], temperature, block=block)
        keys, oldest = enqueue(memory["queue"], memory["oldest"], k)
        state = state.replace(method_state={"queue": keys, "oldest": oldest})
        return loss, (state, with_head("key", k[None], y), metrics)

    def measure(y, state):
        q, k = (normalize(y.heads[name][0]) for name in ("projector", "key"))
        similarity, _ = cosine_by(temperature)
        metrics = shares_in_queue(q, k, state.method_state["queue"], similarity)
        return metrics | {"z_alignment": alignment(q, k)}

    return Method(
        init,
        loss,
        net,
        ema=constant(ema),
        similarities=lambda n: queries_matrix(n, queue, block),
        # Above ln(1 + K) the loss may be for a while: the first keys are noise. And in
        # its first epochs the queries of a healthy run point the same way.
        health=Health(measure, lambda images: (chance(math.log(1 + queue), 1.01),)),
    )
