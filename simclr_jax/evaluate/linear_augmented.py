"""Linear evaluation as in the papers: trained on augmented pictures."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from simclr_jax.data.pipeline import eval_batches, train_batches
from simclr_jax.data.prefetch import feed
from simclr_jax.data.sources import Source
from simclr_jax.data.subsets import Subset
from simclr_jax.data.view import View
from simclr_jax.evaluate.features import Features, FrozenEncoder, check_split, extract
from simclr_jax.evaluate.linear import logits, score
from simclr_jax.losses.classification import cross_entropy
from simclr_jax.models import cpu
from simclr_jax.sharding import replicated
from simclr_jax.train.schedules import SCALINGS, SHAPES, total_steps


def _haiku(key, shape, dtype):
    """Haiku's default: deviation 1 / sqrt(F), cut off at two of these."""
    return jax.nn.initializers.truncated_normal(shape[0] ** -0.5)(key, shape, dtype)


CROPS: dict[str, dict[str, Any]] = {  # settings of a view, beside its size
    "simclr": {},
    "byol": {"crop": "inception_log"},
    "torchvision": {
        "crop": "torch",
        "resize": "pil_bilinear",
        "colours": "pil",
        "brightness_mode": "multiplicative",
    },
}
INITIALIZERS = {  # of the kernel [F, C]
    "zeros": jax.nn.initializers.zeros,
    "normal": jax.nn.initializers.normal(0.01),  # MoCo's code and those after it
    "haiku": _haiku,
}
OPTIMISERS = ("nesterov", "sgd", "larc")
SCHEDULES = ("cosine", "epochs", "steps")  # of `train.schedules.SHAPES`

Progress = Callable[[int, int], None]  # (steps done, steps in all)


class _Task(NamedTuple):
    """What all heads of an evaluation have in common."""

    encoder: FrozenEncoder  # on the mesh
    feature: str
    width: int  # F
    size: int
    mesh: Mesh
    settings: dict[str, Any]


def linear_augmented(
    encoder: FrozenEncoder,
    source: Source,
    test: Features,
    feature: str,
    size: int,
    mesh: Mesh,
    progress: Progress = lambda done, total: None,
    *,
    epochs: int = 90,
    batch_size: int = 4096,
    lr: float = 0.1,
    rates: tuple[float, ...] = (),
    validation: int = 10_009,
    optimiser: str = "nesterov",
    schedule: str = "cosine",
    milestones: tuple[float, ...] = (60.0, 80.0),
    length: str = "simclr",
    initializer: str = "zeros",
    crops: str = "simclr",
    weight_decay: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Linear evaluation as published; by default SimCLR (arXiv:2002.05709), app. B.6.

    The encoder is frozen, in evaluation mode. A linear head is trained on its features
    of randomly cropped and flipped pictures. `presets.LINEAR` has the settings of other
    papers. On CIFAR-10 SimCLR's authors used 100 epochs at batch 512.

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
      lr: base rate; the first rate is lr B / 256.
      rates: base rates to try instead of lr. The one whose head is best on a held-out
        part of the training pictures is used to train on all of them (BYOL).
      validation: pictures to hold out for this; at most a tenth of them.
      optimiser: SGD of momentum 0.9, "nesterov" or plain "sgd", or "larc", plain with a
        layer-wise rate (SimSiam).
      schedule: of the rate: "cosine" to 0, "epochs", where all steps of an epoch have
        the rate of its first, or "steps", divided by 10 at the milestones.
      milestones: epochs of "steps".
      length: of the run in steps, one of `schedules.LENGTHS`.
      initializer: of the kernel, one of INITIALIZERS; the bias is initially 0.
      crops: one of CROPS.
      weight_decay: weight of an L2 term on the kernel, 1e-6 in SimCLR's command.
      seed: of order, crops and flips, of the kernel and of the held-out pictures.

    Returns:
      as `scores.classification`, and with `rates` "rate", the best one.

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
    held_out = min(validation, len(source) // 10) if rates else 0
    _check_batch(batch_size, len(source) - held_out, mesh)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimiser": optimiser,
        "schedule": schedule,
        "milestones": milestones,
        "length": length,
        "initializer": initializer,
        "crops": crops,
        "weight_decay": weight_decay,
        "seed": seed,
    }
    task = _Task(encoder.on(mesh), feature, x.shape[1], size, mesh, settings)
    total = _steps(task, len(source))
    before = _steps(task, len(source) - held_out) if rates else 0
    chosen = {}
    if rates:
        trying = lambda done: progress(done, before + total)  # noqa: E731
        lr = _best_rate(task, source, held_out, rates, trying)
        chosen = {"rate": lr}
    (head,) = _train(
        task, source, (lr,), lambda done: progress(before + done, before + total)
    )
    if not _finite(head):
        raise FloatingPointError(
            "The linear head is not finite: the encoder has diverged, or "
            f"evaluate.linear_augmented.lr={lr} is too high."
        )
    return score(head, x, test.label, mesh) | chosen


def _check_batch(batch_size, images, mesh):
    if batch_size > images:
        raise ValueError(
            f"evaluate.linear_augmented.batch_size={batch_size} is larger than the "
            f"{images} pictures to train on."
        )
    if batch_size % mesh.size:
        raise ValueError(
            f"The batch of {batch_size} does not divide by the {mesh.size} devices. "
            f"Try evaluate.linear_augmented.batch_size="
            f"{max(batch_size // mesh.size, 1) * mesh.size}."
        )


def _steps(task: _Task, images: int) -> int:
    c = task.settings
    return total_steps(c["length"], images, c["epochs"], c["batch_size"])


def _best_rate(task, source, held_out: int, rates, report) -> float:
    """The rate whose head, trained on the other pictures, is best on those held out.

    All heads are trained side by side, on the same features. Of equally good rates the
    first one is taken.
    """
    order = np.random.default_rng(task.settings["seed"]).permutation(len(source))
    validation, rest = (
        Subset(source, np.sort(rows), f"{source.name}, {name}")
        for rows, name in (
            (order[:held_out], "held out"),
            (order[held_out:], "without those held out"),
        )
    )
    heads = _train(task, rest, rates, report)
    batches = eval_batches(
        validation,
        size=task.size,
        batch_size=task.settings["batch_size"],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    features = extract(task.encoder, batches, task.mesh)
    x = features.values[task.feature]
    accuracies = [
        score(head, x, features.label, task.mesh)["accuracy"] if _finite(head) else -1
        for head in heads
    ]
    return rates[int(np.argmax(accuracies))]


def _finite(head) -> bool:
    return bool(np.isfinite(jax.device_get(head["bias"])).all())


def _train(task: _Task, source: Source, rates, report) -> list[dict[str, Any]]:
    """The heads after all steps, one for each base rate; reports each step."""
    c = task.settings
    total = _steps(task, len(source))
    batches = train_batches(
        source,
        (View(size=task.size, **CROPS[c["crops"]]),),
        batch_size=c["batch_size"],
        seed=c["seed"],
        first_step=0,
        steps=total,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    head = _initial(task.width, source.classes, c["initializer"], c["seed"])
    optimisers = [_optimiser(c, rate, len(source), total) for rate in rates]
    return _updated(task, head, optimisers, feed(batches, task.mesh), report)


def _initial(width: int, classes: int, initializer: str, seed: int):
    """A kernel [F, C] and a bias of zeros."""
    shape = width, classes
    kernel = INITIALIZERS[initializer](jax.random.key(seed), shape, jnp.float32)
    return {"kernel": np.asarray(kernel), "bias": np.zeros(classes, np.float32)}


def _optimiser(c: dict[str, Any], lr: float, images: int, total: int):
    rate = SHAPES[c["schedule"]](
        peak=SCALINGS["linear"](lr, c["batch_size"]),
        end=0.0,
        warmup=0,
        total=total,
        epoch=images // c["batch_size"],
        milestones=c["milestones"],
    )
    decayed = {"kernel": True, "bias": False}
    parts = [optax.add_decayed_weights(c["weight_decay"], mask=decayed)]
    if c["optimiser"] == "larc":  # the raw gradient while an array is 0, as apex's
        parts.append(optax.scale_by_trust_ratio(trust_coefficient=0.001, eps=1e-8))
    nesterov = c["optimiser"] == "nesterov"
    return optax.chain(*parts, optax.sgd(rate, momentum=0.9, nesterov=nesterov))


def _updated(task, head, optimisers, batches, report):
    """The heads after a step of each optimiser on each batch."""
    encoder = task.encoder

    @functools.partial(
        jax.jit, donate_argnums=0, compiler_options=cpu.compiler_options(task.mesh)
    )
    def step(states, params, stats, views, label):
        outputs = encoder.features(encoder.encode(params, stats, views[0]))
        x = outputs[task.feature][0].astype(jnp.float32)

        def updated(tx, head, opt_state):
            grad = jax.grad(lambda head: cross_entropy(logits(head, x), label))(head)
            updates, opt_state = tx.update(grad, opt_state, head)
            return optax.apply_updates(head, updates), opt_state

        pairs = zip(optimisers, states, strict=True)
        return [updated(tx, *state) for tx, state in pairs]

    states = [(head, tx.init(head)) for tx in optimisers]
    states = jax.device_put(states, replicated(task.mesh))
    for done, batch in enumerate(batches, 1):
        states = step(states, encoder.params, encoder.stats, batch.views, batch.label)
        report(done)
    return [head for head, _ in states]
