"""The one pytree that training carries from step to step."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a resumed run needs, and nothing else."""

    params: Any  # moved by the gradient
    rng: jax.Array  # base key: folded with the step, never split, never replaced
    step: Any = 0  # updates done
    opt_state: Any = None
    target_params: Any = None  # moved by EMA: BYOL's target, DINO's teacher
    model_state: Any = None  # batch-norm statistics of both branches
    method_state: Any = None  # a method's own memory: MoCo's queue, DINO's centre
    skipped: Any = 0  # steps whose loss or gradient was not finite, in all
    streak: Any = 0  # and how many of them came last, without a good one between

    def replace(self, **changes) -> "TrainState":
        return dataclasses.replace(self, **changes)

    def blind(self) -> "TrainState":
        """The state as a loss may see it: without what the gradient moves."""
        return self.replace(params=None, opt_state=None)
