"""Finds config files by name; loads no large library."""

import os
import pathlib

from simclr_jax.suggest import nearest

PACKAGE = pathlib.Path(__file__).parents[1]
# The configs: inside the installed package, beside the package in a checkout.
SHIPPED = next(
    folder
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs")
    if folder.is_dir()
)


def find(name: str) -> pathlib.Path:
    """The config file of a name: a file, else a config of this package.

    Raises:
      ValueError: there is neither; the message has the nearest name.
    """
    path = pathlib.Path(os.path.expanduser(name))  # unlike pathlib's, never an error
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name.removesuffix('.py')}.py"
    if shipped.is_file():
        return shipped
    files = [str(p) for p in path.parent.glob("*.py")]
    suggestion = nearest(path.stem, shipped_names()) or nearest(name, files)
    hint = f" Did you mean {suggestion}?" if suggestion else ""
    raise ValueError(
        f"--config: there is no file {name}, and no config of that name.{hint} "
        f"There are: {', '.join(shipped_names())}; or the path of a file."
    )


def shipped_names() -> list[str]:
    """The names of this package's configs."""
    return sorted(path.stem for path in SHIPPED.glob("[!_]*.py"))
