"""A run that begins with what another one has learnt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from simclr_jax import multihost
from simclr_jax.experiment import build, config
from simclr_jax.methods.base import Method
from simclr_jax.state import TrainState
from simclr_jax.storage.paths import absolute
from simclr_jax.train.checkpoint import newest, restore_latest
from simclr_jax.tree import by_path, with_leaves


def begin(c, job: build.Run, mesh, workdir: str) -> build.Run:
    """The run, beginning as `c.init_from` says, unless it has begun already.

    From the branch that the other run's method keeps come all parameters and statistics
    whose path and shape fit, also into the target where there is one; of the same
    method both branches come, each into its own. The rest, such as a new last layer or
    a predictor, is as in any first step, and so are the optimiser, a queue or a centre,
    and the count of steps.

    Args:
      c: the config of the run.
      job: what it comes to.
      workdir: its own; once it holds a checkpoint, c.init_from is not looked at.

    Raises:
      ValueError: c.init_from is no work directory or has no checkpoint yet, or nothing
        of its encoder fits.
      CheckpointError: if its checkpoint cannot be read.
    """
    if not c.init_from:
        return job
    own = epath.Path(workdir) / "checkpoints"
    step = newest(own)
    multihost.agree(str(step), own)
    if step is not None:
        return job
    old = _read(absolute(c.init_from), mesh)
    params, stats = old.method.kept(old.state)
    pairs = {"online": (params, stats), "target": (params, stats)}
    if old.name == c.method.name and old.state.target_params is not None:
        pairs["online"] = old.state.params, old.state.model_state["online"]
        pairs["target"] = old.state.target_params, old.state.model_state["target"]
    told = _compare(c, job, params, stats, old.who)

    def create():
        state = job.create()
        return state.replace(
            params=lay(state.params, pairs["online"][0]),
            target_params=lay(state.target_params, pairs["target"][0]),
            model_state={k: lay(x, pairs[k][1]) for k, x in state.model_state.items()},
        )

    return job._replace(create=create, begins=told)


def lay(fresh, old):
    """The tree `fresh`, with the leaves of `old` where path and shape are the same.

    Each is a copy in the place of the leaf that it follows: no two trees share arrays,
    which a step that donates its state could not bear.
    """
    known = by_path(old)
    copies = {
        path: jax.device_put(jnp.copy(known[path]), x.sharding)
        for path, x in by_path(fresh).items()
        if path in known and known[path].shape == x.shape
    }
    return with_leaves(fresh, copies)


class Old(NamedTuple):
    """Another run, as its newest checkpoint has it."""

    name: str  # of its method
    method: Method
    state: TrainState
    who: str  # a word on whose it is


def _read(workdir: str, mesh) -> Old:
    try:
        c = config.restored(build.read_saved(workdir))
        job = build.assemble(c, mesh, **build.sizes(workdir))
        checkpoints = epath.Path(workdir) / "checkpoints"
        state, step = restore_latest(checkpoints, build.abstract(job))
    except ValueError as error:
        raise ValueError(f"init_from={workdir}: {error}") from error
    who = f"{workdir} ({c.method.name}, {c.encoder.name}, step {step})"
    return Old(c.method.name, job.method, state, who)


def _compare(c, job: build.Run, params, stats, who: str) -> str:
    """Lines on what is taken, what is fresh here and what is left there.

    Raises:
      ValueError: if nothing of the encoder is taken.
    """
    here, there = by_path(job.shapes.params), by_path(params)
    taken = [k for k, x in here.items() if k in there and there[k].shape == x.shape]
    if not any(k.startswith("encoder/") for k in taken):
        raise ValueError(
            f"init_from: nothing of the encoder of {who} fits this run's "
            f"{c.encoder.name}; its arrays have other names or shapes. Take the "
            "encoder.* settings of that run."
        )
    own, other = by_path(job.shapes.model_state[job.method.keep]), by_path(stats)
    moved = sum(k in other and other[k].shape == x.shape for k, x in own.items())
    return (
        f"begins with {who}: {len(taken)} of {len(here)} arrays of parameters, {moved} "
        f"of {len(own)} of statistics\n"
        f"fresh here: {_layers(here.keys() - set(taken))}\n"
        f"left there: {_layers(there.keys() - set(taken))}"
    )


def _layers(names) -> str:
    """The layers that these arrays belong to."""
    return ", ".join(sorted({name.rpartition("/")[0] for name in names})) or "nothing"
