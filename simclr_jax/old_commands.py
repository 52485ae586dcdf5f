"""`python -m simclr_jax.MODULE` was a command's former name; it prints the new one."""

import sys
from typing import NoReturn

USAGE = 2  # the exit code of a wrong command line


def exit_with(command: str) -> NoReturn:
    """Prints the command that replaces a module's name and exits with code 2."""
    print(
        f"This command is now `simclr-jax {command}`, or `python -m simclr_jax "
        f"{command}`, with the same arguments.",
        file=sys.stderr,
    )
    raise SystemExit(USAGE)
