"""SimSiam (Chen and He 2021, arXiv:2011.10566).

One network, two views: each view's prediction shall point along the other's projection,
through which no gradient flows. No negatives, no second network, no queue.
"""

import jax

from simclr_jax.losses.regression import cosine
from simclr_jax.methods.base import Method, pair
from simclr_jax.models.heads import MLP, Layer, inner
from simclr_jax.models.network import network
from simclr_jax.state import TrainState


def simsiam(
    encoder,
    *,
    layers: int = 3,  # of the projector; 2 on CIFAR-10
    out: int = 2048,
    bottleneck: int = 512,  # of the predictor
) -> Method:
    # The released code's last Dense has a bias too, frozen; its batch norm cancels it.
    projector = MLP((*inner(Layer(out), layers), Layer(out, norm="plain")))
    predictor = MLP((Layer(bottleneck), Layer(out, bias=True, norm="")))
    net = network(encoder, projector, predictor)

    def init(rng, views):
        params, stats = net.init(rng, views)
        return TrainState(params, rng, model_state={"online": stats})

    def loss(params, state, batch, rng):
        views = pair(batch.views)
        y, stats = net.apply(params, state.model_state["online"], views, rng)
        p, z = y.p, jax.lax.stop_gradient(y.z)
        loss = -(cosine(p[0], z[1]) + cosine(p[1], z[0])) / 2
        return loss, (state.replace(model_state={"online": stats}), y, {})

    return Method(init, loss, net)
