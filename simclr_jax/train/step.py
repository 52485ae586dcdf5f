"""The train step: one for all methods."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax.batch import Batch
from simclr_jax.losses.geometry import spread
from simclr_jax.state import Metrics, TrainState


def update_target(target: Any, online: Any, ema: Any) -> Any:
    """ema * target + (1 - ema) * online, for the modules that the target has."""
    online = {name: online[name] for name in target}
    return optax.incremental_update(online, target, step_size=1 - ema)


def keep_if_finite(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """The new state if the step was finite; otherwise the old one, with step + 1.

    Selected on the device, so that the host need not wait for the result.
    """
    state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return state.replace(
        rng=old.rng,
        step=old.step + 1,
        skipped=old.skipped + ~finite,
        streak=jnp.where(finite, 0, old.streak + 1),
    )


def make_train_step(
    method: Any,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[Any], Any],
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns step(state, batch) -> (state, metrics), ready for jax.jit.

    If the loss or gradient is not finite, the parameters, statistics, queue, centre,
    target and optimiser state are unchanged, and the step is counted as skipped.

    Args:
      method: a `methods.base.Method`.
      tx: an optax transformation whose update takes `rate` and `step` (train/optim.py).
      schedule: step -> the learning rate.
      prepare: the part of the augmentation that runs on the device (see
        `data.augment_device.prepare`).
    """

    def step(state, batch):
        batch = prepare(batch)
        rng = jax.random.fold_in(state.rng, state.step)
        value_and_grad = jax.value_and_grad(method.loss, has_aux=True)
        (loss, (changed, outputs, metrics)), grads = value_and_grad(
            state.params, state.for_loss(), batch, rng
        )

        rate = schedule(state.step)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, rate=rate, step=state.step
        )
        params = optax.apply_updates(state.params, updates)
        new = state.replace(
            params=params,
            opt_state=opt_state,
            model_state=changed.model_state,
            method_state=changed.method_state,
        )
        if method.ema is not None:
            ema = method.ema(state.step)
            target = update_target(state.target_params, params, ema)
            new = new.replace(target_params=target)

        norm = optax.tree.norm(grads)
        new = keep_if_finite(jnp.isfinite(loss) & jnp.isfinite(norm), new, state)
        *_, embedding = method.features(outputs).values()
        sizes = {"lr": rate, "grad_norm": norm, "spread": spread(embedding)}
        counts = {"skipped": new.skipped, "streak": new.streak}
        return new, {"loss": loss} | metrics | sizes | counts

    return step
