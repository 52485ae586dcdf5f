"""Linear evaluation as in the papers: trained on augmented pictures."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.prefetch import feed
from simclr_jax.data.recipes import RECIPES
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.features import Features, FrozenEncoder, check_split
from simclr_jax.evaluate.linear import logits, score
from simclr_jax.losses.classification import cross_entropy
from simclr_jax.models import cpu
from simclr_jax.sharding import replicated
from simclr_jax.train.schedules import SCALINGS, total_steps, warmup_cosine


def linear_augmented(
    encoder: FrozenEncoder,
    source: Source,
    test: Features,
    feature: str,
    size: int,
    mesh: Mesh,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    epochs: int = 90,
    batch_size: int = 4096,
    lr: float = 0.1,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Linear evaluation as published: SimCLR (arXiv:2002.05709), appendix B.6.

    The encoder is frozen, in evaluation mode. A linear head, initially zero, is trained
    on its features of randomly cropped and flipped pictures by Nesterov SGD (momentum
    0.9) with a cosine schedule without warm-up, for floor(n epochs / batch) + 1 steps.
    On CIFAR-10 the authors used 100 epochs at batch 512.

    Args:
      encoder: to evaluate.
      source: the training split, with labels.
      test: features by the same encoder of centre crops (`pipeline.eval_batches`), with
        labels.
      feature: one of the names of test's features.
      size: side of the pictures, in pixels.
      mesh: its size must divide batch_size.
      progress: called with (steps done, total steps) after each step is dispatched.
      epochs: E.
      batch_size: B, of all processes together.
      lr: base rate; the peak is lr B / 256.
      weight_decay: weight of an L2 term on the kernel, 1e-6 in the released command.
      seed: of order, crops and flips.

    Returns:
      {"accuracy": in [0, 1], "count": M}.

    Raises:
      ValueError: unknown feature, a batch size that the mesh's does not divide, and as
        `features.check_split` and `data.pipeline.train_batches`.
      FloatingPointError: the head diverged.
    """
    if feature not in test.values:
        names = " or ".join(f'"{name}"' for name in test.values)
        raise ValueError(f"A feature is {names}, got {feature!r}.")
    x = test.values[feature]
    check_split("test", x, test.label, source.classes)
    check_batch("linear_augmented", batch_size, len(source), mesh)
    total = total_steps("simclr", len(source), epochs, batch_size)
    batches = train_batches(
        source,
        RECIPES["crop_flip"](size=size),
        batch_size=batch_size,
        seed=seed,
        first_step=0,
        steps=total,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    rate = warmup_cosine(SCALINGS["linear"](lr, batch_size), 0, total)
    head = {
        "kernel": np.zeros((x.shape[1], source.classes), np.float32),
        "bias": np.zeros(source.classes, np.float32),
    }
    head = _train(
        encoder.on(mesh),
        feature,
        head,
        _nesterov(rate, weight_decay),
        feed(batches, mesh),
        mesh,
        lambda done: progress(done, total),
    )
    if not np.isfinite(jax.device_get(head["bias"])).all():
        raise FloatingPointError(
            "The linear head is not finite: the encoder has diverged, or "
            f"evaluate.linear_augmented.lr={lr} is too high."
        )
    return score(head, x, test.label, mesh)


def check_batch(protocol: str, batch_size: int, images: int, mesh: Mesh) -> None:
    """Checks the batch size of a protocol that trains.

    Args:
      protocol: its name, for messages.
      images: n, the pictures that it trains on.

    Raises:
      ValueError: the batch is larger, or does not divide over the devices.
    """
    key = f"evaluate.{protocol}.batch_size"
    if batch_size > images:
        raise ValueError(
            f"{key}={batch_size} is larger than the {images} pictures to train on; "
            f"the largest possible is {images // mesh.size * mesh.size}."
        )
    if batch_size % mesh.size:
        raise ValueError(
            f"The batch of {batch_size} does not divide by the {mesh.size} devices. "
            f"Try {key}={max(batch_size // mesh.size, 1) * mesh.size}."
        )


def _nesterov(rate, weight_decay):
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False}),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )


def _train(encoder, feature, head, tx, batches, mesh, report):
    """The head after a step of the optimiser on each batch; reports each step."""

    @functools.partial(
        jax.jit, donate_argnums=0, compiler_options=cpu.compiler_options(mesh)
    )
    def step(state, params, stats, views, label):
        outputs = encoder.features(encoder.encode(params, stats, views[0]))
        x = outputs[feature][0].astype(jnp.float32)
        head, opt_state = state
        grad = jax.grad(lambda head: cross_entropy(logits(head, x), label))(head)
        updates, opt_state = tx.update(grad, opt_state, head)
        return optax.apply_updates(head, updates), opt_state

    state = jax.device_put((head, tx.init(head)), replicated(mesh))
    for done, batch in enumerate(batches, 1):
        state = step(state, encoder.params, encoder.stats, batch.views, batch.label)
        report(done)
    return state[0]
