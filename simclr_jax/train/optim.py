"""The optimisers of the papers, and rules that select parameters by their path.

Every factory returns an optax transformation whose `update` takes the step of the run
as `step=` and its learning rate as `rate=`: schedules are functions of the step of the
run, not of a second counter in the optimiser.

A rule is a regular expression, searched in the path of a parameter.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax.train.schedules import warmup_cosine
from simclr_jax.tree import paths

NORMS_AND_BIASES = (r"/(scale|bias)$",)


def _is_masked(x: Any) -> bool:
    """Whether optax has masked this leaf in the current transformation.

    Rules also match masked leaves. Otherwise a rule all of whose leaves are masked in
    one transformation would match no parameter there, which is an error.
    """
    return isinstance(x, optax.MaskedNode)


def match_rules(rules: Sequence[str], params: Any) -> Any:
    """Selects the leaves whose path matches one of the rules.

    Returns:
      the tree of params with a bool at each leaf.

    Raises:
      ValueError: a rule matches no parameter, or is not a regular expression.
    """
    names = paths(params, is_leaf=_is_masked)
    for rule in rules:
        try:
            re.compile(rule)
        except re.error as error:
            raise ValueError(
                f"The optimiser's rule {rule!r} is not a regular expression: {error}."
            ) from error
        if not any(re.search(rule, name) for name in names):
            listing = "\n  ".join(names)
            raise ValueError(
                f"The optimiser's rule {rule!r} matches no parameter. The parameters "
                f"are:\n  {listing}"
            )
    matches = [any(re.search(rule, name) for rule in rules) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params, is_leaf=_is_masked), matches)


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


# Transformations of any of these optimisers.


def with_rules(
    tx: optax.GradientTransformationExtraArgs,
    *,
    frozen: tuple[str, ...] = (),
    delayed: tuple[str, ...] = (),
    delay_steps: float = 0,
    constant: tuple[str, ...] = (),
    peak: float,
    clip: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Treats the parameters that match rules differently from the others.

    Args:
      tx: the optimiser of all other parameters.
      frozen: rules for the parameters without updates or moments (MoCo v3's patch
        projection).
      delayed: rules for the parameters that do not change before delay_steps; nor do
        their moments and step count in the optimiser (DINO's last layer).
      constant: rules for the parameters whose rate is always `peak` (SimSiam's
        predictor).
      peak: the peak learning rate of the run.
      clip: the largest norm of the gradient of one array, applied first; 0 for none.

    Raises:
      ValueError: from `init`, if a rule matches no parameter, or two of frozen, delayed
        and constant match the same one.
    """
    # The labels are part of the paths in checkpoints.
    rules = {"frozen": frozen, "late": delayed, "constant": constant}
    if any(rules.values()):
        parts: dict[Hashable, optax.GradientTransformation] = {
            "own": tx,
            "frozen": optax.set_to_zero(),
            "late": from_step(tx, delay_steps),
            "constant": at_rate(tx, peak),
        }
        tx = optax.partition(parts, lambda params: _labels(rules, params))
    if clip:
        tx = optax.with_extra_args_support(optax.chain(clip_per_array(clip), tx))
    return tx


def _labels(rules: dict[str, tuple[str, ...]], params: Any) -> Any:
    """The tree of params with the label of the matching rules, or "own", as leaves."""

    def label(*matches: bool) -> str:
        labels = [name for name, match in zip(rules, matches, strict=True) if match]
        if len(labels) > 1:
            first, second, *_ = (rules[name] for name in labels)
            raise ValueError(
                f"The optimiser's rules {first} and {second} match the same parameter."
            )
        return labels[0] if labels else "own"

    return jax.tree.map(label, *(match_rules(rule, params) for rule in rules.values()))


def from_step(
    tx: optax.GradientTransformation, first_step: float
) -> optax.GradientTransformationExtraArgs:
    """Before `first_step` of the run, updates are zero and the state is unchanged."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra):
        return jax.lax.cond(
            extra["step"] >= first_step,
            lambda: tx.update(updates, state, params, **extra),
            lambda: (optax.tree.zeros_like(updates), state),
        )

    return optax.GradientTransformationExtraArgs(tx.init, update)


def at_rate(
    tx: optax.GradientTransformation, rate: float
) -> optax.GradientTransformationExtraArgs:
    """Replaces the rate of the step by a constant."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra):
        return tx.update(updates, state, params, **(extra | {"rate": rate}))

    return optax.GradientTransformationExtraArgs(tx.init, update)


def clip_per_array(largest: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """Scales each array by min(1, largest / (its norm + eps)), as in DINO."""

    def clip(g: jax.Array) -> jax.Array:
        return g * jnp.minimum(1, largest / (jnp.linalg.norm(g.ravel()) + eps))

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))
