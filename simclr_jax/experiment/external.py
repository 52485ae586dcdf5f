"""Parts from outside this package, which a config names as `package.module:factory`.

Where a config names a method, an encoder, a recipe of views or a data set, and where
`evaluate` gets a protocol, such a name may stand in place of one of this package's. The
module is imported and its factory called like those of the catalogues: its keyword-only
arguments with a default become the keys of the config's section. See `parts` for what a
factory gets and must return.

A named factory is code that runs with the user's rights. So names that a work directory
brings along are not imported unless the user names them, see `workdir.saved_config`.
"""

import importlib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simclr_jax.experiment import parts
from simclr_jax.storage.paths import has_scheme
from simclr_jax.suggest import did_you_mean

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_external(name: str) -> bool:
    """Whether a name has the form `package.module:factory`."""
    return NAME.fullmatch(name) is not None and not has_scheme(name)


def load(part: str, name: str) -> Callable[..., Any]:
    """Imports a factory. The current directory is importable, after everything else.

    Args:
      part: one of `parts.SIGNATURES`.
      name: `package.module:factory`.

    Raises:
      ValueError: the module cannot be imported or lacks the factory, or the factory
        has not the signature of its part.
    """
    module_name, _, attribute = name.partition(":")
    label = parts.label(part, name)
    module = _imported(module_name, label)
    file = getattr(module, "__file__", None) or module_name
    if not hasattr(module, attribute):
        names = [x for x in vars(module) if not x.startswith("_")]
        raise ValueError(
            f"{label}: {file} has no {attribute!r}.{did_you_mean(attribute, names)}"
        )
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ValueError(
            f"{label}: {attribute} of {file} is {type(factory).__name__}, and must be "
            f"{parts.SIGNATURES[part].title}, a function."
        )
    parts.check_signature(part, name, factory)
    return factory


def _imported(name: str, label: str) -> ModuleType:
    """The module; a ValueError with file and line if its code raises an error."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # last: it must not replace other modules
    importlib.invalidate_caches()  # the file may be new
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = getattr(error, "name", None)
        absent = isinstance(error, ModuleNotFoundError) and missing
        if absent and f"{name}.".startswith(f"{missing}."):
            raise ValueError(
                f"{label}: there is no module {missing}. It is looked for among the "
                "installed packages, in the folder of the config file and in the "
                f"current directory, {folder}."
            ) from error
        message = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(
            f"{label}: {_position(error, name)}: {message} ({type(error).__name__})"
        ) from error


def _position(error: Exception, name: str) -> str:
    """FILE, line N: of a syntax error, or of the module's line that failed."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    stem = name.rpartition(".")[2]
    inside = [f for f in frames if pathlib.Path(f.filename).stem == stem]
    frame = (inside or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"
