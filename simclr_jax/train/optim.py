"""The optimisers of the papers, and rules that single out parameters by their path.

Every factory returns an optax transformation whose `update` wants the step of the run
as `step=` and its learning rate as `rate=`: what changes with time is a function of the
run's step, not of a counter of the optimiser's own, so the two cannot drift apart.
"""

import re
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import optax

from simclr_jax.train.schedules import warmup_cosine
from simclr_jax.tree import paths

NORMS_AND_BIASES = (r"/(scale|bias)$",)


def _masked(x) -> bool:
    """Whether optax has taken this leaf away from the transformation at work.

    A rule still finds it, or it would be wrong in one part of the parameters for
    finding something in another.
    """
    return isinstance(x, optax.MaskedNode)


def matched(rules, params):
    """Which leaves have a path that one of the regular expressions finds.

    Returns:
      the tree of params with a bool at each leaf.

    Raises:
      ValueError: if a rule finds nothing, with a list of the paths, or is no regular
        expression.
    """
    names = paths(params, is_leaf=_masked)
    for rule in rules:
        try:
            re.compile(rule)
        except re.error as error:
            raise ValueError(
                f"The optimiser's rule {rule!r} is no regular expression: {error}."
            ) from error
        if not any(re.search(rule, name) for name in names):
            known = "\n  ".join(names)
            raise ValueError(
                f"The optimiser's rule {rule!r} matches no parameter. There are:\n"
                f"  {known}"
            )
    hits = [any(re.search(rule, name) for rule in rules) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params, is_leaf=_masked), hits)


def _all_but(rules):
    """An optax mask: the leaves that no rule finds."""
    return lambda params: jax.tree.map(lambda hit: not hit, matched(rules, params))


def add_decay(schedule) -> optax.GradientTransformationExtraArgs:
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
    trust: float = 0.001,  # eta
    rate_in_momentum: bool = True,
    undecayed: tuple = NORMS_AND_BIASES,
    unadapted: tuple = NORMS_AND_BIASES,
) -> optax.GradientTransformationExtraArgs:
    """LARS (You et al. 2017, arXiv:1708.03888) with classic momentum.

    g <- g + lambda w; t = eta |w| / |g|, and 1 where either is zero; then
    v <- m v + rate t g, w <- w - v as in the released SimCLR code, or
    v <- m v + t g, w <- w - rate v as in the released BYOL code.

    Args:
      rate_in_momentum: True for SimCLR's order, False for BYOL's. They differ while the
        rate changes.
      undecayed: rules for the parameters without weight decay.
      unadapted: rules for the parameters whose trust ratio t is 1.
    """
    rate, trace = scale_by_rate(), optax.trace(decay=momentum)
    return optax.with_extra_args_support(
        optax.chain(
            optax.add_decayed_weights(weight_decay, _all_but(undecayed)),
            optax.masked(
                optax.scale_by_trust_ratio(trust_coefficient=trust),
                _all_but(unadapted),
            ),
            *((rate, trace) if rate_in_momentum else (trace, rate)),
        )
    )


def sgd(
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    undecayed: tuple = NORMS_AND_BIASES,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum; weight decay is an L2 term, part of the gradient."""
    return optax.with_extra_args_support(
        optax.chain(
            optax.add_decayed_weights(weight_decay, _all_but(undecayed)),
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
    weight_decay_end: float = -1.0,  # below 0: it stays
    undecayed: tuple = NORMS_AND_BIASES,
    total_steps: int,
) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); decay is scaled by rate.

    Args:
      weight_decay_end: where half a cosine takes the decay by the end of the run, as
        DINO has it.
    """
    end = weight_decay_end if weight_decay_end >= 0 else weight_decay
    decay = warmup_cosine(weight_decay, 0, total_steps, end)
    return optax.with_extra_args_support(
        optax.chain(
            optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
            optax.masked(add_decay(decay), _all_but(undecayed)),
            scale_by_rate(),
        )
    )


OPTIMISERS = {"lars": lars, "sgd": sgd, "adamw": adamw}
COUPLED = ("lars", "sgd")  # whose weight decay is a part of the gradient


# What may be laid around any of them.


def with_rules(
    tx: optax.GradientTransformationExtraArgs,
    *,
    frozen: tuple = (),
    late: tuple = (),
    late_step: float = 0,
    constant: tuple = (),
    peak: float,
    clip: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """The optimiser, but some parameters have rules of their own.

    Args:
      frozen: rules for the parameters that never move and cost no moments (MoCo v3's
        patch projection).
      late: rules for the parameters that, with their moments and the optimiser's count
        of their steps, stand still before late_step (DINO's last layer).
      constant: rules for the parameters that move at the rate `peak` all through the
        run (SimSiam's predictor).
      clip: the largest norm that the gradient of one array may have; 0 is none. It
        comes first.

    Raises:
      ValueError: from `init`, if a rule finds nothing or two kinds of them find the
        same parameter.
    """
    rules = {"frozen": frozen, "late": late, "constant": constant}
    if any(rules.values()):
        parts: dict[Hashable, optax.GradientTransformation] = {
            "own": tx,
            "frozen": optax.set_to_zero(),
            "late": from_step(tx, late_step),
            "constant": at_rate(tx, peak),
        }
        tx = optax.partition(parts, lambda params: _parted(rules, params))
    if clip:
        tx = optax.with_extra_args_support(optax.chain(clip_each(clip), tx))
    return tx


def _parted(rules: dict[str, tuple], params):
    """The tree of params with, at each leaf, which of the rules has found it."""

    def name(*hits):
        found = [kind for kind, hit in zip(rules, hits, strict=True) if hit]
        if len(found) > 1:
            raise ValueError(
                f"The optimiser's rules {found[0]} and {found[1]} find a parameter "
                f"both: {rules[found[0]]} and {rules[found[1]]}."
            )
        return found[0] if found else "own"

    return jax.tree.map(name, *(matched(rule, params) for rule in rules.values()))


def from_step(tx, start: float) -> optax.GradientTransformationExtraArgs:
    """Does nothing, and remembers nothing, before step `start` of the run."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra):
        return jax.lax.cond(
            extra["step"] >= start,
            lambda: tx.update(updates, state, params, **extra),
            lambda: (optax.tree.zeros_like(updates), state),
        )

    return optax.GradientTransformationExtraArgs(tx.init, update)


def at_rate(tx, rate: float) -> optax.GradientTransformationExtraArgs:
    """Moves at this rate, whatever that of the step is."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra):
        return tx.update(updates, state, params, **(extra | {"rate": rate}))

    return optax.GradientTransformationExtraArgs(tx.init, update)


def clip_each(largest: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """Scales every array on its own by min(1, largest / (norm + eps)), as DINO does."""

    def scaled(g):
        return g * jnp.minimum(1, largest / (jnp.linalg.norm(g.ravel()) + eps))

    return optax.stateless(lambda updates, _: jax.tree.map(scaled, updates))
