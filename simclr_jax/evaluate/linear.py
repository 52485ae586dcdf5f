"""Quick linear evaluation, on features as arrays."""

import functools
from collections.abc import Callable
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
TOLERANCE = 1e-5  # gradient norm at which a fit ends
# It also ends after so many iterations without this relative decrease of the loss, a
# few roundings, in all.
STALLS, PROGRESS = 10, 1e-6


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
    return _lbfgs(*on_mesh(x, label, mesh), classes, len(x), l2, iterations)


def on_mesh(
    x: np.ndarray, label: np.ndarray, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """[N, F], [N] -> blocks [K, B, F] and [K, B], with label -1 for padding rows."""
    rows = ROWS * mesh.size
    return in_blocks(x, rows, mesh), in_blocks(label, rows, mesh, fill=-1)


@functools.partial(jax.jit, static_argnames=("classes", "count"))
def _lbfgs(x, label, classes: int, count: int, l2: float, iterations: int) -> Head:
    """x: [K, B, F], label: [K, B] with -1 for padding rows."""
    mean, deviation = moments(x, label, count)
    scale = jnp.where(deviation > 0, 1 / jnp.where(deviation > 0, deviation, 1), 0)

    def loss(head):
        total = total_cross_entropy(unfold(head, mean, scale), x, label, classes)
        return total / count + l2 / 2 * jnp.sum(head["kernel"] ** 2)

    head = minimise(loss, zeros(x.shape[-1], classes), iterations)
    return unfold(head, mean, scale)


def zeros(width: int, classes: int) -> Head:
    """The head that predicts all classes alike."""
    return {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}


def unfold(head: Head, mean: jax.Array, scale: jax.Array) -> Head:
    """A head of the features (x - mean) scale -> the same head of x.

    So no other copy of all features is made.
    """
    kernel = head["kernel"] * scale[:, None]
    return {"kernel": kernel, "bias": head["bias"] - mean @ kernel}


def moments(x: jax.Array, label: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """[F] each: the mean and the deviation, 0 for constant features.

    Args:
      x, label: as from `on_mesh`; count: N.
    """
    valid = (label >= 0)[..., None]
    mean = jnp.sum(x, (0, 1)) / count  # padding rows are 0
    deviation = jnp.sqrt(jnp.sum(jnp.where(valid, x - mean, 0) ** 2, (0, 1)) / count)
    # the deviation of a constant may be the rounding error of its mean
    return mean, jnp.where(deviation > 1e-5 * jnp.abs(mean), deviation, 0)


def total_cross_entropy(
    head: Head, x: jax.Array, label: jax.Array, classes: int
) -> jax.Array:
    """The sum over all rows with a label, of arrays as from `on_mesh`."""

    @jax.checkpoint  # the logits of all blocks would not fit: computed twice instead
    def add(total, block):
        x, label, head = block
        target = jax.nn.one_hot(label, classes)  # 0 for label -1
        return total - jnp.vdot(target, jax.nn.log_softmax(logits(head, x)))

    def step(total, block):
        return add(total, (*block, head)), None

    return jax.lax.scan(step, jnp.zeros(()), (x, label))[0]


def minimise(loss: Callable[[Head], jax.Array], head: Head, iterations: int) -> Head:
    """L-BFGS from a head until the gradient is small or rounding stops the progress.

    Args:
      loss: of a head, above 0.
      head: to begin with.
      iterations: the largest number of them.
    """
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def unfinished(carry):
        _, _, norm, done, _, stalls = carry
        return (done < iterations) & (norm > TOLERANCE) & (stalls < STALLS)

    def iterate(carry):
        head, state, _, done, best, stalls = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=loss
        )
        head = optax.apply_updates(head, updates)
        improved = value < best * (1 - PROGRESS)
        best, stalls = (
            jnp.where(improved, value, best),
            jnp.where(improved, 0, stalls + 1),
        )
        return head, state, optax.tree.norm(grad), done + 1, best, stalls

    initial = head, solver.init(head), jnp.inf, 0, jnp.inf, 0
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
