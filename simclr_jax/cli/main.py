"""The command line: the first word names the command, the rest are its arguments."""

import importlib
import sys

from simclr_jax.cli import common
from simclr_jax.suggest import did_you_mean

COMMANDS = {  # command: (module of `simclr_jax.cli`, what it does)
    "pretrain": ("pretrain", "train an encoder as a config says, or resume"),
    "evaluate": ("evaluate", "kNN and linear accuracy of what a run has learnt"),
    "plan": ("plan", "memory and time of a step on TPUs that are not here"),
    "reproduce": ("reproduce", "a row of a paper's table as one command"),
    "zoo": ("zoo", "import published weights, export trained ones"),
    "data bench": ("data_bench", "how many images/s the input pipeline makes"),
}


def main() -> None:
    """Runs the command that the command line names and ends the process."""
    common.run_and_exit(run)


def run(argv: list[str]) -> None:
    """Runs a command.

    Raises:
      SystemExit: for an unknown command, with exit code 2; the message is printed.
    """
    name, rest = split(argv)
    if not name or name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        known = ", ".join(COMMANDS)
        print(f"unknown command {name!r}.{hint} There are: {known}.", file=sys.stderr)
        raise SystemExit(common.USAGE)
    module, _ = COMMANDS[name]
    importlib.import_module(f"simclr_jax.cli.{module}").main(rest)


def split(argv: list[str]) -> tuple[str, list[str]]:
    """The command, of one or two words, and its arguments."""
    two = " ".join(argv[:2])
    count = 2 if two in COMMANDS else 1
    return " ".join(argv[:count]), argv[count:]


def usage() -> str:
    """What `--help` prints: the commands and how to begin."""
    lines = [f"  {name:11} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m simclr_jax COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "python -m simclr_jax COMMAND --help says more of each.",
        ]
    )
