"""What a method says of its health: its own diagnostics, and the signs of failures."""

import math
from typing import NamedTuple, Protocol

from simclr_jax.models.network import Outputs
from simclr_jax.state import LossState, Metrics

COLLAPSED = -0.7  # uniformity above which directions count as one


class Measure(Protocol):
    def __call__(self, outputs: Outputs, state: LossState, /) -> Metrics:
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
    def __call__(self, images: int, /) -> tuple[Sign, ...]:
        """The signs of this method's failures, for so many images in a batch."""
        ...


class Health(NamedTuple):
    """A method's own part of the diagnostics of a run."""

    measure: Measure = lambda outputs, state: {}
    signs: Signs = lambda images: ()


GENERAL = (  # the signs of all methods
    Sign(
        "rate",
        {"weight_rms": (0.7, math.inf)},
        "The weights have grown to {weight_rms:.2g} in root mean square, far above any "
        "initialisation, and the loss is {loss:.4g}: the learning rate ({lr:.2g}) is "
        "far too high. Try a tenth of optim.lr, or a longer warm-up.",
    ),
)


def chance(loss: float, above: float = math.inf) -> Sign:
    """The loss is that of a network that cannot tell the pictures apart.

    Args:
      loss: this value.
      above: the largest share of it that counts.
    """
    return Sign(
        "chance",
        {"loss": (0.99 * loss, above * loss)},
        "The loss is {loss:.4g}, where "
        f"{loss:.4g} is that of a network to which all pictures are the same: nothing "
        "is learnt. Try a tenth of optim.lr, or a longer warm-up; see in views.png "
        "whether the views of a picture have something in common.",
    )


def collapse(remedy: str, **limits: tuple[float, float]) -> Sign:
    """All projections point the same way.

    Args:
      remedy: what to try.
      limits: of further metrics.
    """
    return Sign(
        "collapse",
        {"z_uniformity": (COLLAPSED, math.inf), **limits},
        "The projections of different pictures point the same way (z_uniformity "
        "{z_uniformity:.2f}, 0 for a single direction; z_rank {z_rank:.1f}): the "
        f"embedding has collapsed. {remedy}",
    )
