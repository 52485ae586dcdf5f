"""What all commands share: exit codes, errors of the caller, the argument parser.

Importing this loads none of the large libraries, so that help and listings are quick.
"""

import argparse
import atexit
import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from simclr_jax.experiment import config_files
from simclr_jax.suggest import nearest

DONE, FAILED, USAGE, TRY_AGAIN = 0, 1, 2, 75
CONFIG = "--config."
# Keys that name what a run was built of; to allow code from outside, see external.py.
PART_NAMES = ("method.name", "encoder.name", "augment.name")


class UsageError(Exception):
    """The command line or the config is wrong; nothing was started."""


class Preempted(BaseException):
    """The run was asked to stop before its end; the same command resumes it.

    Like KeyboardInterrupt, it is not a subclass of Exception, so that no
    `except Exception` catches it.
    """


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with one-line errors that suggest the nearest spelling."""

    def __init__(self, *, prog: str, description: str, example: str):
        """
        Args:
          prog: the command, such as "simclr-jax plan".
          description: printed unchanged above the options.
          example: a complete command line, printed below them.
        """
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits with code 2."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(USAGE)

    def add_config(self) -> None:
        """Adds the argument --config."""
        self.add_argument(
            "--config",
            required=True,
            help="a config's name or the path of its file; with arguments of the "
            "file: NAME:key=value,...",
        )

    def parse_with_changes(
        self, argv: Sequence[str]
    ) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
        """Parses the options and collects every `--config.KEY=VALUE`.

        Returns:
          the arguments, and the changes of the config as (key, text) in order.

        Raises:
          SystemExit: for an unknown argument, a missing value or an option given twice;
            the message is printed.
          UsageError: there is no config of the name that --config gives.
        """
        for argument in argv:  # before argparse reports a misspelt option as missing
            flag = argument.partition("=")[0]
            option = flag.startswith("--") and not flag.startswith(CONFIG)
            if option and flag not in self._flags():
                self.error(self._unknown(argument))
        self._reject_repeated(argv)
        arguments, rest = self.parse_known_args(argv)
        changes, remaining = [], iter(rest)
        for argument in remaining:
            key, equals, text = argument.partition("=")
            if not key.startswith(CONFIG):
                self.error(self._unknown(argument))
            if not equals:
                text = next(remaining, None)
                if text is None or text.startswith("--"):
                    self.error(f"{key} needs a value: {key}=VALUE.")
            changes.append((key.removeprefix(CONFIG), text))
        if "config" in arguments:
            with usage_errors():  # before the imports, which take seconds
                config_files.find(arguments.config.partition(":")[0])
        return arguments, changes

    def check_part_names(self, changes: Sequence[tuple[str, str]]) -> None:
        """Prints a message and exits if a change is not of a part's name."""
        for key, _ in changes:
            if key not in PART_NAMES:
                names = ", ".join(f"{CONFIG}{name}" for name in PART_NAMES)
                self.error(f"{CONFIG}{key} belongs to the training; only {names}.")

    def _flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]

    def _reject_repeated(self, argv: Sequence[str]) -> None:
        flags = [x.partition("=")[0] for x in argv if x.startswith("--")]
        repeated = [flag for flag, count in Counter(flags).items() if count > 1]
        if repeated:
            self.error(f"{', '.join(repeated)}: given more than once.")

    def _unknown(self, argument: str) -> str:
        flags = self._flags()
        suggestion = nearest(argument.partition("=")[0], flags)
        if suggestion:
            return f"unknown argument {argument!r}. Did you mean {suggestion}?"
        if "=" in argument:
            return (
                f"unknown argument {argument!r}. Settings are written "
                f"{CONFIG}KEY=VALUE."
            )
        return f"unknown argument {argument!r}. There are: {', '.join(sorted(flags))}."


@contextlib.contextmanager
def usage_errors(*, started: bool = False, pictures: bool = False) -> Iterator[None]:
    """Turns a ValueError, or a path that cannot be used, into a UsageError.

    Args:
      started: whether the command has started its work; then a bucket that denies
        access is not a usage error, as the same command may succeed later.
      pictures: whether a picture that cannot be read is one, as the command line names
        the pictures.

    Raises:
      UsageError: with the message of the original error.
    """
    try:
        yield
    except Exception as error:
        if _is_usage_error(error, started, pictures):
            raise UsageError(str(error)) from error
        raise


def _is_usage_error(error: Exception, started: bool, pictures: bool) -> bool:
    if type(error) is ValueError:
        return True  # the usual case, without the imports below
    from simclr_jax.data.errors import STORAGE, UnreadablePicture
    from simclr_jax.storage.errors import BucketDenied, BucketUnavailable

    if isinstance(error, UnreadablePicture):
        return pictures
    if isinstance(error, BucketUnavailable):
        return False
    if isinstance(error, BucketDenied):
        return not started
    return isinstance(error, (ValueError, *STORAGE))


@contextlib.contextmanager
def progress_bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal; yields (done, total) -> None."""
    from tqdm import tqdm

    with tqdm(desc=name, unit=unit, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def run_and_exit(main: Callable[[list[str]], None]) -> None:
    """Runs a command on the process's arguments and ends the process.

    The exit code is 0 for success, 1 for a failure while running, 2 for an error in the
    command line or the config, 75 if the same command should be tried again. With any
    code but 0 the process ends by `os._exit`: with several processes, an ordinary exit
    waits minutes for peers that in turn wait for this process. With 0 it does so after
    all threads and exit handlers: to free what the libraries hold takes seconds.
    """
    succeeded = False

    def end() -> None:
        if succeeded:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(DONE)

    atexit.register(end)  # the first to be registered is the last to be called
    # Orbax logs hundreds of lines about an error that it then raises; see below.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of its caches
    sys.unraisablehook = _without_closed_loops
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USAGE
    except BaseException as error:
        from simclr_jax.cli.runtime import report

        code = report(error)
    else:
        code = DONE
    sys.stdout.flush()
    sys.stderr.flush()
    if code != DONE:
        os._exit(code)
    succeeded = True


def _without_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ignores errors of Orbax's writes whose event loop a failed write has closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
