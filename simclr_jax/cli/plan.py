"""Plans a run on TPUs that are not here: whether it fits, and what it would take.

simclr-jax plan --config NAME --topology v5e:8x8
    [--images N --classes C] [--input NAME] [--json FILE] [--config.a.b=value ...]

The training step is compiled as on the real chips, which takes minutes, and nothing is
run: memory is that of the compiled program, times are bounds and estimates (see
plan/cost.py), not measurements. A topology has the name that it has in JAX, v5e:8x8, or
Cloud TPU's, v5litepod-64. No pictures are read; the defaults are the numbers of
pictures and classes of ImageNet. With --input, a data set or a folder, the input
pipeline is measured for some seconds on one core of this machine. Needs libtpu, which
jax[tpu] installs.
"""

import argparse
import json
from typing import TYPE_CHECKING

from simclr_jax.cli import common

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(argv: list[str]) -> None:
    """Runs the command; see `common.run_and_exit` for the exit codes."""
    c, args = read(argv)
    import jax
    from etils import epath

    from simclr_jax.experiment import build, config, planning
    from simclr_jax.plan import compiler, topology
    from simclr_jax.plan.report import report

    jax.config.update("jax_platforms", "cpu")  # for computations during tracing
    with common.usage_errors():
        source = None
        if args.input:  # checked first: compiling takes minutes
            inputs = config.restored(config.plain(c))
            config.rename(inputs, "data", args.input)
            source = build.open_data(inputs, c.data.split)
        plan = planning.plan(
            c,
            args.topology,
            images=args.images,
            classes=args.classes,
            progress=lambda message: print(message, flush=True),
        )
        if source is not None:
            plan["input"] = planning.measure_input(c, source)
    plan |= {"topology": args.topology, "config": config.plain(c)}
    plan |= compiler.versions()
    print(f"topology     {topology.both_names(args.topology)}")
    print(report(plan))
    if args.json:
        epath.Path(args.json).write_text(json.dumps(plan, indent=2) + "\n")


def read(argv: list[str]) -> "tuple[ConfigDict, argparse.Namespace]":
    """Parses the command line.

    Returns:
      the config with its changes, and the arguments, the topology as JAX writes it.

    Raises:
      UsageError: the config cannot be read, or the topology's name is invalid.
      SystemExit: wrong arguments; the message is printed.
    """
    parser = common.Parser(
        prog="simclr-jax plan",
        description=__doc__,
        example="simclr-jax plan --config simclr_imagenet --topology v5e:8x8",
    )
    parser.add_config()
    parser.add_argument(
        "--topology", required=True, help="such as v5e:8x8 or v5litepod-64"
    )
    parser.add_argument("--json", help="a file for the plan")
    parser.add_argument("--input", default="", help="pictures, as in data.name")
    parser.add_argument("--images", type=int, default=1_281_167, help="in training")
    parser.add_argument("--classes", type=int, default=1000, help="0: without labels")
    args, changes = parser.parse_with_changes(argv)
    from simclr_jax.experiment import config
    from simclr_jax.plan import topology

    with common.usage_errors():
        args.topology = topology.of_type(args.topology)
        return config.read(args.config, changes), args
