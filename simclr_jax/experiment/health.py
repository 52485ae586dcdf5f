"""The diagnostics of a run, beside its step."""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import sharding
from simclr_jax.experiment import build
from simclr_jax.models import cpu
from simclr_jax.train.health import make_health


def program(c: ConfigDict, run: build.Run, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted diagnostics, (state, batch) -> metrics; it donates nothing."""
    return jax.jit(
        make_health(run.method, build.prepare(c)),
        out_shardings=sharding.replicated(mesh),
        compiler_options=cpu.compiler_options(mesh),
    )
