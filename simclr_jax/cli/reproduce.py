"""Reproduces a row of a paper's table with one command.

simclr-jax reproduce --list
simclr-jax reproduce ROW [--workdir DIR] [--launch] [--config.KEY=value ...]
simclr-jax reproduce [ROW] --card DIR

ROW alone prints where our recipe differs from the published one and the commands that
train and evaluate it. With --workdir they are run, here, and DIR/card.json and card.md
are written: the measured number beside the published one, and what was changed. With
--launch the lines for clusters are printed instead. --card writes the card of a run
that was started otherwise; if it has one, the card is compared with the work directory.
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

from simclr_jax.cli import common
from simclr_jax.plan.topology import cloud_type
from simclr_jax.reproduce import card as cards
from simclr_jax.reproduce.rows import ROWS, Row, chip_hours
from simclr_jax.storage.paths import absolute
from simclr_jax.suggest import check_name

ROOT = str(pathlib.Path(__file__).parents[2])  # where this package is found
LAUNCHERS = (
    "launch/local.sh N",
    "sbatch launch/slurm.sbatch",
    "launch/tpu_vm.sh NAME ZONE {type} 1 IMAGE",
)
MANIFEST = "launch/gke.yaml"
COLUMNS = (
    *("row", "paper", "model", "epochs", "batch", "protocol", "published %"),
    *("chip-hours", "here %"),
)

Changes = list[tuple[str, str]]  # (config key, text), as on the command line


def main(argv: list[str]) -> None:
    """Runs the command; see `common.run_and_exit` for the exit codes."""
    args, changes = read(argv)
    with common.usage_errors():
        if args.list:
            print(table())
        elif args.card:
            check_card(args.row, args.card)
        else:
            reproduce(ROWS[args.row], args, changes)


def read(argv: list[str]) -> tuple[argparse.Namespace, Changes]:
    """Parses the command line.

    Returns:
      the arguments, with absolute paths, and the changes of the config.

    Raises:
      UsageError: an unknown row or a path that cannot be used.
      SystemExit: wrong arguments; the message is printed.
    """
    parser = common.Parser(
        prog="simclr-jax reproduce",
        description=__doc__,
        example="simclr-jax reproduce quickstart --workdir runs/row",
    )
    parser.add_argument("row", nargs="?", default="", metavar="ROW")
    parser.add_argument("--list", action="store_true", help="print all rows")
    parser.add_argument("--workdir", default="", help="run the row, in this folder")
    parser.add_argument("--launch", action="store_true", help="lines for clusters")
    parser.add_argument("--card", default="", metavar="DIR", help="of a finished run")
    args, changes = parser.parse_with_changes(argv)
    if bool(args.list) + bool(args.card or args.row) != 1:
        parser.error("one of --list, ROW and --card DIR is required.")
    if args.list or args.card:
        extra = [*changes, *filter(None, (args.workdir, args.launch))]
        if extra:
            option = "--list" if args.list else "--card DIR"
            parser.error(f"{option} takes no other options.")
    with common.usage_errors():
        if args.row:
            check_name(args.row, ROWS, "ROW")
        args.workdir, args.card = map(absolute, (args.workdir, args.card))
    return args, changes


# All rows.


def table() -> str:
    """All rows with what was published and what was measured here, in columns."""
    committed = cards.committed()
    lines: list[tuple[str, ...]] = [COLUMNS]
    for row in ROWS.values():
        measured = "no card" if row.internal else "not run"
        if row.name in committed:
            measured = str(committed[row.name]["measured"])
        lines.append((*_cells(row), measured))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    note = "chip-hours: roof to estimate by `plan`; not measured"
    return "\n".join([*map(str.rstrip, text), "", note])


def _cells(row: Row) -> tuple[str, ...]:
    """A line of the table, without its last column."""
    return (
        *(row.name, row.paper, row.model, str(row.epochs), str(row.batch)),
        f"{row.protocol} of {row.features}",
        str(row.published) + " (our own)" * row.internal,
        chip_hours_text(row),
    )


def chip_hours_text(row: Row) -> str:
    """`LOW to HIGH CHIP`, or "-" for a row without a plan."""
    hours = chip_hours(row)
    if row.plan is None or hours is None:
        return "-"
    low, high = hours
    return f"{low:.0f} to {high:.0f} {row.plan.topology.partition(':')[0]}"


# One row.


def reproduce(row: Row, args: argparse.Namespace, changes: Changes) -> None:
    """Prints a row and its commands; with --workdir, not --launch, also runs them."""
    from simclr_jax.experiment import reproduction

    print(description(row, changes))
    if args.launch:
        changes = [*reproduction.cluster_changes(row, changes), *changes]
    commands = reproduction.commands(row, args.workdir or "DIR", changes)
    if args.launch:
        print(launch_lines(row, commands, args.workdir or "DIR"))
        return
    print("\nIts commands:\n")
    print("\n".join(shlex.join(["simclr-jax", *command]) for command in commands))
    if not args.workdir:
        return
    for command in commands:
        run_command([sys.executable, "-m", "simclr_jax", *command])
    write_card(row, args.workdir, "with the run")


def description(row: Row, changes: Changes) -> str:
    """What was published, where our recipe differs, and the user's changes.

    Raises:
      ValueError: a change is invalid for the config.
    """
    from simclr_jax.experiment import reproduction

    lines = [
        f"{row.name}: {row.paper}, {row.table}: {row.model}, {row.epochs} epochs, "
        f"batch {row.batch}",
        f"{'measured by us' if row.internal else 'published'}: {row.published} % by "
        f"{row.protocol} of {row.features}",
    ]
    if row.differences:
        lines.append("\nOur recipe differs from the published one in")
    lines += [
        f"  {x.field}: {x.published}; ours {x.ours} ({x.why})" for x in row.differences
    ]
    for text, fields in reproduction.changed_fields(row, changes).items():
        lines += [f"\nYour changes of {text}:", *(f"  {line}" for line in fields)]
    return "\n".join(lines)


def launch_lines(row: Row, commands: list[list[str]], workdir: str) -> str:
    """The commands for each launcher; see launch/README.md."""
    *training, evaluation = commands
    chips = cloud_type(row.plan.topology) if row.plan else ""
    lines = ["\nOne of these; fill in the capitals, see launch/README.md:"]
    for launcher in LAUNCHERS:
        name = launcher.format(type=chips or "TYPE")
        lines += ["", *(f"{name} {shlex.join(line[1:])}" for line in training)]
    for line in training:
        lines += [f"\nkubectl apply -f {MANIFEST}, in which the container has"]
        lines += [f"args: {json.dumps(line)}"]
    if len(training) > 1:
        lines += ["\nEach run starts when the one before it has ended."]
    lines += ["\nThen:\n", shlex.join(["simclr-jax", *evaluation])]
    lines.append(f"simclr-jax reproduce {row.name} --card {workdir}")
    return "\n".join(lines)


def run_command(command: list[str]) -> None:
    """Runs a command of this package and forwards SIGTERM to it.

    Args:
      command: the Python interpreter and its arguments.

    Raises:
      SystemExit: with the command's exit code, if it is not 0.
    """
    path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    children, stopped = [], []

    def stop(*_):
        stopped.append(True)
        for child in children:
            child.terminate()

    # Ctrl-C also reaches the child, which then saves; this process waits for it.
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: stop}
    previous = {number: signal.signal(number, f) for number, f in handlers.items()}
    children.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}))
    if stopped:  # by a signal that arrived before the child was started
        stop()
    code = children[0].wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


# A finished run.


def check_card(name: str, workdir: str) -> None:
    """Writes the card of a work directory; if it has one, compares the two.

    Args:
      name: of the row; "" to look for the one that matches.
      workdir: of a finished run.

    Raises:
      ValueError: no row matches, or a file of the work directory is damaged.
      SystemExit: the card differs from the work directory; the lines are printed.
    """
    from etils import epath

    from simclr_jax.experiment.cards import find_row, read, verify

    path = epath.Path(workdir) / "card.json"
    if not path.exists():
        write_card(ROWS[name or find_row(workdir)], workdir, "afterwards")
        return
    card = read(workdir)
    row = ROWS[name or card["row"]["name"]]
    lines = verify(card, row, workdir)
    if lines:
        print(f"{path} differs from the work directory:", *lines, sep="\n  ")
        print("Remove it, and --card DIR writes a new one.")
        raise SystemExit(common.FAILED)
    print(f"{path}: {row.name}, matches the work directory")


def write_card(row: Row, workdir: str, written: str) -> None:
    """Writes the card of a finished run and prints it.

    Raises:
      ValueError: as in `experiment.cards.make`.
    """
    from simclr_jax.experiment.cards import make

    card = make(row, workdir, written)
    cards.write(card, workdir)
    print(f"\n{cards.report(json.loads(json.dumps(card)))}")
    print(f"{workdir}: card.json, card.md")
