"""Work directories for tests, of runs with random arrays and of imports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import sharding
from simclr_jax.experiment import build, config, importing
from simclr_jax.experiment.workdir import SavedRun, data_sizes, open_saved
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.zoo import name_map
from tests.tools import begin_in


def random_workdir(folder, file: str, **changes: str):
    """A work directory with random parameters and statistics; returns the folder.

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
    run = build.assemble(c, _mesh(), **data_sizes(folder))
    draw = np.random.default_rng(0)

    def noise(path, x):
        return jnp.asarray(_noise(draw, jax.tree_util.keystr(path), x.shape))

    shapes = run.shapes
    random = {
        name: jax.tree_util.tree_map_with_path(noise, getattr(shapes, name))
        for name in ("params", "target_params", "model_state")
    }
    blank = lambda x: jnp.zeros(x.shape, x.dtype)  # noqa: E731
    state = shapes.replace(
        **random,
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


def _mesh():
    return jax.sharding.Mesh(jax.devices()[:1], sharding.DATA)


def _noise(draw, path: str, shape) -> np.ndarray:
    """Kernels that keep the size of activations; no two arrays are alike."""
    x = draw.normal(size=shape).astype(np.float32)
    if path.endswith("['kernel']"):
        return x * np.sqrt(1.6 / np.prod(shape[:-1]), dtype=np.float32)
    if path.endswith(("['var']", "['scale']")):
        return np.float32(0.5) + np.abs(x) / 3
    return x * np.float32(0.05)


@functools.lru_cache(maxsize=1)
def saved_run(folder) -> SavedRun:
    """The run of a work directory with its newest state, on one device."""
    return open_saved(folder, _mesh())


def outputs(folder, images, branch="") -> dict[str, np.ndarray]:
    """h, z and, where there is a predictor, p of images [N, S, S, 3]: [N, D] each.

    Args:
      branch: "online" or "target"; "" is the one that the method keeps. The target's p
        is that of the online branch's predictor.
    """
    saved = saved_run(folder)
    state, method = saved.state, saved.run.method
    params, stats = state.params, state.model_state["online"]
    if (branch or method.keep) == "target":
        params = params | state.target_params
        stats = stats | state.model_state["target"]
    features = jax.jit(method.network.encode)(params, stats, images)
    arrays = {"h": features.h, "z": features.heads["projector"]}
    if "predictor" in features.heads:
        arrays["p"] = features.heads["predictor"]
    return {name: np.asarray(x[0]) for name, x in arrays.items()}


def logits(folder, h) -> np.ndarray:
    """The outputs of the classifier of a work directory, [N, C]."""
    probe = saved_run(folder).state.params["probe"]
    return np.asarray(h @ probe["kernel"] + probe["bias"])


def imported(folder, format: str, source, **changes: str):
    """Imports a checkpoint; returns the work directory, FOLDER/run."""
    text = [(key.replace("__", "."), value) for key, value in changes.items()]
    text += [("data.batch_size", "8")]
    importing.import_checkpoint(format, str(source), f"{folder}/run", text)
    return folder / "run"


_RUNS = {}  # by what determines them


def imported_run(checkpoint) -> importing.ImportedRun:
    """The run that an import would make of a checkpoint, without its arrays."""
    classes = name_map.num_classes(checkpoint)
    key = checkpoint.config, tuple(checkpoint.changes), classes
    if key not in _RUNS:
        _RUNS[key] = importing.assemble(checkpoint, [("data.batch_size", "8")])
    return _RUNS[key]


def convert(checkpoint) -> name_map.Conversion:
    """The arrays that an import would take from a checkpoint."""
    return name_map.convert(checkpoint, imported_run(checkpoint).shapes())


def relative_difference(actual, expected) -> float:
    """The largest difference, divided by the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
