"""t-SimCNE (Böhm, Berens and Kobak 2023, arXiv:2210.09879).

SimCLR that ends in a map: z has two dimensions, its similarity is t-SNE's, and two
views of each image must be neighbours on the plane. A plane is too narrow to learn in
from nothing, so there are three runs, each of which begins from the one before:

| stage | trains                    | `out` | `start` |
|-------|---------------------------|-------|---------|
| 1     | everything                | 128   | torch   |
| 2     | only the new last layer   | 2     | normal  |
| 3     | everything, at lr / 1000  | 2     |         |
"""

from simclr_jax.losses.neighbours import cauchy
from simclr_jax.methods.base import Method, pair
from simclr_jax.models.heads import MLP, Layer
from simclr_jax.models.network import network
from simclr_jax.state import TrainState


def tsimcne(
    encoder,
    *,
    hidden: int = 1024,
    out: int = 128,  # 2 from stage 2 on
    start: str = "torch",  # the last layer's first weights; "normal" in stage 2
    block: int = 0,  # images compared with all at a time, 0: what does well
) -> Method:
    last = Layer(out, bias=True, norm="", start=start)
    head = MLP((Layer(hidden, bias=True, norm=""), last), "torch")
    net = network(encoder, head, joint=True)

    def init(rng, views):
        params, stats = net.init(rng, views)
        return TrainState(params, rng, model_state={"online": stats})

    def loss(params, state, batch, rng):
        views = pair(batch.views)
        y, stats = net.apply(params, state.model_state["online"], views, rng)
        loss, metrics = cauchy(y.z, block=block)
        return loss, (state.replace(model_state={"online": stats}), y, metrics)

    return Method(init, loss, net)
