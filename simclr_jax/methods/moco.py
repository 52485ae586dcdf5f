"""MoCo (He et al. 2020, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297).

A query must find its key, another view of the same image, in a queue of keys of other
images. The keys come from a slowly following encoder, so that those in the queue, a few
hundred batches old, can still be compared.
"""

import jax
import jax.numpy as jnp

from simclr_jax.losses.contrastive import enqueue, info_nce
from simclr_jax.losses.geometry import normalize
from simclr_jax.methods.base import (
    Method,
    check_temperature,
    constant,
    pair,
    with_target,
)
from simclr_jax.models.heads import MLP, Layer, inner
from simclr_jax.models.network import network


def moco(
    encoder,
    *,
    temperature: float = 0.2,  # v2; v1 has 0.07
    layers: int = 2,  # of the head; v1 has 1
    hidden: int = 0,  # 0: as wide as h
    out: int = 128,
    queue: int = 65536,  # K, how many keys
    ema: float = 0.999,  # m of the paper
    shuffle: bool = True,  # keys meet other batch norm groups than queries do
    block: int = 0,  # keys met at a time, 0: what does well
) -> Method:
    check_temperature(temperature)
    if queue < 1:
        raise ValueError(f"queue is the number of keys, at least 1; got {queue}.")
    before = inner(Layer(hidden, bias=True, norm=""), layers)
    head = MLP((*before, Layer(out, bias=True, norm="")))
    net = network(encoder, head)

    def init(rng, views):
        keys = jax.random.normal(jax.random.fold_in(rng, 1), (queue, out))
        memory = {"queue": normalize(keys), "oldest": jnp.zeros((), jnp.int32)}
        return with_target(net)(rng, views).replace(method_state=memory)

    def loss(params, state, batch, rng):
        query, key = pair(batch.views)
        stats, memory = state.model_state, state.method_state
        y, online_stats = net.apply(params, stats["online"], [query], rng)
        # Statistics over the same few images would tell which key belongs to a query.
        place = jax.random.permutation(rng, key.shape[0]) if shuffle else None
        t, target_stats = net.apply(
            state.target_params, stats["target"], [key], rng, place
        )
        k = jax.lax.stop_gradient(t.z[0])
        loss, metrics = info_nce(y.z[0], k, memory["queue"], temperature, block=block)
        keys, oldest = enqueue(memory["queue"], memory["oldest"], k)
        state = state.replace(
            model_state={"online": online_stats, "target": target_stats},
            method_state={"queue": keys, "oldest": oldest},
        )
        return loss, (state, y, metrics)

    return Method(init, loss, net, ema=constant(ema))
