"""Linear evaluation: a quick one on features as arrays, and that of the papers."""

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
from simclr_jax.evaluate.features import (
    Features,
    FrozenEncoder,
    check,
    check_split,
    in_blocks,
)
from simclr_jax.losses.classification import cross_entropy
from simclr_jax.sharding import replicated
from simclr_jax.train.schedules import SCALINGS, total_steps, warmup_cosine

Head = dict[str, jax.Array]  # {"kernel": [F, C], "bias": [C]}

ROWS = 4096  # of a block on a device: bounds the memory of the logits
TOLERANCE = 1e-5  # gradient norm at which the quick fit ends


def logits(head: Head, x: jax.Array) -> jax.Array:
    """x: [N, F] -> [N, C]."""
    return jnp.matmul(x, head["kernel"], precision="highest") + head["bias"][None]


def linear(
    train: np.ndarray,
    train_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    classes: int,
    mesh: Mesh,
    *,
    l2: float = 1e-3,
    iterations: int = 200,
) -> dict[str, Any]:
    """Top-1 accuracy of logistic regression on arrays of features; no paper uses it.

    The features are those of centre crops, without augmentation; the papers' protocol
    is `linear_augmented`. Features are standardised by the mean
    and deviation of `train`. The loss is mean cross-entropy + l2/2 |kernel|^2, convex;
    L-BFGS starts at zero and uses all pictures at every step, so nothing is random.

    The training features are on the mesh, split by rows, and must fit into its memory
    (ImageNet's, [1.28M, 2048], take 10.5 GB).

    Args:
      train: [N, F]; train_label: [N] integers in [0, classes).
      test: [M, F]; test_label: [M].
      mesh: of any size.
      l2: weight of the penalty on the kernel of the standardised features.
      iterations: of L-BFGS, at most; fewer if the gradient vanishes.

    Returns:
      {"accuracy": in [0, 1], "count": M, "quick": True}.

    Raises:
      ValueError: l2 below 0, iterations below 1, and as `features.check`.
    """
    if l2 < 0 or iterations < 1:
        raise ValueError(
            f"linear needs l2 >= 0 and iterations >= 1, got l2={l2}, iterations="
            f"{iterations}. The defaults are 1e-3 and 200."
        )
    check(train, train_label, test, test_label, classes)
    head = fit(train, train_label, classes, mesh, l2=l2, iterations=iterations)
    return score(head, test, test_label, mesh) | {"quick": True}


def fit(
    x: np.ndarray,
    label: np.ndarray,
    classes: int,
    mesh: Mesh,
    *,
    l2: float,
    iterations: int,
) -> Head:
    """The head of `linear`, for features x [N, F] as they are, not standardised."""
    blocks = in_blocks(x, ROWS * mesh.size, mesh)
    labels = in_blocks(label, ROWS * mesh.size, mesh, fill=-1)
    return _lbfgs(blocks, labels, classes, len(x), l2, iterations)


@functools.partial(jax.jit, static_argnames=("classes", "count"))
def _lbfgs(x, label, classes: int, count: int, l2: float, iterations: int) -> Head:
    """x: [K, B, F], label: [K, B] with -1 for rows that only fill up their block."""
    mean, scale = _mean_and_scale(x, label, count)

    def unfold(head):
        """A head of standardised features -> the same head of the raw features.

        So no standardised copy of all features is made.
        """
        kernel = head["kernel"] * scale[:, None]
        return {"kernel": kernel, "bias": head["bias"] - mean @ kernel}

    def loss(head):
        total = _total_cross_entropy(unfold(head), x, label, classes)
        return total / count + l2 / 2 * jnp.sum(head["kernel"] ** 2)

    zero = {"kernel": jnp.zeros((x.shape[-1], classes)), "bias": jnp.zeros(classes)}
    return unfold(_minimise(loss, zero, iterations))


def _mean_and_scale(x, label, count):
    """[F] each: the mean, and 1 / deviation, or 0 for constant features."""
    valid = (label >= 0)[..., None]
    mean = jnp.sum(x, (0, 1)) / count  # filled rows are 0
    deviation = jnp.sqrt(jnp.sum(jnp.where(valid, x - mean, 0) ** 2, (0, 1)) / count)
    # the deviation of a constant may be the rounding error of its mean
    varies = deviation > 1e-5 * jnp.abs(mean)
    return mean, jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)


def _total_cross_entropy(head, x, label, classes):
    """The sum over all rows with a label."""

    @jax.checkpoint  # the logits of all blocks would not fit: computed twice instead
    def add(total, block):
        x, label, head = block
        target = jax.nn.one_hot(label, classes)  # 0 for label -1
        return total - jnp.vdot(target, jax.nn.log_softmax(logits(head, x)))

    def step(total, block):
        return add(total, (*block, head)), None

    return jax.lax.scan(step, jnp.zeros(()), (x, label))[0]


def _minimise(loss, head, iterations):
    """L-BFGS until the gradient is small, for at most so many iterations."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def unfinished(carry):
        _, _, norm, done = carry
        return (done < iterations) & (norm > TOLERANCE)

    def iterate(carry):
        head, state, _, done = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=loss
        )
        head = optax.apply_updates(head, updates)
        return head, state, optax.tree.norm(grad), done + 1

    initial = head, solver.init(head), jnp.inf, 0
    return jax.lax.while_loop(unfinished, iterate, initial)[0]


def score(head: Head, x: np.ndarray, label: np.ndarray, mesh: Mesh) -> dict[str, Any]:
    """{"accuracy": of the head on features [M, F] and labels [M], "count": M}."""
    blocks = in_blocks(x, ROWS * mesh.size, mesh)
    labels = in_blocks(label, ROWS * mesh.size, mesh, fill=-1)
    return {"accuracy": int(_correct(head, blocks, labels)) / len(x), "count": len(x)}


@jax.jit
def _correct(head, x, label):
    """The number of correct predictions; a prediction is never -1."""

    def count(block):
        x, label = block
        return jnp.sum(jnp.argmax(logits(head, x), -1) == label)

    return jnp.sum(jax.lax.map(count, (x, label)))


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
    0.9) along a cosine without warm-up, floor(n epochs / batch) + 1 steps. On CIFAR-10
    the authors used 100 epochs at batch 512.

    Args:
      encoder: to evaluate.
      source: the training split, with labels.
      test: features by the same encoder of centre crops (`pipeline.eval_batches`), with
        labels.
      feature: one of the names of test's features.
      size: side of the pictures, in pixels.
      mesh: its size must divide batch_size.
      progress: called with (steps done, steps in all) after each step is dispatched.
      epochs: E.
      batch_size: B, of all processes together.
      lr: base rate; the peak is lr B / 256.
      weight_decay: weight of an L2 term on the kernel, 1e-6 in the released command.
      seed: of order, crops and flips.

    Returns:
      {"accuracy": in [0, 1], "count": M}.

    Raises:
      ValueError: unknown feature, a batch that does not divide, and as
        `features.check_split` and `data.pipeline.train_batches`.
      FloatingPointError: the head diverged.
    """
    if feature not in test.values:
        names = " or ".join(f'"{name}"' for name in test.values)
        raise ValueError(f"A feature is {names}, got {feature!r}.")
    x = test.values[feature]
    check_split("test", x, test.label, source.classes)
    _check_batch(batch_size, len(source), mesh)
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


def _check_batch(batch_size, images, mesh):
    if batch_size > images:
        raise ValueError(
            f"evaluate.linear_augmented.batch_size={batch_size} is larger than the "
            f"training split of {images} pictures."
        )
    if batch_size % mesh.size:
        raise ValueError(
            f"The batch of {batch_size} does not divide by the {mesh.size} devices. "
            f"Try evaluate.linear_augmented.batch_size="
            f"{max(batch_size // mesh.size, 1) * mesh.size}."
        )


def _nesterov(rate, weight_decay):
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False}),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )


def _train(encoder, feature, head, tx, batches, mesh, report):
    """The head after a step of the optimiser on each batch; reports each step."""

    @functools.partial(jax.jit, donate_argnums=0)
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
