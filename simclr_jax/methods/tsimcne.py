"""t-SimCNE (Böhm, Berens and Kobak 2023, arXiv:2210.09879).

SimCLR with a two-dimensional z and t-SNE's similarity, so that the two views of an
image are neighbours on a plane. Two dimensions are too few at the beginning of
training, so there are three runs, each initialised from the previous one:

| stage | trains                    | `out` | `initializer` |
|-------|---------------------------|-------|---------|
| 1     | everything                | 128   | torch   |
| 2     | only the new last layer   | 2     | normal  |
| 3     | everything, at lr / 1000  | 2     |         |
"""

import math
from typing import Any

from simclr_jax.losses.block_size import pairs_matrix
from simclr_jax.losses.negatives import shares_in_batch
from simclr_jax.losses.neighbours import cauchy, log_cauchy
from simclr_jax.methods.base import Method, online_forward, pair, plain_init
from simclr_jax.methods.health import Health, chance
from simclr_jax.models.heads import MLP, Layer
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def tsimcne(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    hidden: int = 1024,
    out: int = 128,  # 2 from stage 2 on
    initializer: str = "torch",  # of the last layer; "normal" in stage 2
    block: int = 0,  # images compared with all at a time; 0: chosen by `block_size`
) -> Method:
    """A stage of t-SimCNE with an encoder as `network.network` takes it.

    Raises:
      ValueError: an unknown initializer, or a negative width.
    """
    last = Layer(out, bias=True, norm="", initializer=initializer)
    head = MLP((Layer(hidden, bias=True, norm=""), last), "torch")
    net = network(encoder, head, options=options, joint=True)

    def loss(params, state, batch, rng):
        y, state = online_forward(net, params, state, pair(batch.views), rng)
        loss, metrics = cauchy(y.heads["projector"], block=block)
        return loss, (state, y, metrics)

    def measure(y, state):
        z = y.heads["projector"]
        return shares_in_batch(z[0], z, log_cauchy)

    return Method(
        plain_init(net),
        loss,
        net,
        similarities=lambda n: pairs_matrix(n, block),
        health=Health(measure, lambda n: (chance(math.log(2 * n - 1)),)),
    )
