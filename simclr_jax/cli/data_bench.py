"""Measures what the input costs the host, and how many cores a step needs.

simclr-jax data bench --config NAME
    [--step_ms MS] [--seconds S] [--config.a.b=value ...]

The config's pictures go through the config's pipeline for some seconds a stage. Times
are CPU seconds of all threads, so that other work on the machine changes them little;
a core is what the operating system counts as one. The result is numpy batches; sending
them to a device is not included.
"""

import argparse
from typing import TYPE_CHECKING

from simclr_jax.cli import common

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from simclr_jax.data.throughput import Throughput


def main(argv: list[str]) -> None:
    """Runs the command; see `common.run_and_exit` for the exit codes."""
    c, args = read(argv)
    from simclr_jax.data import throughput
    from simclr_jax.experiment import build

    n, colour, seconds = c.data.batch_size, c.data.colour, args.seconds
    options = {"batch_size": n, "colour": colour, "seconds": seconds}
    with common.usage_errors():
        source = build.open_data(c, c.data.split)
        views = build.recipe(c)
        whole = throughput.measure(source, views, **options)
        stages = throughput.stages(source, views, whole, **options)
    print(f"{source.name}: {len(source)} pictures")
    print(report(stages, whole, batch=n, step_ms=args.step_ms))


def read(argv: list[str]) -> "tuple[ConfigDict, argparse.Namespace]":
    """Parses the command line.

    Returns:
      the config with its changes, and the arguments.

    Raises:
      UsageError: the config cannot be read.
      SystemExit: wrong arguments; the message is printed.
    """
    parser = common.Parser(
        prog="simclr-jax data bench",
        description=__doc__,
        example="simclr-jax data bench --config quickstart",
    )
    parser.add_config()
    parser.add_argument("--step_ms", type=float, default=100.0, help="of a step")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each stage")
    args, changes = parser.parse_with_changes(argv)
    from simclr_jax.experiment import config

    with common.usage_errors():
        return config.read(args.config, changes), args


def report(
    stages: dict[str, float], whole: "Throughput", *, batch: int, step_ms: float
) -> str:
    """The measurements as text.

    Args:
      stages: as returned by `throughput.stages`.
      whole: as returned by `throughput.measure`.
      batch: images per step.
      step_ms: milliseconds per step.
    """
    total = 1e3 / whole.images_per_core_second
    lines = [f"{'':14}{'ms an image':>12}{'images/s a core':>18}"]
    for name, ms in (*stages.items(), ("all", total)):
        lines.append(f"{name:14}{ms:12.4f}{1e3 / max(ms, 1e-9):18,.0f}")
    cores = batch * total / step_ms
    lines += [
        f"read           {whole.bytes_per_image_read:,.0f} bytes an image",
        f"to the device  {whole.bytes_per_image_sent:,.0f} bytes an image",
        f"cores          {cores:.2f} for a batch of {batch} every {step_ms:g} ms",
    ]
    return "\n".join(lines)
