"""How long a run is, how its learning rate starts and how it goes over the steps."""

import math

import jax.numpy as jnp


def _running(n, e, b):
    """Steps of e epochs that run on through the batches: floor(n e / B)."""
    return math.floor(n * e / b)


def _whole(n, e, b):
    """Steps of e epochs, each of floor(n / B) steps: its last images are left out."""
    return math.floor(n // b * e)


LENGTHS = {  # how to count the steps of the run, and those of its warm-up
    "simclr": (lambda n, e, b: _running(n, e, b) + 1, _running),  # the released code
    "byol": (_running, _running),  # the released BYOL code
    "whole": (_whole, _running),  # whole epochs, nothing beyond
    "moco": (_whole, _whole),  # the released MoCo, SimSiam and DINO codes
}

SCALINGS = {  # peak rate of a base rate at batch B
    "linear": lambda lr, b: lr * b / 256,  # SimCLR appendix B.1
    "sqrt": lambda lr, b: lr * b**0.5,
    "none": lambda lr, b: lr,
}


def total_steps(rule: str, images: int, epochs: float, batch_size: int) -> int:
    """Steps of a run by one of the LENGTHS."""
    run, _ = LENGTHS[rule]
    return run(images, epochs, batch_size)


def warmup_steps(rule: str, images: int, epochs: float, batch_size: int) -> int:
    """Steps of its warm-up."""
    _, warmup = LENGTHS[rule]
    return warmup(images, epochs, batch_size)


def warmup_cosine(
    peak: float, warmup: int, total: int, end: float = 0.0, *, inclusive: bool = False
):
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to `end`.

    Args:
      total: the step at which the cosine arrives at `end`.
      inclusive: whether the last step of the warm-up has the peak rate already, which
        the first one of the cosine has in any case.

    Returns:
      step -> rate, float32; 0 at step 0 (unless there is no warm-up), `end` from
      `total` on.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        left = jnp.clip((total - step) / max(total - warmup, 1), 0, 1)
        # (1 + cos(pi (1 - left))) / 2, but exact to the last step, where 1 + cos is not
        cosine = end + (peak - end) * jnp.sin(jnp.pi / 2 * left) ** 2
        rise = peak * step / max(warmup - inclusive, 1)
        return jnp.where(step < warmup, rise, cosine)

    return schedule


# How a rate goes over the steps: (peak, end, warmup, total, epoch, changes) -> step ->
# rate, with warmup, total and epoch in steps, and changes in epochs. Each shape names
# what it has a use for.


def cosine(*, peak, end, warmup, total, **_):
    """SimCLR, BYOL, MoCo v3: from step to step."""
    return warmup_cosine(peak, warmup, total, end)


def dino(*, peak, end, warmup, total, **_):
    """DINO: from step to step, with two steps at the peak."""
    return warmup_cosine(peak, warmup, total, end, inclusive=True)


def epochs(*, peak, end, warmup, total, epoch, **_):
    """MoCo v2, SimSiam: an epoch keeps the rate of its first step."""
    rate = warmup_cosine(peak, warmup, total, end)
    return lambda step: rate(step // epoch * epoch)


def tsimcne(*, peak, end, warmup, total, epoch, **_):
    """t-SimCNE: from epoch to epoch, two of them at the peak; the end is never reached.

    Of the cosine's 1 + E - W points the last one, of an epoch E, is not used.
    """
    warm, last = math.ceil(warmup / epoch), math.ceil(total / epoch)
    rate = warmup_cosine(peak, warm, last + 1, end, inclusive=True)
    return lambda step: rate(step // epoch)


def steps(*, peak, warmup, total, epoch, changes, **_):
    """MoCo v1: a tenth of the rate from each of the changes on."""
    rate = warmup_cosine(peak, warmup, total, end=peak)

    def schedule(step):
        past = sum(jnp.asarray(step >= change * epoch, int) for change in changes)
        return rate(step) * 0.1**past

    return schedule


SHAPES = {
    "cosine": cosine,
    "dino": dino,
    "epochs": epochs,
    "tsimcne": tsimcne,
    "steps": steps,
}
