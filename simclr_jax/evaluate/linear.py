"""Quick linear evaluation, on features as arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from simclr_jax.evaluate.features import check, from_blocks, in_blocks
from simclr_jax.evaluate.scores import TOP, classification

Head = dict[str, jax.Array]  # {"kernel": [F, C], "bias": [C]}

ROWS = 4096  # rows of a block on a device; bounds the memory of the logits
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
    """Accuracy of logistic regression on arrays of features.

    This is a quick check that no paper uses; the papers' protocol, with augmentation,
    is `linear_augmented`. Here the features are those of centre crops, standardised by
    the mean and deviation of `train`. The loss is mean cross-entropy + l2/2 |kernel|^2,
    convex; L-BFGS starts at zero and uses all pictures at every step, so nothing is
    random.

    The training features are on the mesh, split by rows, and must fit into its memory
    (ImageNet's, [1.28M, 2048], take 10.5 GB).

    Args:
      train: [N, F]; train_label: [N] integers in [0, classes).
      test: [M, F]; test_label: [M].
      mesh: of any size.
      l2: weight of the penalty on the kernel of the standardised features.
      iterations: largest number of L-BFGS iterations; fewer if the gradient vanishes.

    Returns:
      as `scores.classification`, and "quick": True.

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
    """The head of `linear`, for features x [N, F] that are not standardised."""
    blocks = in_blocks(x, ROWS * mesh.size, mesh)
    labels = in_blocks(label, ROWS * mesh.size, mesh, fill=-1)
    return _lbfgs(blocks, labels, classes, len(x), l2, iterations)


@functools.partial(jax.jit, static_argnames=("classes", "count"))
def _lbfgs(x, label, classes: int, count: int, l2: float, iterations: int) -> Head:
    """x: [K, B, F], label: [K, B] with -1 for padding rows."""
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
    mean = jnp.sum(x, (0, 1)) / count  # padding rows are 0
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
    """L-BFGS until the gradient is small, for at most `iterations`."""
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
    """`scores.classification` of the head on features [M, F] and labels [M]."""
    ranked = _ranked(head, in_blocks(x, ROWS * mesh.size, mesh))
    ranked = from_blocks(ranked, len(x), mesh)
    return classification(ranked, label, len(head["bias"]))


@jax.jit
def _ranked(head, x):
    """The likeliest classes of the rows [K, B, F]: [K, B, at most TOP]."""
    top = min(TOP, len(head["bias"]))
    return jax.lax.map(lambda block: jax.lax.top_k(logits(head, block), top)[1], x)
