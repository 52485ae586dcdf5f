"""What a self-supervised method is."""

from collections.abc import Callable
from typing import NamedTuple

from simclr_jax.models.siamese import Network
from simclr_jax.state import TrainState


class Method(NamedTuple):
    """A method as pure functions, in the manner of an optax transformation."""

    init: Callable[..., TrainState]  # (rng, views) -> state, before the optimiser
    loss: Callable  # (params, state, batch, rng) -> loss, (state, Outputs, metrics)
    network: Network  # of the branch to keep
    ema: Callable | None = None  # step -> how much of the target stays
    keep: str = "online"  # the branch to evaluate and export: "online" or "target"

    def kept(self, state: TrainState):
        """The (params, stats) of the branch to evaluate and export."""
        online = self.keep == "online"
        params = state.params if online else state.target_params
        return params, state.model_state[self.keep]


def without(name: str, tree: dict) -> dict:
    """The tree less one of its top-level branches."""
    return {key: branch for key, branch in tree.items() if key != name}
