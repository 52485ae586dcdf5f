"""Steps of a run, its peak learning rate, and schedules of the rate over the steps."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> rate, float32


def _running(n: int, e: float, b: int) -> int:
    """Steps of e epochs if a batch may contain images of two epochs: floor(n e / B)."""
    return math.floor(n * e / b)


def _whole(n: int, e: float, b: int) -> int:
    """Steps of e epochs of floor(n / B) steps each, which drop their last images."""
    return math.floor(n // b * e)


LENGTHS = {  # (n images, e epochs, batch b) -> steps of the run, and of its warm-up
    "simclr": (lambda n, e, b: _running(n, e, b) + 1, _running),  # the released code
    "byol": (_running, _running),  # the released BYOL code
    "whole": (_whole, _running),  # whole epochs only
    "moco": (_whole, _whole),  # the released MoCo, SimSiam and DINO codes
}

SCALINGS = {  # (base rate, batch B) -> peak rate
    "linear": lambda lr, b: lr * b / 256,  # SimCLR appendix B.1
    "sqrt": lambda lr, b: lr * b**0.5,
    "none": lambda lr, b: lr,
}

END_SCALINGS = {  # (end, peak rate) -> final rate
    "none": lambda end, peak: end,
    "peak": lambda end, peak: end * peak,
}


def total_steps(rule: str, images: int, epochs: float, batch_size: int) -> int:
    """Steps of a run by one of the rules of `LENGTHS`."""
    run, _ = LENGTHS[rule]
    return run(images, epochs, batch_size)


def warmup_steps(rule: str, images: int, epochs: float, batch_size: int) -> int:
    """Steps of a warm-up of `epochs` epochs by one of the rules of `LENGTHS`."""
    _, warmup = LENGTHS[rule]
    return warmup(images, epochs, batch_size)


def warmup_cosine(
    peak: float, warmup: int, total: int, end: float = 0.0, *, inclusive: bool = False
) -> Schedule:
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to `end`.

    Args:
      total: the step at which the cosine reaches `end`.
      inclusive: whether the last step of the warm-up has the peak rate, too; the first
        one of the cosine always has it.

    Returns:
      step -> rate, float32; 0 at step 0 (unless there is no warm-up), `end` from
      `total` on.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        left = jnp.clip((total - step) / max(total - warmup, 1), 0, 1)
        # (1 + cos(pi (1 - left))) / 2, but accurate at the last steps, too
        cosine = end + (peak - end) * jnp.sin(jnp.pi / 2 * left) ** 2
        rise = peak * step / max(warmup - inclusive, 1)
        return jnp.where(step < warmup, rise, cosine)

    return schedule


# Shapes of schedules. Keywords: warmup, total and epoch in steps, milestones in epochs;
# each shape ignores those that it does not need.


def cosine(
    *, peak: float, end: float, warmup: int, total: int, **_: object
) -> Schedule:
    """SimCLR, BYOL, MoCo v3: the rate changes at every step."""
    return warmup_cosine(peak, warmup, total, end)


def dino(*, peak: float, end: float, warmup: int, total: int, **_: object) -> Schedule:
    """DINO: the rate changes at every step, except for two steps at the peak."""
    return warmup_cosine(peak, warmup, total, end, inclusive=True)


def epochs(
    *, peak: float, end: float, warmup: int, total: int, epoch: int, **_: object
) -> Schedule:
    """MoCo v2, SimSiam: all steps of an epoch have the rate of its first step."""
    rate = warmup_cosine(peak, warmup, total, end)
    return lambda step: rate(jnp.asarray(step) // epoch * epoch)


def tsimcne(
    *, peak: float, end: float, warmup: int, total: int, epoch: int, **_: object
) -> Schedule:
    """t-SimCNE: the rate changes with the epoch; two epochs have the peak rate.

    The cosine has 1 + E - W points, for E epochs with W of warm-up; the last point, of
    rate `end`, is not used.
    """
    warm, last = math.ceil(warmup / epoch), math.ceil(total / epoch)
    rate = warmup_cosine(peak, warm, last + 1, end, inclusive=True)
    return lambda step: rate(jnp.asarray(step) // epoch)


def steps(
    *,
    peak: float,
    warmup: int,
    total: int,
    epoch: int,
    milestones: Sequence[float],
    **_: object,
) -> Schedule:
    """MoCo v1: the rate is divided by ten at each of the milestones."""
    rate = warmup_cosine(peak, warmup, total, end=peak)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        past = sum((step >= milestone * epoch).astype(int) for milestone in milestones)
        return rate(step) * 0.1**past

    return schedule


SHAPES = {
    "cosine": cosine,
    "dino": dino,
    "epochs": epochs,
    "tsimcne": tsimcne,
    "steps": steps,
}
