"""Initialises parameters and statistics from the checkpoint of another run."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import multihost
from simclr_jax.experiment import build
from simclr_jax.experiment.workdir import (
    BUILT,
    CodeNotNamed,
    SavedRun,
    open_saved,
    read_saved,
)
from simclr_jax.storage.paths import absolute
from simclr_jax.train.checkpoint_reader import newest
from simclr_jax.tree import by_path, with_leaves


def with_saved_arrays(
    c: ConfigDict, run: build.Run, mesh: Mesh, workdir: str
) -> build.Run:
    """The run, with arrays of the run `c.init_from` copied into its initial state.

    Parameters and statistics are copied where path and shape match: from the same
    branch if both runs have the same method, otherwise from the branch `Method.keep` of
    the other run, also to the target. Everything else is newly initialised: layers
    without a match, such as a new last layer or a predictor, the optimiser, a queue or
    a centre, and the step.

    Args:
      c: the config of the run.
      workdir: of the run; once it holds a checkpoint, c.init_from is not read.

    Raises:
      ValueError: c.init_from is not a work directory or has no checkpoint, or no array
        of its encoder matches.
      StorageNotShared: the processes do not see the same checkpoints in workdir.
      CheckpointError: the checkpoint of c.init_from cannot be read.
    """
    if not c.init_from:
        return run
    checkpoints = epath.Path(workdir) / "checkpoints"
    step = newest(checkpoints)
    multihost.check_shared(str(step), checkpoints)
    if step is not None:
        return run
    folder = absolute(c.init_from)
    try:
        saved = _open(c, folder, mesh)
    except CodeNotNamed as error:
        names = ", ".join(error.names)
        raise ValueError(
            f"init_from={folder} names code from outside this package, {names}, which "
            "is only run if this run names it, too. If you trust it, add "
            "--config.init_code=true."
        ) from error
    except ValueError as error:
        raise ValueError(f"init_from={folder}: {error}") from error
    sources = _sources(c, saved)

    def create():
        new = run.create()
        return new.replace(
            params=overlay(new.params, sources["online"][0]),
            target_params=overlay(new.target_params, sources["target"][0]),
            model_state={
                branch: overlay(tree, sources[branch][1])
                for branch, tree in new.model_state.items()
            },
        )

    kept = saved.run.method.kept(saved.state)
    note = _describe(c, run, *kept, _name(folder, saved))
    return run._replace(create=create, init_note=note)


def _open(c: ConfigDict, folder: str, mesh: Mesh) -> SavedRun:
    """The saved run; the names that both runs have count as named by the user."""
    saved = read_saved(folder)
    same = [part for part in BUILT if c[part].name == saved[part]["name"]]
    names = [(f"{part}.name", c[part].name) for part in same]
    return open_saved(folder, mesh, names, allow_code=c.init_code)


def _sources(c: ConfigDict, saved: SavedRun) -> dict[str, tuple[Any, Any]]:
    """For each branch of the new run, the parameters and statistics to copy."""
    kept, state = saved.run.method.kept(saved.state), saved.state
    if saved.config.method.name != c.method.name or state.target_params is None:
        return {"online": kept, "target": kept}
    return {
        "online": (state.params, state.model_state["online"]),
        "target": (state.target_params, state.model_state["target"]),
    }


def overlay(new: Any, old: Any) -> Any:
    """The tree `new`, with the leaves of `old` where path and shape are the same.

    Each is a copy with the sharding of the leaf that it replaces: a step that donates
    its state must not donate the same array twice.
    """
    leaves = by_path(old)
    copies = {
        path: jax.device_put(jnp.copy(leaves[path]), x.sharding)
        for path, x in by_path(new).items()
        if path in leaves and leaves[path].shape == x.shape
    }
    return with_leaves(new, copies)


def _name(folder: str, saved: SavedRun) -> str:
    c = saved.config
    return f"{folder} ({c.method.name}, {c.encoder.name}, step {saved.step})"


def _describe(c: ConfigDict, run: build.Run, params: Any, stats: Any, name: str) -> str:
    """Lines on the arrays that are copied, newly initialised and not used.

    Raises:
      ValueError: no array of the encoder is copied.
    """
    new, old = by_path(run.shapes.params), by_path(params)
    matching = [k for k, x in new.items() if k in old and old[k].shape == x.shape]
    if not any(k.startswith("encoder/") for k in matching):
        raise ValueError(
            f"init_from: no array of the encoder of {name} matches this run's "
            f"{c.encoder.name} in name and shape. Take the encoder.* settings of that "
            "run."
        )
    new_stats, old_stats = (
        by_path(run.shapes.model_state[run.method.keep]),
        by_path(stats),
    )
    count = sum(
        k in old_stats and old_stats[k].shape == x.shape for k, x in new_stats.items()
    )
    return (
        f"initialised from {name}: {len(matching)} of {len(new)} arrays of parameters, "
        f"{count} of {len(new_stats)} of statistics\n"
        f"randomly initialised: {_layers(new.keys() - set(matching))}\n"
        f"not used from the checkpoint: {_layers(old.keys() - set(matching))}"
    )


def _layers(paths: Collection[str]) -> str:
    """The layers that these arrays belong to."""
    layers = {path.rpartition("/")[0] for path in paths}
    return ", ".join(sorted(layers)) or "nothing"
