"""The optimisers of the papers.

Every factory returns an optax transformation whose `update` takes the step of the run
as `step=` and its learning rate as `rate=`: schedules are functions of the step of the
run, not of a second counter in the optimiser.

Rules select parameters by their path; see `rules`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from simclr_jax.train.rules import match_rules
from simclr_jax.train.schedules import warmup_cosine

NORMS_AND_BIASES = (r"/(scale|bias)$",)


def _all_but(rules: Sequence[str]) -> Callable[[Any], Any]:
    """An optax mask: the leaves that match none of the rules."""
    return lambda params: jax.tree.map(lambda x: not x, match_rules(rules, params))


def add_decay(
    schedule: Callable[[jax.Array], jax.Array],
) -> optax.GradientTransformationExtraArgs:
    """Adds schedule(step) times the parameters; `step` is a keyword of `update`."""

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra):
        decay = schedule(extra["step"])
        return jax.tree.map(lambda u, p: u + decay * p, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_rate() -> optax.GradientTransformationExtraArgs:
    """Multiplies by -rate, the keyword of `update`."""

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra):
        del params
        return jax.tree.map(lambda u: -extra["rate"] * u, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def lars(
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    trust_coefficient: float = 0.001,  # eta
    rate_in_momentum: bool = True,
    no_decay: tuple[str, ...] = NORMS_AND_BIASES,
    no_adaptation: tuple[str, ...] = NORMS_AND_BIASES,
) -> optax.GradientTransformationExtraArgs:
    """LARS (You et al. 2017, arXiv:1708.03888) with classic momentum.

    g <- g + lambda w; t = eta |w| / |g|, and 1 where either is zero; then
    v <- m v + rate t g, w <- w - v as in the released SimCLR code, or
    v <- m v + t g, w <- w - rate v as in the released BYOL code.

    Args:
      rate_in_momentum: True for SimCLR's order, False for BYOL's. They differ while the
        rate changes.
      no_decay: rules for the parameters without weight decay.
      no_adaptation: rules for the parameters whose trust ratio t is 1.
    """
    rate, trace = scale_by_rate(), optax.trace(decay=momentum)
    return optax.with_extra_args_support(
        optax.chain(
            optax.add_decayed_weights(weight_decay, _all_but(no_decay)),
            optax.masked(
                optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
                _all_but(no_adaptation),
            ),
            *((rate, trace) if rate_in_momentum else (trace, rate)),
        )
    )


def sgd(
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    no_decay: tuple[str, ...] = NORMS_AND_BIASES,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum; weight decay is an L2 term, part of the gradient.

    Args:
      no_decay: rules for the parameters without weight decay.
    """
    return optax.with_extra_args_support(
        optax.chain(
            optax.add_decayed_weights(weight_decay, _all_but(no_decay)),
            optax.trace(decay=momentum, nesterov=nesterov),
            scale_by_rate(),
        )
    )


def adamw(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    weight_decay_end: float = -1.0,  # below 0: constant weight decay
    no_decay: tuple[str, ...] = NORMS_AND_BIASES,
    total_steps: int,
) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); decay is scaled by rate.

    Args:
      weight_decay_end: the decay at the end of the run, reached by half a cosine as in
        DINO.
      no_decay: rules for the parameters without weight decay.
      total_steps: steps of the run.
    """
    end = weight_decay_end if weight_decay_end >= 0 else weight_decay
    decay = warmup_cosine(weight_decay, 0, total_steps, end)
    return optax.with_extra_args_support(
        optax.chain(
            optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
            optax.masked(add_decay(decay), _all_but(no_decay)),
            scale_by_rate(),
        )
    )


OPTIMISERS = {"lars": lars, "sgd": sgd, "adamw": adamw}
COUPLED = ("lars", "sgd")  # weight decay is part of the gradient
