"""The command line: the first word names the command, the rest are its arguments."""

import importlib
import sys
from collections.abc import Sequence

from simclr_jax.cli import common
from simclr_jax.suggest import did_you_mean

COMMANDS = {  # command: (module of `simclr_jax.cli`, what it does)
    "pretrain": ("pretrain", "train an encoder as a config describes, or resume"),
    "evaluate": ("evaluate", "kNN and linear accuracy of the encoder of a run"),
    "embed": ("embed", "features of pictures as a table, neighbours, duplicates"),
    "visualize": ("visualize", "attention maps and patch features of pictures"),
    "plan": ("plan", "memory and time of a step on TPUs, without having them"),
    "reproduce": ("reproduce", "a row of a paper's table as one command"),
    "zoo": ("zoo", "import published weights, export trained ones"),
    "data bench": ("data_bench", "how many images/s the input pipeline makes"),
}
FIRST_STEPS = (
    "simclr-jax pretrain --config quickstart --workdir runs/quickstart",
    "simclr-jax evaluate --workdir runs/quickstart",
    "simclr-jax pretrain --config folder --workdir runs/mine "
    "--config.data.name=path/to/pictures",
)


def main() -> None:
    """Runs the command named by the process's arguments, then ends the process."""
    common.run_and_exit(run)


def run(argv: Sequence[str]) -> None:
    """Runs a command.

    Raises:
      SystemExit: for an unknown command, with exit code 2; the message is printed.
    """
    name, arguments = split(argv)
    if not name or name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        print(f"simclr-jax: {_unknown(name)}", file=sys.stderr)
        raise SystemExit(common.USAGE)
    module, _ = COMMANDS[name]
    importlib.import_module(f"simclr_jax.cli.{module}").main(arguments)


def split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command, of one or two words, and its arguments."""
    count = 2 if " ".join(argv[:2]) in COMMANDS else 1
    return " ".join(argv[:count]), list(argv[count:])


def usage() -> str:
    """The commands, and those to try first, as `--help` prints them."""
    return "\n".join(
        [
            "usage: simclr-jax COMMAND [ARGUMENTS]",
            "",
            *(f"  {name:11} {text}" for name, (_, text) in COMMANDS.items()),
            "",
            "simclr-jax COMMAND --help describes a command.",
            "",
            "First steps; the last one trains on a folder of your own pictures:",
            "",
            *(f"  {line}" for line in FIRST_STEPS),
        ]
    )


def _unknown(name: str) -> str:
    longer = [command for command in COMMANDS if command.startswith(f"{name} ")]
    hint = did_you_mean(longer[0] if longer else name, COMMANDS)
    return f"unknown command {name!r}.{hint} There are: {', '.join(COMMANDS)}."
