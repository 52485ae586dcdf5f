"""The diagnostics of a run, beside its step, and the sentinel that reads them."""

from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import sharding
from simclr_jax.experiment import build
from simclr_jax.methods.health import GENERAL
from simclr_jax.models import cpu
from simclr_jax.train.health import make_health
from simclr_jax.train.log import Log
from simclr_jax.train.loop import Diverged
from simclr_jax.train.sentinel import Sentinel

FIRST = 100  # step; a warm-up of the rate that is longer ends first


def program(c: ConfigDict, run: build.Run, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted diagnostics, (state, batch) -> metrics; it donates nothing."""
    return jax.jit(
        make_health(run.method, build.prepare(c)),
        out_shardings=sharding.replicated(mesh),
        compiler_options=cpu.compiler_options(mesh),
    )


def sentinel(c: ConfigDict, run: build.Run) -> Sentinel:
    """The sentinel for the signs of all methods and of the run's own."""
    signs = (*GENERAL, *run.method.health.signs(c.data.batch_size))
    return Sentinel(signs, max(FIRST, run.warmup))


def watcher(
    c: ConfigDict, run: build.Run, log: Log
) -> Callable[[int, Mapping[str, float]], None]:
    """A function of a logged step and its metrics that logs what the sentinel reports.

    It raises Diverged with the first report if `health_stop`.
    """
    reports = sentinel(c, run)

    def watch(step, metrics):
        for name, text in reports(step, metrics):
            log.warn(step, name, text)
            if c.health_stop:
                raise Diverged(f"{text} Stopped at step {step} (health_stop=true).")

    return watch
