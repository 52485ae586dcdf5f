"""A work directory as a run would leave it, whose network could have been trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import sharding
from simclr_jax.experiment import build, config
from simclr_jax.train.checkpoint import Checkpoints, restore_latest
from tests.tools import begin_in


def left(folder, file: str, **changes: str):
    """A work directory with a network of noise, its statistics too; returns the folder.

    Args:
      file: of configs/, with its arguments.
      changes: of the config, dots written as two underscores.
    """
    text = [(key.replace("__", "."), value) for key, value in changes.items()]
    usual = [
        ("data.name", "cifar10_mini"),
        ("data.eval_split", "test"),
        ("data.batch_size", "16"),
        ("steps", "1"),
    ]
    c = config.read(f"configs/{file}", usual + text)
    begin_in(folder, c)
    mesh = jax.sharding.Mesh(jax.devices()[:1], sharding.DATA)
    job = build.assemble(c, mesh, **build.sizes(folder))
    draw = np.random.default_rng(0)

    def noise(path, x):
        return jnp.asarray(_noise(draw, jax.tree_util.keystr(path), x.shape))

    shapes = job.shapes
    trees = "params", "target_params", "model_state"
    drawn = {
        k: jax.tree_util.tree_map_with_path(noise, getattr(shapes, k)) for k in trees
    }
    blank = lambda x: jnp.zeros(x.shape, x.dtype)  # noqa: E731
    state = shapes.replace(
        **drawn,
        step=jnp.int32(7),
        skipped=jnp.int32(0),
        streak=jnp.int32(0),
        rng=jax.random.key(0),
        opt_state=jax.tree.map(blank, shapes.opt_state),
        method_state=jax.tree.map(blank, shapes.method_state),
    )
    checkpoints = Checkpoints(folder / "checkpoints", every=1)
    checkpoints.save(7, state)
    checkpoints.close()
    return folder


@functools.cache
def newest(folder):
    """The config, the run and the newest state of a work directory."""
    c = config.restored(build.read_saved(folder))
    mesh = jax.sharding.Mesh(jax.devices()[:1], sharding.DATA)
    job = build.assemble(c, mesh, **build.sizes(folder))
    state, _ = restore_latest(folder / "checkpoints", build.abstract(job))
    return c, job, state


def said(folder, images) -> dict[str, np.ndarray]:
    """h and z of uint8 [N, S, S, 3] by the branch to keep."""
    _, job, state = newest(folder)
    y = jax.jit(job.method.network.encode)(*job.method.kept(state), images)
    return {"h": np.asarray(y.h[0]), "z": np.asarray(y.z[0])}


def close(ours, theirs) -> float:
    """The largest difference, divided by the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def _noise(draw, path: str, shape) -> np.ndarray:
    """Kernels that keep the size of what goes through; no array is like another."""
    x = draw.normal(size=shape).astype(np.float32)
    if path.endswith("['kernel']"):
        return x * np.sqrt(1.6 / np.prod(shape[:-1]), dtype=np.float32)
    if path.endswith(("['var']", "['scale']")):
        return np.float32(0.5) + np.abs(x) / 3
    return x * np.float32(0.05)
