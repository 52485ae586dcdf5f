"""The state of training, a pytree, and the part of it that a loss gets."""

import dataclasses
from typing import Any

import jax

Metrics = dict[str, jax.Array]  # name: []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossState:
    """What a loss may read and change in addition to the parameters.

    The step and the target's parameters are only read: of the state that a loss
    returns, the train step uses only `model_state` and `method_state`.
    """

    step: Any  # int32 [], updates done
    target_params: Any  # as in TrainState
    model_state: Any  # batch-norm statistics of both branches
    method_state: Any  # the method's own memory

    def replace(self, **changes: Any) -> "LossState":
        """A copy with other values in the named fields."""
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a resumed run needs, and nothing else."""

    params: Any  # updated by the gradient
    rng: jax.Array  # base key: folded with the step, never split, never replaced
    step: Any = 0  # updates done
    opt_state: Any = None
    target_params: Any = None  # updated by EMA: BYOL's target, DINO's teacher
    model_state: Any = None  # batch-norm statistics of both branches
    method_state: Any = None  # a method's own memory: MoCo's queue, DINO's centre
    skipped: Any = 0  # steps whose loss or gradient was not finite, in total
    streak: Any = 0  # the number of such steps since the last finite one

    def replace(self, **changes: Any) -> "TrainState":
        """A copy with other values in the named fields."""
        return dataclasses.replace(self, **changes)

    def for_loss(self) -> LossState:
        """The part that a loss gets."""
        return LossState(
            self.step, self.target_params, self.model_state, self.method_state
        )
