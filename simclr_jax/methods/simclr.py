"""SimCLR (Chen et al. 2020, arXiv:2002.05709; v2: arXiv:2006.10029).

Each view must retrieve the other view of its image among all views of the batch. The
negatives alone prevent collapse.
"""

import math
from typing import Any

from simclr_jax.losses.block_size import pairs_matrix
from simclr_jax.losses.contrastive import cosine_by, nt_xent
from simclr_jax.losses.geometry import normalize
from simclr_jax.losses.negatives import shares_in_batch
from simclr_jax.methods.base import (
    Method,
    check_temperature,
    online_forward,
    pair,
    plain_init,
)
from simclr_jax.methods.health import Health, chance, collapse
from simclr_jax.models.heads import projector
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def simclr(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    temperature: float = 0.1,  # table 5
    layers: int = 2,  # of the projection head g; v2 has 3
    hidden: int = 0,  # 0: as wide as h
    out: int = 128,
    directions: float = 2.0,  # the released code sums the two directions: twice eq. 1
    block: int = 0,  # images compared with all at a time; 0: chosen by `block_size`
    gather: str = "float32",  # dtype of z sent between devices; or "bfloat16"
) -> Method:
    """SimCLR with an encoder as `network.network` takes it.

    Raises:
      ValueError: temperature is not above 0, or the head has no layers.
    """
    check_temperature(temperature)
    head = projector(layers=layers, hidden=hidden, out=out)
    net = network(encoder, head, options=options, joint=True)

    def loss(params, state, batch, rng):
        y, state = online_forward(net, params, state, pair(batch.views), rng)
        z = y.heads["projector"]
        loss, metrics = nt_xent(z, temperature, block=block, gather=gather)
        return directions * loss, (state, y, metrics)

    def measure(y, state):
        z = normalize(y.heads["projector"])
        return shares_in_batch(z[0], z, cosine_by(temperature)[0])

    def signs(images):
        return (
            chance(directions * math.log(2 * images - 1)),
            collapse(
                "Check that the loss repels the other pictures of the batch "
                "(negatives), and that the pictures differ."
            ),
        )

    return Method(
        plain_init(net),
        loss,
        net,
        similarities=lambda n: pairs_matrix(n, block),
        health=Health(measure, signs),
    )
