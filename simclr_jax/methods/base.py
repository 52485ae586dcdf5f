"""What a self-supervised method is."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from simclr_jax.models.network import Network
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


def with_target(online: Network) -> Callable[..., TrainState]:
    """(rng, views) -> state, whose target is a copy of the online network less q."""

    def init(rng, views):
        params, stats = online.init(rng, views)
        return TrainState(
            params,
            rng,
            target_params=without("predictor", params),
            model_state={"online": stats, "target": without("predictor", stats)},
        )

    return init


def cosine_to_one(start: float, total_steps: int):
    """How much of the target stays at each step k of K, from `start` to 1.

    1 - (1 - start) (cos(pi k / K) + 1) / 2: tau of BYOL (arXiv:2006.07733, section
    3.3), m of MoCo v3, lambda of DINO.

    Raises:
      ValueError: if start is not in [0, 1].
    """
    _check_ema(start)

    def ema(step):
        way = jnp.asarray(step, jnp.float32) / total_steps
        return 1 - (1 - start) * (jnp.cos(jnp.pi * way) + 1) / 2

    return ema


def constant(ema: float):
    """The same part of the target stays at each step: m of MoCo v1 and v2.

    Raises:
      ValueError: if it is not in [0, 1].
    """
    _check_ema(ema)
    return lambda step: ema


def _check_ema(ema: float) -> None:
    if not 0 <= ema <= 1:
        raise ValueError(f"ema must be from 0 to 1, got {ema}.")


def pair(views):
    """The two views of a batch.

    Raises:
      ValueError: there are more or fewer.
    """
    if len(views) != 2:
        raise ValueError(
            "This method compares two views of each picture, and augment.name makes "
            f"{len(views)}. Take one that makes two, such as simclr or moco_v2."
        )
    return views


def check_temperature(temperature: float) -> None:
    """Raises a ValueError unless it is above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
