"""Linear evaluation: a quick one on cached features, and the papers' own."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.prefetch import feed
from simclr_jax.data.recipes import RECIPES
from simclr_jax.evaluate.features import Features, check, check_split, in_blocks
from simclr_jax.losses.classification import cross_entropy
from simclr_jax.sharding import replicated
from simclr_jax.train.schedules import SCALINGS, total_steps, warmup_cosine

ROWS = 4096  # a device at a time: bounds the memory of the logits
TOLERANCE = 1e-5  # gradient norm at which the quick fit has arrived


def logits(head: dict, x):
    """head: {"kernel": [F, C], "bias": [C]}, x: [N, F] -> [N, C]."""
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
) -> dict:
    """Top-1 accuracy of logistic regression on cached features: quick, not published.

    Every picture is seen once, as a centre crop, so there is no augmentation; the
    papers' numbers come from `linear_augmented`. Features are standardised by the mean
    and deviation of `train`. The loss is mean cross-entropy + l2/2 |kernel|^2, convex;
    L-BFGS from zero takes all pictures at every step, so nothing here is random.

    The training features lie on the mesh, split by rows: they must fit there
    (ImageNet's, [1.28M, 2048], are 10.5 GB).

    Args:
      train: [N, F]; train_label: [N] integers in [0, classes).
      test: [M, F]; test_label: [M].
      mesh: of any size.
      l2: weight of the penalty on the kernel of the standardised features.
      iterations: of L-BFGS, at most; fewer where the gradient vanishes before.

    Returns:
      {"accuracy": in [0, 1], "count": M, "quick": True}.

    Raises:
      ValueError: for l2 below 0, iterations below 1, and as `features.check`.
    """
    if l2 < 0 or iterations < 1:
        raise ValueError(
            f"linear needs l2 >= 0 and iterations >= 1, got l2={l2}, iterations="
            f"{iterations}. The defaults are 1e-3 and 200."
        )
    check(train, train_label, test, test_label, classes)
    head = fit(train, train_label, classes, mesh, l2=l2, iterations=iterations)
    return judge(head, test, test_label, mesh) | {"quick": True}


def fit(x, label, classes: int, mesh: Mesh, *, l2: float, iterations: int) -> dict:
    """The head of `linear`, {"kernel": [F, C], "bias": [C]}, for raw features."""
    blocks = in_blocks(x, ROWS * mesh.size, mesh)
    label = in_blocks(label, ROWS * mesh.size, mesh, fill=-1)
    return _lbfgs(blocks, label, classes, len(x), l2, iterations)


@functools.partial(jax.jit, static_argnames=("classes", "count"))
def _lbfgs(x, label, classes: int, count: int, l2: float, iterations: int) -> dict:
    """x: [K, B, F], label: [K, B] with -1 where a row only fills up its block."""
    real = (label >= 0)[..., None]
    mean = jnp.sum(x, (0, 1)) / count  # the filling is 0
    deviation = jnp.sqrt(jnp.sum(jnp.where(real, x - mean, 0) ** 2, (0, 1)) / count)
    # a constant says nothing, and may come out as the rounding of its mean
    says = deviation > 1e-5 * jnp.abs(mean)
    scale = jnp.where(says, 1 / jnp.where(says, deviation, 1), 0)

    def unfold(head):
        """A head of standardised features -> the same head of features as they come.

        So the standardised copy of all features need never exist.
        """
        kernel = head["kernel"] * scale[:, None]
        return {"kernel": kernel, "bias": head["bias"] - mean @ kernel}

    @jax.checkpoint  # the logits of all blocks would not fit: make them twice instead
    def add(total, block):
        x, label, head = block
        right = jax.nn.one_hot(label, classes)  # of label -1: none, so it adds nothing
        return total - jnp.vdot(right, jax.nn.log_softmax(logits(head, x)))

    def loss(head):
        plain = unfold(head)

        def step(total, block):
            return add(total, (*block, plain)), None

        total, _ = jax.lax.scan(step, jnp.zeros(()), (x, label))
        return total / count + l2 / 2 * jnp.sum(head["kernel"] ** 2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def unfinished(carry):
        _, _, slope, done = carry
        return (done < iterations) & (slope > TOLERANCE)

    def iterate(carry):
        head, state, _, done = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=loss
        )
        head = optax.apply_updates(head, updates)
        return head, state, optax.tree.norm(grad), done + 1

    head = {"kernel": jnp.zeros((x.shape[-1], classes)), "bias": jnp.zeros(classes)}
    start = head, solver.init(head), jnp.inf, 0
    return unfold(jax.lax.while_loop(unfinished, iterate, start)[0])


def judge(head: dict, x: np.ndarray, label: np.ndarray, mesh: Mesh) -> dict:
    """{"accuracy": of the head on features [M, F] and labels [M], "count": M}."""
    blocks = in_blocks(x, ROWS * mesh.size, mesh)
    truth = in_blocks(label, ROWS * mesh.size, mesh, fill=-1)
    return {"accuracy": int(_right(head, blocks, truth)) / len(x), "count": len(x)}


@jax.jit
def _right(head, x, label):
    def count(block):
        x, label = block
        return jnp.sum(
            jnp.argmax(logits(head, x), -1) == label
        )  # never -1, the filling

    return jnp.sum(jax.lax.map(count, (x, label)))


def linear_augmented(
    encode: Callable,
    params,
    stats,
    source,
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
) -> dict:
    """Linear evaluation as published: SimCLR (arXiv:2002.05709), appendix B.6.

    The encoder is frozen, in evaluation mode. A linear head, zero at the start, learns
    from its features of randomly cropped and flipped pictures by Nesterov SGD
    (momentum 0.9) along a cosine without warm-up, floor(n epochs / batch) + 1 steps. On
    CIFAR-10 the authors used 100 epochs at batch 512.

    Args:
      encode, params, stats: as for `features.extract`.
      source: the training split, a `data.sources.Source` with labels.
      test: of the same encoder, with labels; from centre crops, `data.eval_batches`.
      feature: "h" or "z".
      size: side of the pictures in pixels.
      mesh: batch_size must divide by its size.
      progress: called with (steps done, steps in all) after each step is dispatched.
      epochs: E.
      batch_size: B, of all processes together.
      lr: base rate; the peak is lr B / 256.
      weight_decay: weight of an L2 term on the kernel, 1e-6 in the released command.
      seed: of order, crops and flips.

    Returns:
      {"accuracy": in [0, 1], "count": M}.

    Raises:
      ValueError: for an unknown feature, a batch that does not divide, and as
        `features.check_split` and `data.pipeline.train_batches`.
      FloatingPointError: for a head that diverged.
    """
    if feature not in ("h", "z"):
        raise ValueError(f'A feature is "h" or "z", got {feature!r}.')
    x = getattr(test, feature)
    check_split("test", x, test.label, source.classes)
    if batch_size > len(source):
        raise ValueError(
            f"evaluate.linear_augmented.batch_size={batch_size} is larger than the "
            f"training split of {len(source)} pictures."
        )
    if batch_size % mesh.size:
        raise ValueError(
            f"The batch of {batch_size} does not divide by the {mesh.size} devices. "
            f"Try evaluate.linear_augmented.batch_size="
            f"{max(batch_size // mesh.size, 1) * mesh.size}."
        )
    total = total_steps("simclr", len(source), epochs, batch_size)
    batches = train_batches(
        source,
        RECIPES["crop_flip"](size=size),
        batch_size=batch_size,
        seed=seed,
        start_step=0,
        steps=total,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    tx = optax.chain(
        optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False}),
        optax.sgd(
            warmup_cosine(SCALINGS["linear"](lr, batch_size), 0, total),
            momentum=0.9,
            nesterov=True,
        ),
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, params, stats, views, label):
        x = getattr(encode(params, stats, views[0]), feature)[0].astype(jnp.float32)
        head, opt_state = state
        grad = jax.grad(lambda head: cross_entropy(logits(head, x), label))(head)
        updates, opt_state = tx.update(grad, opt_state, head)
        return optax.apply_updates(head, updates), opt_state

    head = {
        "kernel": np.zeros((x.shape[1], source.classes), np.float32),
        "bias": np.zeros(source.classes, np.float32),
    }
    params, stats = jax.device_put((params, stats), replicated(mesh))
    state = jax.device_put((head, tx.init(head)), replicated(mesh))
    for done, batch in enumerate(feed(batches, mesh), 1):
        state = step(state, params, stats, batch.views, batch.label)
        progress(done, total)
    head, _ = state
    if not np.isfinite(jax.device_get(head["bias"])).all():
        raise FloatingPointError(
            "The linear head is not finite: the encoder has diverged, or "
            f"evaluate.linear_augmented.lr={lr} is too high."
        )
    return judge(head, x, test.label, mesh)
