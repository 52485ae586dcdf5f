"""An online linear probe around any method."""

import jax
import jax.numpy as jnp

from simclr_jax.losses.classification import cross_entropy
from simclr_jax.methods.base import Method, without


def with_probe(
    method: Method, classes: int, *, views: int = 2, weight_decay: float = 0.0
) -> Method:
    """The method and a linear classifier of h, whose gradient stops at h.

    The batch must have labels. `probe_loss` and `probe_accuracy` are added to the
    metrics; the metric `loss` is the method's, without the probe's.

    Args:
      classes: C.
      views: the number of views that it is trained on: both in the released SimCLR
        code, the first in BYOL's.
      weight_decay: lambda of an L2 term in the loss, lambda/2 |kernel|^2, for an
        optimiser that does not decay the probe (SimCLR's supervised head).
    """
    width = method.network.width

    def init(rng, views):
        state = method.init(rng, views)
        probe = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
        return state.replace(params=state.params | {"probe": probe})

    def loss(params, state, batch, rng):
        probe, params = params["probe"], without("probe", params)
        method_loss, (state, y, metrics) = method.loss(params, state, batch, rng)
        h = jax.lax.stop_gradient(y.h[:views])  # [views, N, F]
        logits = h @ probe["kernel"] + probe["bias"][None, None]
        label = jnp.broadcast_to(batch.label[None], logits.shape[:2])
        probe_loss = cross_entropy(logits, label)
        l2 = weight_decay / 2 * jnp.sum(probe["kernel"] ** 2)
        correct = jnp.argmax(logits[0], -1) == batch.label
        probe_metrics = {
            "loss": method_loss,
            "probe_loss": probe_loss,
            "probe_accuracy": jnp.mean(correct, dtype=logits.dtype),
        }
        return method_loss + probe_loss + l2, (state, y, metrics | probe_metrics)

    return method._replace(init=init, loss=loss)
