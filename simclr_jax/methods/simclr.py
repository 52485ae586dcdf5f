"""SimCLR (Chen et al. 2020, arXiv:2002.05709; v2: arXiv:2006.10029).

Two views of each image; each must find its twin among all other views of the batch.
Nothing but the negatives keeps the embedding space open.
"""

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.methods.base import Method, check_temperature, pair
from simclr_jax.models.heads import projector
from simclr_jax.models.network import network
from simclr_jax.state import TrainState


def simclr(
    encoder,
    *,
    temperature: float = 0.1,  # table 5
    layers: int = 2,  # of the projection head g; v2 has 3
    hidden: int = 0,  # 0: as wide as h
    out: int = 128,
    directions: float = 2.0,  # the released code sums the two directions: twice eq. 1
    block: int = 0,  # images compared with all at a time, 0: what does well
    gather: str = "float32",  # in which z travels between devices, or bfloat16
) -> Method:
    check_temperature(temperature)
    head = projector(layers=layers, hidden=hidden, out=out)
    net = network(encoder, head, joint=True)

    def init(rng, views):
        params, stats = net.init(rng, views)
        return TrainState(params, rng, model_state={"online": stats})

    def loss(params, state, batch, rng):
        views = pair(batch.views)
        y, stats = net.apply(params, state.model_state["online"], views, rng)
        loss, metrics = nt_xent(y.z, temperature, block=block, gather=gather)
        state = state.replace(model_state={"online": stats})
        return directions * loss, (state, y, metrics)

    return Method(init, loss, net)
