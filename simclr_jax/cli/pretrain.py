"""Trains an encoder as a config describes, or resumes the run of a work directory.

  simclr-jax pretrain --config NAME --workdir DIR
      [--config.a.b=value ...]

--config.a.b=value changes a key of the config; a wrong key is answered with the
nearest, or with those that there are.

The work directory receives config.json, metrics.jsonl and TensorBoard events, views.png
with some augmented pictures, and checkpoints. The same command resumes from the newest.
"""

import textwrap
from typing import TYPE_CHECKING

from simclr_jax.cli import common
from simclr_jax.experiment import config_files

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from simclr_jax.state import TrainState

EXAMPLE = "simclr-jax pretrain --config quickstart --workdir runs/quickstart"


def main(argv: list[str]) -> None:
    """Trains as the arguments say; see `common.run_and_exit` for the exit codes."""
    c, workdir = read(argv)
    from simclr_jax import compilation_cache
    from simclr_jax.cli import runtime
    from simclr_jax.experiment.workdir import check_inputs
    from simclr_jax.storage.access import check_folder

    with common.usage_errors():
        check_folder(workdir, write=True)
        check_inputs(c, workdir)
    runtime.join_cluster()
    with compilation_cache.enabled(workdir):
        pretrain(c, workdir)


def read(argv: list[str]) -> "tuple[ConfigDict, str]":
    """Parses the command line: the config and the work directory.

    Raises:
      UsageError: an invalid config or path; may suggest the nearest valid name.
      SystemExit: for unknown arguments; the message is printed.
    """
    configs = textwrap.fill(f"Configs: {', '.join(config_files.shipped_names())}.", 88)
    parser = common.Parser(
        prog="simclr-jax pretrain",
        description=f"{__doc__}\n{configs}",
        example=EXAMPLE,
    )
    parser.add_config()
    parser.add_argument("--workdir", required=True, help="folder of the run's output")
    arguments, changes = parser.parse_with_changes(argv)
    from simclr_jax.experiment import config
    from simclr_jax.storage.paths import absolute

    with common.usage_errors():
        c = config.read(arguments.config, changes)
        return c, absolute(arguments.workdir)


def pretrain(c: "ConfigDict", workdir: str) -> "TrainState":
    """Starts or resumes the training that a config describes.

    Returns:
      the final state.

    Raises:
      UsageError: the config cannot be run; nothing was started.
      Preempted: the run was asked to stop; its state was saved.
    """
    import jax

    from simclr_jax import sharding
    from simclr_jax.cli import runtime
    from simclr_jax.experiment import training

    runtime.exit_on_sigterm()
    mesh = sharding.make_mesh()
    with common.usage_errors(), jax.set_mesh(mesh):
        prepared = training.prepare(c, workdir, mesh)
    state, done = training.train(
        prepared, stop_signal=runtime.StopSignal, on_progress=runtime.Watchdog()
    )
    total = prepared.run.total
    if done < total:
        raise common.Preempted(
            f"stopped by a signal; saved at step {done} of {total}. The same command "
            "resumes."
        )
    return state
