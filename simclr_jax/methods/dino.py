"""DINO (Caron et al. 2021, arXiv:2104.14294).

The student sees all views, the teacher the first two, which are large; each finds in a
view some of K prototypes, and the student must find what the teacher has found in
another view. The teacher follows the student by EMA. Two things keep them from saying
the same of all images: its logits are centred, so that no prototype takes all, and
sharpened, so that not all take alike.
"""

import zlib

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
from simclr_jax.methods.base import Method, cosine_to_one
from simclr_jax.models.heads import DistillationHead
from simclr_jax.models.network import network
from simclr_jax.state import TrainState

PROTOTYPES = zlib.crc32(b"prototypes")


def dino(
    encoder,
    *,
    temperature: float = 0.1,  # of the student
    teacher_temperature: float = 0.04,  # in the first epoch
    teacher_temperature_end: float = 0.07,  # from the end of its warm-up on
    teacher_warmup_epochs: int = 30,
    hidden: int = 2048,
    out: int = 256,
    batch_norm: bool = False,  # in the head; the released ResNet-50 has it
    prototypes: int = 65536,  # K
    norm_last_layer: bool = True,  # the prototypes' lengths stay 1
    centre_momentum: float = 0.9,
    ema: float = 0.996,  # lambda; it grows to 1
    total_steps: int,
    steps_per_epoch: int,
) -> Method:
    if prototypes < 2 or min(hidden, out) < 1:
        raise ValueError(
            "DINO wants two prototypes or more and layers of width 1 or more, got "
            f"prototypes = {prototypes}, hidden = {hidden}, out = {out}."
        )
    if not min(temperature, teacher_temperature, teacher_temperature_end) > 0:
        raise ValueError(
            f"All temperatures must be above 0, got temperature = {temperature}, "
            f"teacher_temperature = {teacher_temperature}, "
            f"teacher_temperature_end = {teacher_temperature_end}."
        )
    if not 0 <= centre_momentum <= 1:
        raise ValueError(f"centre_momentum must be from 0 to 1, got {centre_momentum}.")
    net = network(encoder, DistillationHead(hidden, out, batch_norm), joint=True)

    def init(rng, views):
        check(views)
        params, stats = net.init(rng, views)
        bound = out**-0.5  # 1/16 at 256
        key = jax.random.fold_in(rng, PROTOTYPES)
        v = jax.random.uniform(key, (prototypes, out), minval=-bound, maxval=bound)
        lengths = {} if norm_last_layer else {"g": jnp.ones(prototypes)}
        params |= {"prototypes": {"v": v} | lengths}
        return TrainState(
            params,
            rng,
            target_params=params,
            model_state={"online": stats, "target": stats},
            method_state=jnp.zeros(prototypes),  # the centre
        )

    def sharpness(step):
        """The teacher's temperature, even steps from epoch to epoch, both ends met."""
        epoch, last = step // steps_per_epoch, max(teacher_warmup_epochs - 1, 1)
        way = jnp.where(epoch < teacher_warmup_epochs, epoch / last, 1)
        return (1 - way) * teacher_temperature + way * teacher_temperature_end

    def loss(params, state, batch, rng):
        views, stats, centre = batch.views, state.model_state, state.method_state
        check(views)
        y, online = net.apply(params, stats["online"], views, rng)
        t, target = net.apply(state.target_params, stats["target"], views[:2], None)

        student = weight_normalised(**params["prototypes"])
        teacher = weight_normalised(**state.target_params["prototypes"])
        found = jax.lax.stop_gradient(prototype_logits(t.z, teacher))  # [2, N, K]
        p = sharpen(found, centre, sharpness(state.step))
        loss = distil(y.z, student, p, temperature)

        state = state.replace(
            model_state={"online": online, "target": target},
            method_state=recentre(centre, found, centre_momentum),
        )
        each = jnp.mean(entropy(p))
        metrics = {
            "teacher_entropy": each,  # 0 or ln K: collapsed
            "prototype_entropy": entropy(jnp.mean(p, (0, 1))),  # of all images together
            "kl": loss - each,
        }
        return loss, (state, y, metrics)

    return Method(init, loss, net, cosine_to_one(ema, total_steps), keep="target")


def check(views):
    """Raises a ValueError unless the first two views can be the teacher's."""
    shapes = [view.shape for view in views]
    if len(shapes) < 2 or shapes[0] != shapes[1]:
        raise ValueError(
            "DINO wants two or more views, the first two of them of one size; got "
            f"{', '.join(map(str, shapes))}."
        )
