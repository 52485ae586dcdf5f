"""Fine-tuning of the whole network with few labels or all of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from simclr_jax.batch import Batch
from simclr_jax.data.pipeline import eval_batches, train_batches
from simclr_jax.data.prefetch import feed
from simclr_jax.data.recipes import RECIPES
from simclr_jax.data.sources import Source
from simclr_jax.data.subsets import labelled_part
from simclr_jax.evaluate.features import FrozenEncoder, extract
from simclr_jax.evaluate.linear import logits
from simclr_jax.evaluate.linear_augmented import check_batch
from simclr_jax.evaluate.scores import TOP, classification
from simclr_jax.losses.classification import cross_entropy
from simclr_jax.models import cpu
from simclr_jax.sharding import replicated
from simclr_jax.train.optim import NORMS_AND_BIASES, lars, sgd
from simclr_jax.train.schedules import SCALINGS, total_steps, warmup_cosine

CLASSIFIER = "classifier"  # the name of the new layer among the parameters
FEW_LABELS, LONG, SHORT = 0.01, 60, 30  # share up to which the epochs are LONG


def _lars():
    """SimCLR v2's: the classifier, like norms and biases, is not adapted."""
    rules = (*NORMS_AND_BIASES, f"^{CLASSIFIER}/")
    return lars(weight_decay=0.0, no_adaptation=rules)


OPTIMISERS = {"sgd": sgd, "lars": _lars}  # sgd is Nesterov's


class Network(NamedTuple):
    """A pretrained network, up to the features that the classifier gets."""

    # (params, stats, views, rng) -> ([V, N, D], new stats), in training mode
    apply: Callable[..., Any]
    encode: Callable[..., Any]  # (params, stats, images) -> [1, N, D], evaluation mode
    params: dict[str, Any]
    stats: Any
    width: int  # D, of the features


class Task(NamedTuple):
    """What to fine-tune, and on what."""

    network: Network
    train: Source  # the training split, with labels
    test: Source
    size: int  # side of the pictures, in pixels
    data_dir: str  # of TFDS, for the official parts of ImageNet
    eval_batch_size: int


def finetune(
    task: Task,
    mesh: Mesh,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    labels: str = "1%",
    epochs: int = 0,
    batch_size: int = 4096,
    lr: float = 0.05,
    lr_scaling: str = "linear",
    optimiser: str = "sgd",
    seed: int = 0,
) -> dict[str, Any]:
    """Semi-supervised learning of SimCLR (arXiv:2002.05709), appendix B.5.

    The whole network is trained with a new linear classifier, initially zero, on
    randomly cropped and flipped pictures, with a cosine schedule without warm-up and
    without weight decay, for floor(n epochs / batch) + 1 steps. Batch norm is in
    training mode. The test pictures are central crops. `presets.FINETUNE` has the
    settings of other papers.

    Args:
      task: the pretrained network and the pictures.
      mesh: its size must divide batch_size.
      progress: called with (steps done, total steps) after each step is dispatched.
      labels: the labelled pictures, a percentage or a list (`subsets.labelled_part`).
      epochs: E; 0: 60 with up to 1 % of the labels, 30 with more.
      batch_size: B, of all processes together.
      lr: base rate.
      lr_scaling: of the first rate, lr B / 256 or another of `schedules.SCALINGS`.
      optimiser: of momentum 0.9, one of OPTIMISERS.
      seed: of the draw of labelled pictures, of order, crops and flips.

    Returns:
      as `scores.classification`, "labels": the number of labelled pictures, "epochs"
      and "steps".

    Raises:
      ValueError: the batch is larger than the labelled part or does not divide over the
        mesh, the splits do not have the same classes, two or more; and as
        `subsets.labelled_part` and `pipeline.train_batches`.
      FloatingPointError: the network diverged.
    """
    classes = _classes(task)
    part = labelled_part(task.train, labels, seed, task.data_dir)
    check_batch("finetune", batch_size, len(part), mesh)
    share = len(part) / max(len(task.train), len(part))
    epochs = epochs or (LONG if share <= FEW_LABELS else SHORT)
    total = total_steps("simclr", len(part), epochs, batch_size)
    batches = train_batches(
        part,
        RECIPES["crop_flip"](size=task.size),
        batch_size=batch_size,
        seed=seed,
        first_step=0,
        steps=total,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    rate = warmup_cosine(SCALINGS[lr_scaling](lr, batch_size), 0, total)
    tx = OPTIMISERS[optimiser]()
    step = make_step(task.network, tx, rate, mesh)
    state = initial_state(task.network, tx, classes, mesh)
    rng, loss = jax.random.key(seed), jnp.zeros(())
    for done, batch in enumerate(feed(batches, mesh)):
        state, loss = step(state, batch, rng, done)
        progress(done + 1, total)
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"The loss of the fine-tuned network is {loss}: the encoder had diverged, "
            f"or evaluate.finetune.lr={lr} is too high."
        )
    scores = _score(task, state, mesh)
    return scores | {"labels": len(part), "epochs": epochs, "steps": total}


def _classes(task):
    """The number of classes, the same in both splits."""
    a, b = task.train.classes, task.test.classes
    if a != b or a < 2:
        raise ValueError(
            "Fine-tuning needs labels of two classes or more, the same in both splits; "
            f"{task.train.name} has {a} classes and {task.test.name} has {b}."
        )
    return a


class State(NamedTuple):
    """What the fine-tuning changes."""

    params: Any  # of the network, and the classifier's
    stats: Any
    opt_state: Any


def initial_state(
    network: Network,
    tx: optax.GradientTransformationExtraArgs,
    classes: int,
    mesh: Mesh,
) -> State:
    """The pretrained network with a classifier of zeros, on every device."""
    classifier = {
        "kernel": np.zeros((network.width, classes), np.float32),
        "bias": np.zeros(classes, np.float32),
    }
    # Copied, as the step donates its state, and others use the pretrained arrays.
    params, stats = jax.tree.map(jnp.copy, (network.params, network.stats))
    params = params | {CLASSIFIER: classifier}
    return jax.device_put(State(params, stats, tx.init(params)), replicated(mesh))


def make_step(
    network: Network,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[Any], jax.Array],
    mesh: Mesh,
) -> Callable[..., tuple[State, jax.Array]]:
    """A compiled (state, batch, rng, step) -> (state, loss); it donates the state."""

    def loss(params, stats, batch, rng):
        x, stats = network.apply(params, stats, batch.views, rng)
        return cross_entropy(logits(params[CLASSIFIER], x[0]), batch.label), stats

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=replicated(mesh),
        compiler_options=cpu.compiler_options(mesh),
    )
    def step(state, batch: Batch, rng, step):
        rng = jax.random.fold_in(rng, step)
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (value, stats), grads = value_and_grad(state.params, state.stats, batch, rng)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, rate=schedule(step), step=step
        )
        params: Any = optax.apply_updates(state.params, updates)
        return State(params, stats, opt_state), value

    return step


def _score(task, state, mesh) -> dict[str, Any]:
    """The scores on the test pictures, in evaluation mode."""

    def encode(params, stats, images):
        features = task.network.encode(params, stats, images)
        return logits(params[CLASSIFIER], features[0])

    batches = eval_batches(
        task.test,
        size=task.size,
        batch_size=-(-task.eval_batch_size // mesh.size) * mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    classifier = FrozenEncoder(encode, _as_features, state.params, state.stats)
    test = extract(classifier, batches, mesh)
    best = np.argsort(-test.values["logits"], axis=1, kind="stable")
    ranked = best[:, : min(TOP, task.test.classes)]
    return classification(ranked, test.label, task.test.classes)


def _as_features(outputs):
    return {"logits": outputs[None]}
