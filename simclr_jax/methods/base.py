"""What a self-supervised method is, and what several of them share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from simclr_jax.batch import Batch
from simclr_jax.losses.block_size import Matrix
from simclr_jax.methods.health import Health
from simclr_jax.models.network import Network, Outputs
from simclr_jax.state import LossState, Metrics, TrainState


class Init(Protocol):
    def __call__(self, rng: jax.Array, views: Sequence[Any]) -> TrainState:
        """The initial state, without an optimiser.

        Args:
          rng: key.
          views: V arrays [N, H, W, 3] or their shapes; only shape and dtype are used.
        """
        ...


class Loss(Protocol):
    def __call__(
        self, params: Any, state: LossState, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[LossState, Outputs, Metrics]]:
        """The loss, to be differentiated with respect to `params`.

        Args:
          params: of the online branch.
          state: the target's parameters and the step (read), batch-norm statistics and
            the method's own memory (read and changed).
          batch: of N images.
          rng: the key of this step.

        Returns:
          loss [], and (the changed state, the online branch's features, metrics).
        """
        ...


class Features(Protocol):
    def __call__(self, outputs: Outputs) -> dict[str, jax.Array]:
        """The features that may be evaluated and exported: {name: [V, N, D]}.

        "h" comes first; the train step reports the spread of the last one.
        """
        ...


def h_and_z(outputs: Outputs) -> dict[str, jax.Array]:
    """The representation h and the projection z."""
    return {"h": outputs.h, "z": outputs.heads["projector"]}


def h_only(outputs: Outputs) -> dict[str, jax.Array]:
    """The representation h, of a method without a projection."""
    return {"h": outputs.h}


class Method(NamedTuple):
    """A method as pure functions, like an optax transformation."""

    init: Init
    loss: Loss
    network: Network  # of the branch to evaluate and export
    ema: Callable[[Any], Any] | None = None  # step -> weight of the old target
    keep: str = "online"  # the branch to evaluate and export: "online" or "target"
    features: Features = h_and_z
    # Images in a batch -> shape of the loss's similarity matrix, for the log.
    # None for a loss that compares no images with each other.
    similarities: Callable[[int], Matrix] | None = None
    health: Health = Health()  # its own diagnostics and signs of failure

    def kept(self, state: TrainState) -> tuple[Any, Any]:
        """The (params, stats) of the branch to evaluate and export."""
        online = self.keep == "online"
        params = state.params if online else state.target_params
        return params, state.model_state[self.keep]


# Initial states.


def plain_init(network: Network) -> Init:
    """The init of a method with one branch."""

    def init(rng, views):
        params, stats = network.init(rng, views)
        return TrainState(params, rng, model_state={"online": stats})

    return init


def target_init(network: Network) -> Init:
    """The init of a method whose target is the online network without the predictor."""

    def init(rng, views):
        params, stats = network.init(rng, views)
        return TrainState(
            params,
            rng,
            target_params=without("predictor", params),
            model_state={"online": stats, "target": without("predictor", stats)},
        )

    return init


def with_head(name: str, value: jax.Array, outputs: Outputs) -> Outputs:
    """The outputs with one more head, such as the target's projections."""
    return outputs._replace(heads=outputs.heads | {name: value})


def without(name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without one of its top-level branches."""
    return {key: branch for key, branch in tree.items() if key != name}


# Forward passes: (outputs, the state with the new batch-norm statistics).


def online_forward(
    network: Network,
    params: Any,
    state: LossState,
    views: Sequence[jax.Array],
    rng: jax.Array | None,
) -> tuple[Outputs, LossState]:
    """The online branch's features of the views, in training mode."""
    stats = state.model_state
    outputs, online = network.apply(params, stats["online"], views, rng)
    return outputs, state.replace(model_state=stats | {"online": online})


def target_forward(
    network: Network,
    state: LossState,
    views: Sequence[jax.Array],
    rng: jax.Array | None,
    shuffle: jax.Array | None = None,
) -> tuple[Outputs, LossState]:
    """The target branch's features of the views, in training mode.

    Args:
      rng: key of dropout and stochastic depth; None: nothing is dropped.
      shuffle: int [N], a permutation of the rows for batch norm (`rows.Rows`).
    """
    stats = state.model_state
    outputs, target = network.apply(
        state.target_params, stats["target"], views, rng, shuffle
    )
    return outputs, state.replace(model_state=stats | {"target": target})


# Schedules of the target's EMA.


def cosine_to_one(start: float, total_steps: int) -> Callable[[Any], jax.Array]:
    """The weight of the old target in the EMA at step k of K, from `start` to 1.

    1 - (1 - start) (cos(pi k / K) + 1) / 2: tau of BYOL (arXiv:2006.07733, section
    3.3), m of MoCo v3, lambda of DINO.

    Raises:
      ValueError: start is not in [0, 1].
    """
    _check_ema(start)

    def ema(step):
        progress = jnp.asarray(step, jnp.float32) / total_steps
        return 1 - (1 - start) * (jnp.cos(jnp.pi * progress) + 1) / 2

    return ema


def constant(ema: float) -> Callable[[Any], float]:
    """The same weight of the old target at each step: m of MoCo v1 and v2.

    Raises:
      ValueError: it is not in [0, 1].
    """
    _check_ema(ema)
    return lambda step: ema


def _check_ema(ema: float) -> None:
    if not 0 <= ema <= 1:
        raise ValueError(f"ema must be from 0 to 1, got {ema}.")


# Checks.


def pair(views: Sequence[Any]) -> Sequence[Any]:
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
    """Raises a ValueError unless the temperature is above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
