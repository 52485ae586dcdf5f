"""A run that begins with what another one has learnt."""

import os

import jax
import jax.numpy as jnp
from etils import epath

from simclr_jax import config, processes, run
from simclr_jax.train.checkpoint import newest, restore_latest
from simclr_jax.train.optim import paths


def begin(c, job: run.Run, mesh, workdir: str) -> run.Run:
    """The run, beginning as `c.init_from` says, unless it has begun already.

    From the branch that the other run's method keeps, whatever method it is, come all
    parameters and statistics whose path and shape fit, also into the target where there
    is one. The rest, such as a new last layer or a predictor, is as in any first step,
    and so are the optimiser, a queue and the count of steps.

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
    own = epath.Path(workdir).absolute() / "checkpoints"
    step = newest(own)
    processes.agree(str(step), own)
    if step is not None:
        return job
    params, stats, who = _kept(os.path.expanduser(c.init_from), mesh)
    told = _compare(c, job, params, stats, who)

    def create():
        state = job.create()
        branches = {k: lay(branch, stats) for k, branch in state.model_state.items()}
        return state.replace(
            params=lay(state.params, params),
            target_params=lay(state.target_params, params),
            model_state=branches,
        )

    return job._replace(create=create, begins=told)


def lay(fresh, old):
    """The tree `fresh`, with the leaves of `old` where path and shape are the same.

    Each is a copy in the place of the leaf that it follows: no two trees share arrays,
    which a step that donates its state could not bear.
    """
    known = _leaves(old)

    def choose(name, x):
        fits = name in known and known[name].shape == x.shape
        return jax.device_put(jnp.copy(known[name]), x.sharding) if fits else x

    leaves = [choose(name, x) for name, x in _leaves(fresh).items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _leaves(tree) -> dict:
    """The leaves by their slash-separated paths."""
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def _kept(workdir: str, mesh):
    """The kept branch of a run, and a word on whose it is: (params, stats, who)."""
    try:
        c = config.restored(run.read_saved(workdir))
        job = run.assemble(c, mesh, **run.sizes(workdir))
        checkpoints = epath.Path(workdir).absolute() / "checkpoints"
        state, step = restore_latest(checkpoints, run.abstract(job))
    except ValueError as error:
        raise ValueError(f"init_from={workdir}: {error}") from error
    who = f"{workdir} ({c.method.name}, {c.encoder.name}, step {step})"
    return *job.method.kept(state), who


def _compare(c, job: run.Run, params, stats, who: str) -> str:
    """Lines on what is taken, what is fresh here and what is left there.

    Raises:
      ValueError: if nothing of the encoder is taken.
    """
    here, there = _leaves(job.shapes.params), _leaves(params)
    taken = [k for k, x in here.items() if k in there and there[k].shape == x.shape]
    if not any(k.startswith("encoder/") for k in taken):
        raise ValueError(
            f"init_from: nothing of the encoder of {who} fits this run's "
            f"{c.encoder.name}; its arrays have other names or shapes. Take the "
            "encoder.* settings of that run."
        )
    own, other = _leaves(job.shapes.model_state[job.method.keep]), _leaves(stats)
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
