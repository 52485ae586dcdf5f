"""Rules that select parameters by their path, and treat them differently.

A rule is a regular expression, searched in the path of a parameter. The transformations
apply to any optimiser of `optim`.
"""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax.tree import paths


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


def with_rules(
    tx: optax.GradientTransformationExtraArgs,
    *,
    frozen: tuple[str, ...] = (),
    delayed: tuple[str, ...] = (),
    delay_steps: float = 0,
    constant: tuple[str, ...] = (),
    multipliers: tuple[str, ...] = (),
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
      multipliers: "REGEX=FACTOR", see `multiply_rate`; the factor also multiplies the
        rate of delayed and constant parameters, and leaves frozen ones frozen.
      peak: the peak learning rate of the run.
      clip: the largest norm of the gradient of one array, applied first; 0 for none.

    Raises:
      ValueError: a multiplier is not REGEX=FACTOR. From `init`: a rule matches no
        parameter, or two of frozen, delayed and constant, or multipliers of two
        factors, match the same one.
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
        tx = optax.partition(parts, lambda params: _labels(rules, params, "own"))
    if multipliers:
        tx = multiply_rate(tx, multipliers)
    if clip:
        tx = optax.with_extra_args_support(optax.chain(clip_per_array(clip), tx))
    return tx


def _labels(
    rules: Mapping[Any, tuple[str, ...]], params: Any, default: Hashable
) -> Any:
    """The tree of params with the label of the matching rules, or the default."""

    def label(*matches: bool) -> Hashable:
        labels = [name for name, match in zip(rules, matches, strict=True) if match]
        if len(labels) > 1:
            first, second, *_ = (rules[name] for name in labels)
            raise ValueError(
                f"The optimiser's rules {first} and {second} match the same parameter."
            )
        return labels[0] if labels else default

    return jax.tree.map(label, *(match_rules(rule, params) for rule in rules.values()))


def multiply_rate(
    tx: optax.GradientTransformation, multipliers: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the learning rate of the parameters that match rules by a factor.

    The updates of all optimisers above are proportional to the rate, with LARS and SGD
    those that the momentum sums up, too; so it is the updates that are multiplied, and
    the state is that of `tx`. Weight decay is scaled with the rate: of AdamW, where it
    is decoupled, and of LARS and SGD, where it is part of the gradient. The trust ratio
    of LARS and the moments of Adam do not depend on the rate.

    Args:
      multipliers: "REGEX=FACTOR", with the factor after the last "=", above 0.

    Raises:
      ValueError: a multiplier has another form; from `init`, if one matches no
        parameter, or two of different factors match the same one.
    """
    tx = optax.with_extra_args_support(tx)
    rules: dict[float, tuple[str, ...]] = {}
    for multiplier in multipliers:
        rule, factor = _split_multiplier(multiplier)
        rules[factor] = (*rules.get(factor, ()), rule)

    def init(params):
        _labels(rules, params, 1.0)  # raises the errors of the rules
        return tx.init(params)

    def update(updates, state, params=None, **extra):
        updates, state = tx.update(updates, state, params, **extra)
        factors = _labels(rules, updates, 1.0)
        return jax.tree.map(lambda u, factor: factor * u, updates, factors), state

    return optax.GradientTransformationExtraArgs(init, update)


def _split_multiplier(text: str) -> tuple[str, float]:
    """The rule and the factor of REGEX=FACTOR."""
    rule, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = 0.0
    if not rule or not 0 < factor < math.inf:
        raise ValueError(
            f"The multiplier {text!r} is not REGEX=FACTOR with a factor above 0, such "
            "as '^encoder/=0.1'. Parameters without updates are those of optim.frozen."
        )
    return rule, factor


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
