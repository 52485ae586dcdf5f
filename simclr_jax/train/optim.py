"""The optimisers of the papers, and rules that single out parameters by their path.

Every factory returns an optax transformation whose `update` wants the learning rate of
the step as `rate=`: the rate is a function of the run's step, not of a counter of the
optimiser's own, so the two cannot drift apart.
"""

import re

import jax
import optax

NORMS_AND_BIASES = (r"/(scale|bias)$",)


def paths(params) -> list[str]:
    """The slash-separated paths of all leaves, such as encoder/stem/conv/kernel."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def matched(rules, params):
    """Which leaves have a path that one of the regular expressions finds.

    Returns:
      the tree of params with a bool at each leaf.

    Raises:
      ValueError: if a rule finds nothing, with a list of the paths, or is no regular
        expression.
    """
    names = paths(params)
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
    return jax.tree.unflatten(jax.tree.structure(params), hits)


def _all_but(rules):
    """An optax mask: the leaves that no rule finds."""
    return lambda params: jax.tree.map(lambda hit: not hit, matched(rules, params))


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
    undecayed: tuple = NORMS_AND_BIASES,
) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); decay is scaled by rate."""
    return optax.with_extra_args_support(
        optax.chain(
            optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
            optax.add_decayed_weights(weight_decay, _all_but(undecayed)),
            scale_by_rate(),
        )
    )


OPTIMISERS = {"lars": lars, "sgd": sgd, "adamw": adamw}
COUPLED = ("lars", "sgd")  # whose weight decay is a part of the gradient
