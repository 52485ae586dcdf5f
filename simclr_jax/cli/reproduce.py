"""The reproducing door: a row of a paper's table as one command.

python -m simclr_jax reproduce --list
python -m simclr_jax reproduce ROW [--workdir DIR] [--launch] [--config.KEY=value ...]
python -m simclr_jax reproduce [ROW] --card DIR

ROW alone says in what our recipe differs from the published one, and which commands it
stands for. With --workdir it runs them, here, and writes DIR/card.json and card.md: the
number beside the published one, and whether anything was changed. With --launch it says
the lines for clusters instead. --card writes the card of a run that was made otherwise,
or, where there is one, holds it against the work directory.
"""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys

from etils import epath

from simclr_jax.cli import common
from simclr_jax.experiment import build, cards, config
from simclr_jax.reproduce.row import PLANNED, Row
from simclr_jax.reproduce.rows import ROWS
from simclr_jax.storage.paths import absolute
from simclr_jax.suggest import check_name

LAUNCHERS = (
    "launch/local.sh N",
    "sbatch launch/slurm.sbatch",
    "launch/tpu_vm.sh NAME ZONE TYPE SLICES IMAGE",
)


def main(argv: list[str]) -> None:
    """Does as the command line says; see door.leave for the exit codes."""
    asked, changes = read(argv)
    with common.checking():
        if asked.list:
            print(table())
        elif asked.card:
            settle(asked.row, asked.card)
        else:
            follow(ROWS[asked.row], asked, changes)


def read(argv: list[str]):
    """What a command line says: (arguments, changes of the config)."""
    words = common.Parser(prog="simclr_jax reproduce", description=__doc__)
    words.add_argument("row", nargs="?", default="", metavar="ROW")
    words.add_argument("--list", action="store_true", help="all rows")
    words.add_argument("--workdir", default="", help="run it, and keep everything here")
    words.add_argument("--launch", action="store_true", help="lines for clusters")
    words.add_argument("--card", default="", metavar="DIR", help="of a finished run")
    asked, changes = words.parse_with_changes(argv)
    if bool(asked.list) + bool(asked.card or asked.row) != 1:
        words.error("wants --list, a ROW, or --card DIR.")
    if asked.list or asked.card:
        extra = [*changes, *filter(None, (asked.workdir, asked.launch))]
        if extra:
            words.error(f"{'--list' if asked.list else '--card DIR'} stands alone.")
    if asked.row:
        with common.checking():
            check_name(asked.row, ROWS, "ROW")
    with common.checking():
        asked.workdir, asked.card = map(absolute, (asked.workdir, asked.card))
    return asked, changes


# All rows.


def table() -> str:
    """The rows for people."""
    head = ("row", "paper", "model", "epochs", "batch", "protocol")
    head = (*head, "published %", "chip-hours", "here %")
    kept = cards.kept()
    lines = [head]
    for row in ROWS.values():
        shown = str(row.published) + " (our own)" * row.own
        mine = "no card" if row.own else "not run"
        if row.name in kept:
            mine = str(kept[row.name]["measured"])
        about = (row.name, row.paper, row.model, str(row.epochs), str(row.batch))
        judged = f"{row.protocol} of {row.features}"
        lines.append((*about, judged, shown, chip_hours(row), mine))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
        for line in lines
    ]
    note = "chip-hours: from roof to estimate, by simclr_jax.plan; not measured"
    return "\n".join([*map(str.rstrip, text), "", note])


def chip_hours(row: Row) -> str:
    """Of the whole run, as planned; "-" where this row's step was not."""
    if not row.planned:
        return "-"
    topology, low, high = PLANNED[row.planned]
    chip, _, sides = topology.partition(":")
    chips = math.prod(map(int, re.findall(r"\d+", sides)))
    (text, _), *_ = cards.stages(row, "DIR")
    steps, _ = build.length(cards.effective(row, text, []), row.images)
    low, high = (steps * ms * chips / 3.6e6 for ms in (low, high))
    return f"{low:.0f} to {high:.0f} {chip}"


# One row.


def follow(row: Row, asked, changes: list[tuple[str, str]]) -> None:
    """Says what a row is; runs it if asked to."""
    print(described(row, changes))
    orders = commands(row, asked.workdir or "DIR", changes)
    if asked.launch:
        print(launched(row, orders, asked.workdir or "DIR"))
        return
    print("\nIt stands for:\n")
    print("\n".join(shlex.join(["python", *order]) for order in orders))
    if not asked.workdir:
        return
    for order in orders:
        obey([sys.executable, *map(_from_anywhere, order)])
    conclude(row, asked.workdir, "with the run")


def described(row: Row, changes: list[tuple[str, str]]) -> str:
    """What a row claims, where we differ, and what a user's changes make of that.

    Raises:
      ValueError: for changes that the config does not take.
    """
    lines = [
        f"{row.name}: {row.paper}, {row.table}: {row.model}, {row.epochs} epochs, "
        f"batch {row.batch}",
        f"{'measured by us' if row.own else 'published'}: {row.published} % by "
        f"{row.protocol} of {row.features}",
    ]
    if row.differs:
        lines.append("\nOurs differs from the published recipe in")
    lines += [
        f"  {each.field}: {each.published}; ours {each.ours} ({each.why})"
        for each in row.differs
    ]
    for text, folder in cards.stages(row, "DIR"):
        own, mine = (
            config.plain(cards.effective(row, text, some)) for some in ([], changes)
        )
        changed = config.differences(own, mine)
        if changed:
            lines.append(f"\nYour changes of {folder}:")
            lines += [f"  {line}" for line in changed]
    return "\n".join(lines)


def commands(row: Row, workdir: str, changes: list[tuple[str, str]]) -> list[list[str]]:
    """The calls of our doors that a row stands for, in order."""
    judging = tuple(f"evaluate.{name}." for name in config.PROTOCOLS)
    training = [pair for pair in changes if not pair[0].startswith(judging)]
    settings = [pair for pair in changes if pair[0].startswith(judging)]
    runs = cards.stages(row, workdir)
    orders = [
        [
            *("-m", "simclr_jax", "pretrain", "--config", text, "--workdir", folder),
            *flags([*row.changes.items(), *training]),
        ]
        for text, folder in runs
    ]
    last = runs[-1][1]
    judged = ["-m", "simclr_jax", "evaluate", "--workdir", last]
    judged += ["--protocol", row.protocol, "--features", row.features]
    return [*orders, [*judged, *flags([*row.judged.items(), *settings])]]


def flags(changes: list[tuple[str, str]]) -> list[str]:
    return [f"--config.{key}={text}" for key, text in changes]


def launched(row: Row, orders: list[list[str]], workdir: str) -> str:
    """The same for clusters; see launch/README.md."""
    *training, judging = orders
    lines = ["\nOne of these; capitals are yours to fill in, and see launch/README.md:"]
    for launcher in LAUNCHERS:
        lines += [""] + [f"{launcher} {shlex.join(order[2:])}" for order in training]
    lines += ["\nThen:\n", shlex.join(["python", *judging])]
    lines.append(f"python -m simclr_jax reproduce {row.name} --card {workdir}")
    return "\n".join(lines)


def _from_anywhere(word: str) -> str:
    """The configs are the project's; all other paths are the caller's."""
    return f"{cards.ROOT}/{word}" if word.startswith("configs/") else word


def obey(command: list[str]) -> None:
    """Runs a door and passes on what it is told and how it ends."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, [str(cards.ROOT), before]))
    children, asked = [], []

    def stop(*_):
        asked.append(True)
        for child in children:
            child.terminate()

    # Ctrl-C reaches the child by itself; it then saves, and this process waits for it.
    hear = {signal.SIGINT: lambda *_: None, signal.SIGTERM: stop}
    before = {number: signal.signal(number, do) for number, do in hear.items()}
    children.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}))
    if asked:  # while there was no child yet
        stop()
    code = children[0].wait()
    for number, do in before.items():
        signal.signal(number, do)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


# A finished run.


def settle(name: str, workdir: str) -> None:
    """Writes the card of a work directory, or holds the one it has against it."""
    path = epath.Path(workdir) / "card.json"
    if not path.exists():
        conclude(ROWS[name or owner(workdir)], workdir, "afterwards")
        return
    said = build.read_saved(workdir, "card.json")
    if not {"row", "environment"} <= said.keys():
        raise ValueError(f"{path} is no card. Without it, --card writes one.")
    whose = name or said["row"]["name"]
    check_name(whose, ROWS, str(path))
    wrong = cards.verify(said, ROWS[whose], workdir)
    if wrong:
        print(f"{path} is not of what lies beside it:", *wrong, sep="\n  ")
        print("Without it, --card writes another.")
        raise SystemExit(common.FAILED)
    print(f"{path}: {whose}, as it says")


def owner(workdir: str) -> str:
    """The row that a run without a card is of.

    Raises:
      ValueError: if that is not one row.
    """
    found = {}
    for name, row in ROWS.items():
        runs = cards.stages(row, workdir)
        if all((epath.Path(f) / "config.json").exists() for _, f in runs):
            found[name] = sum(len(cards.recipe(row, *each)) for each in runs)
    if not found:
        raise ValueError(f"{workdir} is no work directory: it has no config.json.")
    exact = [name for name, lines in found.items() if not lines]
    scored = [name for name in exact if cards.score(ROWS[name], workdir)]
    chosen = scored or exact
    if len(chosen) == 1:
        return chosen[0]
    near = ", ".join(chosen) or f"the nearest is {min(found, key=lambda n: found[n])}"
    raise ValueError(f"{workdir}: whose row is it? Say ROW --card DIR; {near}.")


def conclude(row: Row, workdir: str, when: str) -> None:
    made = cards.make(row, workdir, when)
    cards.write(made, workdir)
    print(f"\n{cards.report(json.loads(json.dumps(made)))}")
    print(f"{workdir}: card.json, card.md")


if __name__ == "__main__":
    common.leave(main)
