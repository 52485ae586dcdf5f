"""Supervised learning, the baseline: the encoder is trained with the labels.

A linear classifier of h and the encoder below it minimise the cross-entropy of the
classes (He et al. 2016, arXiv:1512.03385). The encoder, its pictures, the optimiser and
the evaluations are those of the self-supervised methods, so that only the loss differs.
"""

from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.losses.classification import cross_entropy
from simclr_jax.methods.base import Method, online_forward, plain_init
from simclr_jax.models.heads import MLP, Layer
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network


def supervised(
    encoder: Any,
    options: BatchOptions = WHOLE_BATCH,
    *,
    label_smoothing: float = 0.0,  # SimCLR's baselines; BYOL's and later ones have 0.1
    classes: int,
) -> Method:
    """Cross-entropy of every view of a picture, with its label.

    The feature z is the classifier's output, the logits [V, N, C].

    Args:
      encoder: as `network.network` takes it.
      classes: C.

    Raises:
      ValueError: the pictures have no labels, or label_smoothing is not in [0, 1].
    """
    if classes < 1:
        raise ValueError(
            "method.name=supervised needs labels, and this data set has none."
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}.")
    classifier = MLP((Layer(classes, bias=True, norm=""),), "simclr")
    net = network(encoder, classifier, options=options, joint=True)

    def loss(params, state, batch, rng):
        y, state = online_forward(net, params, state, batch.views, rng)
        logits = y.heads["projector"]  # [V, N, C]
        label = jnp.broadcast_to(batch.label[None], logits.shape[:2])
        correct = jnp.argmax(jax.lax.stop_gradient(logits), -1) == label
        loss = cross_entropy(logits, label, label_smoothing)
        return loss, (state, y, {"accuracy": jnp.mean(correct, dtype=logits.dtype)})

    return Method(plain_init(net), loss, net)
