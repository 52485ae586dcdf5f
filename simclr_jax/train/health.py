"""Diagnostics of a run, in a program of its own beside the step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.batch import Batch
from simclr_jax.losses import geometry
from simclr_jax.sharding import all_gather
from simclr_jax.state import Metrics, TrainState

SAMPLE = 1024  # largest number of images of a batch for geometry, whose cost is cubic
DEAD = 0.01  # deviation below which a coordinate counts as dead; 1 on the sphere


def make_health(
    method: Any, prepare: Callable[[Batch], Batch] = lambda batch: batch
) -> Callable[[TrainState, Batch], Metrics]:
    """Returns health(state, batch) -> metrics, ready for jax.jit.

    It runs the method's loss without its gradient, a third of the work of a step.

    Args:
      method: a `methods.base.Method`.
      prepare: as in `step.make_train_step`.

    Returns:
      A function whose metrics are weight_rms; for every feature of the method, such as
      h and z, those of `features_health` as h_NAME; for a method with a target, those
      of `parameters_health`; and those of `method.health`.
    """

    def health(state, batch):
        rng = jax.random.fold_in(state.rng, state.step)
        before = state.for_loss()
        _, (_, outputs, _) = method.loss(state.params, before, prepare(batch), rng)
        metrics = {"weight_rms": root_mean_square(state.params)}
        for feature, x in method.features(outputs).items():
            values = features_health(x)
            metrics |= {f"{feature}_{name}": value for name, value in values.items()}
        if state.target_params is not None:
            metrics |= parameters_health(state.params, state.target_params)
        return metrics | method.health.measure(outputs, before)

    return health


def root_mean_square(params: Any) -> jax.Array:
    """[] of all numbers in a tree of arrays."""
    count = sum(x.size for x in jax.tree.leaves(params))
    return jnp.sqrt(_product(params, params) / count)


def features_health(x: jax.Array) -> Metrics:
    """The geometry of features of the first SAMPLE images.

    Args:
      x: [V, N, D].

    Returns:
      spread, dead (the share of coordinates that are the same for all images),
      uniformity and rank (of the first view), samples (the number of images); with two
      views or more also alignment (of the first two), and lidar if there are as many
      images as coordinates.
    """
    x = all_gather(x[:, :SAMPLE])
    views, n, d = x.shape
    deviation = geometry.deviation(x)
    metrics = {
        "spread": jnp.mean(deviation),
        "dead": jnp.mean(deviation < DEAD, dtype=x.dtype),
        "uniformity": geometry.uniformity(x[0]),
        "rank": geometry.effective_rank(x[0]),
        "samples": jnp.asarray(n, jnp.int32),
    }
    if views > 1:
        metrics["alignment"] = geometry.alignment(x[0], x[1])
        if n >= d:
            metrics["lidar"] = geometry.lidar(x)
    return metrics


def features_work(views: int, images: int, width: int) -> float:
    """Multiplications and additions of the decompositions in `features_health`.

    They are calls of libraries, which a count of products in a program leaves out. For
    an a x b matrix, a >= b, singular values take 4 a b^2 - 4/3 b^3 (Golub and Van Loan,
    section 8.6); for D x D matrices, a Cholesky factor takes D^3 / 3, a triangular
    solution D^3, and the eigenvalues of a symmetric matrix 4/3 D^3.
    """
    n = min(images, SAMPLE)
    a, b = max(n, width), min(n, width)
    work = 4 * a * b**2 - 4 / 3 * b**3
    if views > 1 and n >= width:
        work += (1 / 3 + 2 + 4 / 3) * width**3
    return work


def parameters_health(online: Any, target: Any) -> Metrics:
    """Distance and cosine of the parameters of the target and the online network.

    Args:
      online, target: trees of parameters; modules that only one has are left out.

    Returns:
      target_distance: [] |online - target| / |online|: 0 for equal ones.
      target_cosine: [] 1 for equal directions.
    """
    online = {name: online[name] for name in target}
    difference = jax.tree.map(jnp.subtract, online, target)
    square = _product(online, online)
    inner = _product(online, target)
    return {
        "target_distance": jnp.sqrt(_product(difference, difference) / square),
        "target_cosine": inner / jnp.sqrt(square * _product(target, target)),
    }


def _product(a: Any, b: Any) -> jax.Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jax.tree.reduce(jnp.add, products)
