"""Reads BYOL's pickles without Haiku, Optax or dill, and without running anything.

A pickle is a program that may call any function that it can import. This reader allows
NumPy arrays and plain containers. It replaces objects of Haiku, Optax, jax and BYOL by
the arguments of their constructors, and refuses anything else.
"""

import collections
import pickle
from typing import Any, NoReturn

import numpy as np

from simclr_jax.tree import by_path

# Packages whose classes become a PlainObject.
PACKAGES = {"byol", "haiku", "optax", "jax"}
NUMERIC = "biuf"  # NumPy's letters for dtypes that bytes describe completely
BRANCHES = ("online_params", "target_params", "online_state", "target_state")


class Refused(ValueError):
    """A pickle asks for something that a checkpoint does not need."""


class PlainObject:
    """Replaces an object of a foreign class; stores its arguments and does nothing."""

    args: tuple

    def __new__(cls, *args):
        instance = super().__new__(cls)
        instance.args = args
        return instance

    def __setstate__(self, *_):
        """Ignores the state, which could change the class."""


class UnfilledArray(np.ndarray):
    """An array that a pickle creates empty and then fills through `__setstate__`."""

    def __setstate__(self, state, /):
        _, shape, dtype, *_ = state
        super().__setstate__((1, shape, _dtype(dtype), *state[3:]))


class NumericType:
    """A numeric dtype. With an object dtype, bytes would be read as addresses."""

    def __init__(self, code, *_):
        if not isinstance(code, str) or np.dtype(code).kind not in NUMERIC:
            raise Refused(f"its pickle asks for arrays of {code!r}, not of numbers")
        self.code = code

    def __setstate__(self, state):
        order = state[1]
        if order not in ("<", "=", "|"):
            raise Refused("its pickle has numbers that are not little-endian")


def _dtype(value: Any) -> np.dtype:
    """The dtype of a NumericType, checked again before bytes are read with it."""
    if type(value) is not NumericType or np.dtype(value.code).kind not in NUMERIC:
        raise Refused(f"its pickle has an array of {value}, not of numbers")
    return np.dtype(value.code)


def _empty(*_) -> UnfilledArray:
    return np.zeros(0, np.int8).view(UnfilledArray)


def _scalar(dtype: NumericType, raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, _dtype(dtype), 1).reshape(())


def _bytes(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them into a pickle of protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding!r}, expected latin1.")
    return text.encode("latin1")


def _array(make, shape, state, metadata=None) -> np.ndarray:
    """An array as dill and jax pickle it: as NumPy does, with metadata."""
    del metadata
    x = make(*shape)
    x.__setstate__(state)
    return x


def _named_tuple(name: str, fields, module: str, defaults=None) -> type[PlainObject]:
    """The class of a named tuple, which dill defines in the pickle."""
    del name, fields, module, defaults
    return PlainObject


ALLOWED = {
    ("numpy", "ndarray"): PlainObject,  # an argument, never called
    ("numpy", "dtype"): NumericType,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _empty), ("scalar", _scalar))
    },
    ("jax._src.array", "_reconstruct_array"): _array,
    ("jax._src.device_array", "reconstruct_device_array"): _array,
    ("dill._dill", "_create_array"): _array,
    ("dill._dill", "_create_namedtuple"): _named_tuple,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class Reader(pickle.Unpickler):
    """An unpickler that can only find `ALLOWED` and PlainObject."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in ALLOWED:
            return ALLOWED[module_name, global_name]
        if module_name.partition(".")[0] in PACKAGES:
            return PlainObject
        raise Refused(
            f"its pickle asks for {module_name}.{global_name}. A checkpoint of BYOL "
            f"needs NumPy's arrays and classes of {', '.join(sorted(PACKAGES))}; "
            "nothing was run"
        )


def arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of both branches, such as online_params/projector/linear/w.

    The optimiser's state, the step and the random key are not read.

    Raises:
      ValueError: the file does not exist, is not a pickle of BYOL's code, or asks for
        anything but arrays and containers.
    """
    content = _content(path)
    state = content.get("experiment_state") if isinstance(content, dict) else None
    if not isinstance(state, list) or len(state) != len(BRANCHES) + 1:
        _refuse_content(path, content)
    leaves = by_path(dict(zip(BRANCHES, state, strict=False)))
    others = [name for name, x in leaves.items() if not isinstance(x, np.ndarray)]
    if others:
        raise ValueError(f"{path}: {others[0]} and {len(others) - 1} more: no arrays.")
    return leaves


def _content(path: str) -> Any:
    """The pickle's tree in plain containers."""
    try:
        with open(path, "rb") as file:
            return _plain(Reader(file).load())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise ValueError(f"{path} is refused: {error}.") from error
    except Exception as error:  # damaged pickles raise many types
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no complete pickle ({reason}).") from error


def _refuse_content(path: str, content: Any) -> NoReturn:
    keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
    raise ValueError(
        f"{path} is no checkpoint of BYOL's pretraining: experiment_state should "
        f"hold {', '.join(BRANCHES)} and the optimiser's state; the file has {keys}."
    )


def _plain(x: Any) -> Any:
    """PlainObjects and tuples as dicts, lists and leaves."""
    if isinstance(x, PlainObject):
        # Arguments: one dict for Haiku's mappings, the fields for named tuples.
        one_dict = len(x.args) == 1 and isinstance(x.args[0], dict)
        return _plain(x.args[0] if one_dict else list(x.args))
    if isinstance(x, dict):
        return {str(key): _plain(child) for key, child in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(child) for child in x]
    return np.asarray(x) if isinstance(x, np.ndarray) else x
