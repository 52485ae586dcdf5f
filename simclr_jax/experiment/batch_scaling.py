"""A recipe at another batch size: what it does by the step, it shall do by the image.

At batch B, where the recipe was made for B0, a step sees k = B / B0 times as many
images. What is said per step is scaled by the power rule: of which a part x stayed at a
step, x^k stays now, so that after as many images as much is left of what was before
("How to Scale Your EMA", arXiv:2307.13813). This goes for

- `ema` of the target. Where it grows to 1 over the run, its start is scaled and the
  cosine stays, as in BYOL's own preset for batch 512; from scaling the value of each
  step that differs by about k |k - 1| (1 - ema)^2 / 8 at most.
- `centre_momentum` of DINO's centre.
- batch norm's running statistics, of encoder and heads.

Nothing need be done for what counts epochs (warm-ups, `late_epochs`, `changes`) or goes
with the length of the run (every schedule), nor for

- MoCo's `queue`, which counts keys, one an image: its oldest is as many images old at
  any batch, and so as far behind an encoder that follows by ema^k.
- `encoder.bn_group`, so many images at any batch.

The rate is left to `optim.lr_scaling`, and to the rate what acts through it or was
found together with it: the optimiser's momenta, weight decay, `lr_end`, `clip`. So is
what the run asks for itself, in steps: `steps`, `log_every`, `checkpoint`, `evaluate`.
No rule makes up for the negatives that a smaller batch lacks.
"""

import math
from typing import NamedTuple

from simclr_jax.models.norm import MOMENTUM
from simclr_jax.train import schedules

STAYING = ("ema", "centre_momentum")  # the methods' keywords for what stays at a step


class Stays(NamedTuple):
    """How much of the old stays at a step."""

    method: dict[str, float]  # by keyword
    batch_norm: float


def stays(c) -> Stays:
    """At the batch in use, if the config says for which one its recipe was made."""
    k = c.data.batch_size / c.transfer_from if c.transfer_from else 1
    of_method = {name: power(c.method[name], k) for name in STAYING if name in c.method}
    return Stays(of_method, power(MOMENTUM, k))


def power(part: float, k: float) -> float:
    """What stays at a step of k times the images; what is no part is left as it is."""
    return part**k if 0 < part < 1 else part


def table(c, *, images: int, normed: bool) -> str:
    """A line for each number that is another one now, for the log.

    Args:
      images: n, the size of the training split.
      normed: whether there is a batch norm.
    """
    old, new = c.transfer_from, c.data.batch_size
    now = stays(c)
    rows = [(name, part(c.method[name]), part(x)) for name, x in now.method.items()]
    if normed:
        rows.append(("batch norm", part(MOMENTUM), part(now.batch_norm)))
    rows += [(name, *map(by, (old, new))) for name, by in in_steps(c, images).items()]
    lines = [f"  {name:18} {a:>7} -> {b}" for name, a, b in rows if a != b]
    if not lines:
        return f"transfer_from={old}: at batch {new} nothing is another number"
    return "\n".join([f"{c.method.name} at batch {new} instead of {old}:", *lines])


def in_steps(c, images: int) -> dict:
    """{name: batch -> text} of what is said by the image but happens by the step."""

    def warmup(batch):
        rule, epochs = c.optim.length, c.optim.warmup_epochs
        return str(schedules.warmup_steps(rule, images, epochs, batch))

    known = {} if c.steps else {"steps of warm-up": warmup}
    if "queue" in c.method:
        known["batches in queue"] = lambda batch: f"{c.method.queue / batch:g}"
    return known


def part(x: float) -> str:
    """A part of 1, to two digits of what it lacks."""
    return str(round(x, 1 - math.floor(math.log10(1 - x)))) if 0 < x < 1 else str(x)
