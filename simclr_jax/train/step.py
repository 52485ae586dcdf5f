"""The train step: one for all methods."""

import jax
import jax.numpy as jnp
import optax

from simclr_jax.losses.geometry import spread


def follow(target, online, ema):
    """ema * target + (1 - ema) * online, for the branches that the target has."""
    online = {name: online[name] for name in target}
    return optax.incremental_update(online, target, step_size=1 - ema)


def guard(good, new, old):
    """The new state if the step was good; else the old one, one step on.

    Chosen on the device: the host hears of it when it next reads the metrics.
    """
    state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    return state.replace(
        rng=old.rng,
        step=old.step + 1,
        skipped=old.skipped + ~good,
        streak=jnp.where(good, 0, old.streak + 1),
    )


def make_train_step(method, tx, schedule, prepare=lambda batch: batch):
    """Returns step(state, batch) -> (state, metrics), ready for jax.jit.

    A loss or gradient that is not finite leaves the whole old state as it is
    (parameters, statistics, queue, centre, target, optimiser) and is counted.

    Args:
      method: a Method.
      tx: an optax transformation whose update takes `rate` and `step` (train/optim.py).
      schedule: step -> the learning rate.
      prepare: batch -> batch; colours the pixels on the device where tf.data only
        drew the numbers, the identity where it did the arithmetic too.
    """

    def step(state, batch):
        batch = prepare(batch)
        rng = jax.random.fold_in(state.rng, state.step)
        differentiate = jax.value_and_grad(method.loss, has_aux=True)
        said, grads = differentiate(state.params, state.blind(), batch, rng)
        loss, (new, y, metrics) = said

        rate = schedule(state.step)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, rate=rate, step=state.step
        )
        params = optax.apply_updates(state.params, updates)
        new = new.replace(params=params, opt_state=opt_state)
        if method.ema is not None:
            ema = method.ema(state.step)
            new = new.replace(target_params=follow(state.target_params, params, ema))

        norm = optax.tree.norm(grads)
        new = guard(jnp.isfinite(loss) & jnp.isfinite(norm), new, state)
        sizes = {"lr": rate, "grad_norm": norm, "spread": spread(y.z)}
        counts = {"skipped": new.skipped, "streak": new.streak}
        return new, {"loss": loss} | metrics | sizes | counts

    return step
