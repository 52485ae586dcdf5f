"""The output of `evaluate --compare`."""

import argparse

from simclr_jax.cli import common


def show(arguments: argparse.Namespace) -> None:
    """Prints the scores of two work directories and their differences."""
    from simclr_jax.experiment.comparison import compare
    from simclr_jax.storage.paths import absolute

    first, second = arguments.compare
    folders = absolute(first), absolute(second)
    with common.usage_errors():
        rows = compare(*folders, arguments.protocol, arguments.features)
    print(f"A {first}\nB {second}\n")
    head = f"{'A, %':>5} {'B, %':>5}  B - A, 95 % interval"
    print(f"{'protocol':17} {'features':13} {head}")
    for row in rows:
        low, high = (f"{100 * x:+.1f}" for x in row.interval)
        notes = ["they differ"] if row.differs else []
        notes += [row.note] if row.note else []
        print(
            f"{row.protocol:17} {row.feature:13} {100 * row.first:5.1f} "
            f"{100 * row.second:5.1f}  {100 * (row.second - row.first):+5.1f} "
            f"({low} to {high})  {', '.join(notes)}".rstrip()
        )
