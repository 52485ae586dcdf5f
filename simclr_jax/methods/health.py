"""What a method says of its health: its own diagnostics, and the signs of failures."""

import math
from typing import NamedTuple, Protocol

from simclr_jax.models.network import Outputs
from simclr_jax.state import LossState, Metrics


class Measure(Protocol):
    def __call__(self, outputs: Outputs, state: LossState) -> Metrics:
        """Diagnostics beside those of all methods (see `train.health`).

        Args:
          outputs: of the loss.
          state: before the loss, such as the queue that it used.
        """
        ...


class Sign(NamedTuple):
    """A failure that shows in the metrics of a run."""

    name: str
    limits: dict[str, tuple[float, float]]  # metric: lowest and highest value; all hold
    meaning: str  # one sentence: what happened and what to try


class Signs(Protocol):
    def __call__(self, images: int) -> tuple[Sign, ...]:
        """The signs of this method's failures, for so many images in a batch."""
        ...


class Health(NamedTuple):
    """A method's own part of the diagnostics of a run."""

    measure: Measure = lambda outputs, state: {}
    signs: Signs = lambda images: ()


GENERAL = (  # the signs of all methods
    Sign(
        "rate",
        {"weight_rms": (1, math.inf)},
        "The weights have grown to {weight_rms:.2g} in root mean square, far above any "
        "initialisation, and the loss is {loss:.4g}: the learning rate ({lr:.2g}) is "
        "far too high. Try a tenth of optim.lr, or a longer warm-up.",
    ),
)
