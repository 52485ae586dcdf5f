"""DINO (Caron et al. 2021, arXiv:2104.14294).

The student sees all views; the teacher, an EMA of the student, sees the first two,
which are large. Each view gets a distribution over K prototypes; the student's for one
view is trained to match the teacher's for another. Centring the teacher's logits keeps
one prototype from dominating; sharpening keeps the distributions from being uniform.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.losses.distillation import (
    distil,
    entropy,
    prototype_logits,
    recentre,
    sharpen,
    weight_normalised,
)
from simclr_jax.methods.base import (
    Init,
    Method,
    cosine_to_one,
    online_forward,
    target_forward,
)
from simclr_jax.methods.health import Health, Sign
from simclr_jax.models.heads import DistillationHead
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, Network, network
from simclr_jax.state import TrainState

PROTOTYPES = zlib.crc32(b"prototypes")


def dino(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    temperature: float = 0.1,  # of the student
    teacher_temperature: float = 0.04,  # in the first epoch
    teacher_temperature_end: float = 0.07,  # after its warm-up
    teacher_warmup_epochs: int = 30,
    hidden: int = 2048,
    out: int = 256,
    batch_norm: bool = False,  # in the head; the released ResNet-50 has it
    prototypes: int = 65536,  # K
    norm_last_layer: bool = True,  # the prototypes have length 1, which is not trained
    centre_momentum: float = 0.9,
    ema: float = 0.996,  # lambda; it grows to 1
    total_steps: int,
    steps_per_epoch: int,
) -> Method:
    """DINO with an encoder as `network.network` takes it.

    Raises:
      ValueError: a temperature is not above 0, there are fewer than two prototypes, or
        centre_momentum or ema is not in [0, 1].
    """
    check_widths(prototypes, hidden, out)
    check_temperatures(temperature, teacher_temperature, teacher_temperature_end)
    if not 0 <= centre_momentum <= 1:
        raise ValueError(f"centre_momentum must be from 0 to 1, got {centre_momentum}.")
    head = DistillationHead(hidden, out, batch_norm)
    net = network(encoder, head, options=options, joint=True)
    warmup = temperature_warmup(
        teacher_temperature,
        teacher_temperature_end,
        epochs=teacher_warmup_epochs,
        steps_per_epoch=steps_per_epoch,
    )

    def loss(params, state, batch, rng):
        check_views(batch.views)
        y, state = online_forward(net, params, state, batch.views, rng)
        t, state = target_forward(net, state, batch.views[:2], None)

        student = weight_normalised(**params["prototypes"])
        teacher = weight_normalised(**state.target_params["prototypes"])
        logits = prototype_logits(t.heads["projector"], teacher)  # [2, N, K]
        logits = jax.lax.stop_gradient(logits)
        centre = state.method_state
        p = sharpen(logits, centre, warmup(state.step))
        loss = distil(y.heads["projector"], student, p, temperature)

        state = state.replace(method_state=recentre(centre, logits, centre_momentum))
        mean_entropy = jnp.mean(entropy(p))
        metrics = {
            "teacher_entropy": mean_entropy,  # 0 or ln K: collapsed
            "prototype_entropy": entropy(jnp.mean(p, (0, 1))),  # of their mean
            "kl": loss - mean_entropy,
        }
        return loss, (state, y, metrics)

    def measure(y, state):
        centre = state.method_state
        return {
            "centre_norm": jnp.linalg.norm(centre),
            "centre_range": jnp.max(centre) - jnp.min(centre),
        }

    def signs(images):
        return (
            Sign(
                "one prototype",
                {"prototype_entropy": (0, 0.02 * math.log(prototypes))},
                "The teacher gives all pictures the same prototype (entropy of the "
                "mean {prototype_entropy:.3g}, of each picture {teacher_entropy:.3g}): "
                "centring does not work. Try a smaller method.centre_momentum, or a "
                "higher method.teacher_temperature.",
            ),
            Sign(
                "uniform",
                {"teacher_entropy": (0.98 * math.log(prototypes), math.inf)},
                "The teacher gives all prototypes the same probability (entropy "
                "{teacher_entropy:.4g}, "
                f"where ln K is {math.log(prototypes):.4g}; KL "
                "{kl:.2g}): sharpening does not work. Try a lower "
                "method.teacher_temperature.",
            ),
        )

    return Method(
        _init(net, prototypes, out, learn_lengths=not norm_last_layer),
        loss,
        net,
        cosine_to_one(ema, total_steps),
        keep="target",
        health=Health(measure, signs),
    )


def _init(net: Network, prototypes: int, out: int, *, learn_lengths: bool) -> Init:
    def init(rng, views):
        check_views(views)
        params, stats = net.init(rng, views)
        bound = out**-0.5  # 1/16 at 256
        key = jax.random.fold_in(rng, PROTOTYPES)
        v = jax.random.uniform(key, (prototypes, out), minval=-bound, maxval=bound)
        lengths = {"g": jnp.ones(prototypes)} if learn_lengths else {}
        params |= {"prototypes": {"v": v} | lengths}
        return TrainState(
            params,
            rng,
            target_params=params,
            model_state={"online": stats, "target": stats},
            method_state=jnp.zeros(prototypes),  # the centre
        )

    return init


def temperature_warmup(
    start: float, end: float, *, epochs: int, steps_per_epoch: int
) -> Callable[[Any], jax.Array]:
    """step -> the teacher's temperature: linear in the integer epoch number.

    It is `start` in the first epoch of the warm-up and `end` from its last epoch on.
    """

    def temperature(step):
        epoch, last = step // steps_per_epoch, max(epochs - 1, 1)
        progress = jnp.where(epoch < epochs, epoch / last, 1)
        return (1 - progress) * start + progress * end

    return temperature


def check_widths(prototypes: int, hidden: int, out: int) -> None:
    """Raises a ValueError unless prototypes >= 2 and both widths >= 1."""
    if prototypes < 2 or min(hidden, out) < 1:
        raise ValueError(
            "DINO needs two prototypes or more and layers of width 1 or more, got "
            f"prototypes = {prototypes}, hidden = {hidden}, out = {out}."
        )


def check_temperatures(student: float, teacher: float, teacher_end: float) -> None:
    """Raises a ValueError unless all are above 0."""
    if not min(student, teacher, teacher_end) > 0:
        raise ValueError(
            f"All temperatures must be above 0, got temperature = {student}, "
            f"teacher_temperature = {teacher}, "
            f"teacher_temperature_end = {teacher_end}."
        )


def check_views(views: Sequence[Any]) -> None:
    """Raises a ValueError unless there are two or more, the first two of one size."""
    shapes = [view.shape for view in views]
    if len(shapes) < 2 or shapes[0] != shapes[1]:
        raise ValueError(
            "DINO needs two or more views, the first two of one size; got "
            f"{', '.join(map(str, shapes))}."
        )
