"""Runs a recipe at another batch size: scales the moving averages updated per step.

If a recipe was made for batch size B0, a step at batch size B sees k = B / B0 times as
many images. An average that keeps a share x of its old value per step then keeps x^k,
so that the same share is left after the same number of images ("How to Scale Your
EMA", arXiv:2307.13813). This power rule applies to

- `ema` of the target. Where it grows to 1 over the run, its first value is scaled and
  the cosine is unchanged, as in BYOL's preset for batch size 512; this differs from
  scaling the value of each step by at most about k |k - 1| (1 - ema)^2 / 8.
- `centre_momentum` of DINO's centre.
- batch norm's running statistics, of encoder and heads.

These settings are not scaled:

- Numbers of epochs (warm-ups, `delay_epochs`, `milestones`) and settings relative to
  the length of the run (every schedule).
- MoCo's `queue`, a number of keys, one per image: at any batch size its oldest key was
  computed the same number of images ago, and so differs as much from the encoder.
- `encoder.bn_group`, a number of images.
- The learning rate, which follows `optim.lr_scaling`, and settings that act through it
  or were tuned with it: the optimiser's momenta, weight decay, `clip`, and `lr_end`
  (unless `lr_end_scaling` makes it a share of the peak rate).
- Numbers of steps of the run itself: `steps`, `log_every`, `checkpoint`, `evaluate`.

Nothing compensates for the smaller number of negatives in a smaller batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from simclr_jax.models.norm import MOMENTUM
from simclr_jax.train import schedules

PER_STEP = ("ema", "centre_momentum")  # keywords of methods: the share kept per step


class Kept(NamedTuple):
    """The share of the old value that an average keeps per step."""

    method: dict[str, float]  # by keyword
    batch_norm: float


def image_ratio(c: ConfigDict) -> float:
    """k, the batch size divided by the recipe's; 1 if `recipe_batch_size` is 0."""
    return c.data.batch_size / c.recipe_batch_size if c.recipe_batch_size else 1.0


def kept_per_step(c: ConfigDict) -> Kept:
    """The shares at the batch size of the run."""
    k = image_ratio(c)
    method = {key: power(c.method[key], k) for key in PER_STEP if key in c.method}
    return Kept(method, power(MOMENTUM, k))


def power(share: float, k: float) -> float:
    """share^k; a number outside (0, 1) is left for the method to check."""
    return share**k if 0 < share < 1 else share


def table(c: ConfigDict, *, images: int, normed: bool) -> str:
    """A line for each number that the scaling changes, for the log.

    Args:
      images: n, the size of the training split.
      normed: whether the networks have batch norm.
    """
    old, new = c.recipe_batch_size, c.data.batch_size
    kept = kept_per_step(c)
    rows = [(k, rounded(c.method[k]), rounded(x)) for k, x in kept.method.items()]
    if normed:
        rows.append(("batch norm", rounded(MOMENTUM), rounded(kept.batch_norm)))
    rows += [(name, text(old), text(new)) for name, text in counts(c, images).items()]
    lines = [f"  {name:18} {a:>7} -> {b}" for name, a, b in rows if a != b]
    if not lines:
        return f"recipe_batch_size={old}: at batch {new} nothing is another number"
    return "\n".join([f"{c.method.name} at batch {new} instead of {old}:", *lines])


def counts(c: ConfigDict, images: int) -> dict[str, Callable[[int], str]]:
    """{name: batch size -> text}: lengths fixed in images, expressed in steps."""

    def warmup(batch_size):
        rule, epochs = c.optim.length, c.optim.warmup_epochs
        return str(schedules.warmup_steps(rule, images, epochs, batch_size))

    texts: dict[str, Callable[[int], str]]
    texts = {} if c.steps else {"steps of warm-up": warmup}
    if "queue" in c.method:
        queue = c.method.queue
        texts["batches in queue"] = lambda batch_size: f"{queue / batch_size:g}"
    return texts


def rounded(x: float) -> str:
    """x as text; a number in (0, 1) with two significant digits of 1 - x."""
    return str(round(x, 1 - math.floor(math.log10(1 - x)))) if 0 < x < 1 else str(x)
