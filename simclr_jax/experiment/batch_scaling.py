"""A recipe at another batch size: what it does per step, scaled to the images seen.

At batch B, where the recipe was made for B0, a step sees k = B / B0 times as many
images. What is defined per step follows the power rule: where a share x of the old
value was kept at a step, x^k is kept, so that after as many images the same share is
left ("How to Scale Your EMA", arXiv:2307.13813). It applies to

- `ema` of the target. Where it grows to 1 over the run, its first value is scaled and
  the cosine stays, as in BYOL's own preset for batch 512; this differs from scaling the
  value of each step by about k |k - 1| (1 - ema)^2 / 8 at most.
- `centre_momentum` of DINO's centre.
- batch norm's running statistics, of encoder and heads.

Nothing changes in what counts epochs (warm-ups, `delay_epochs`, `milestones`), in what
is relative to the length of the run (every schedule), nor in

- MoCo's `queue`, which counts keys, one an image: its oldest key is as many images old
  at any batch, and so as far behind an encoder that follows by ema^k.
- `encoder.bn_group`, a number of images at any batch.

The rate follows `optim.lr_scaling`. What acts through the rate, or was tuned together
with it, is left alone: the optimiser's momenta, weight decay, `lr_end`, `clip`. So are
the settings of the run itself that count steps: `steps`, `log_every`, `checkpoint`,
`evaluate`. No rule makes up for the negatives that a smaller batch lacks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from simclr_jax.models.norm import MOMENTUM
from simclr_jax.train import schedules

PER_STEP = ("ema", "centre_momentum")  # keywords of methods: the share kept at a step


class Kept(NamedTuple):
    """The share of the old value that is kept at a step."""

    method: dict[str, float]  # by keyword
    batch_norm: float


def image_ratio(c: ConfigDict) -> float:
    """k, how many times as many images a step sees as in the recipe; 1 if it is off."""
    return c.data.batch_size / c.recipe_batch_size if c.recipe_batch_size else 1.0


def kept_per_step(c: ConfigDict) -> Kept:
    """The shares at the batch size in use."""
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
      normed: whether there is a batch norm.
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
    """{name: batch size -> text} of what is set by the image but counted in steps."""

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
    """A number in (0, 1) with two significant digits of 1 - x."""
    return str(round(x, 1 - math.floor(math.log10(1 - x)))) if 0 < x < 1 else str(x)
