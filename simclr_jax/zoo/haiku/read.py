"""Reads BYOL's pickles without Haiku, Optax or dill, and without running anything.

A pickle is a program that may call whatever it can import. This reader lets it make
NumPy arrays and plain containers; of classes of Haiku, Optax, Jax and BYOL it keeps
what they were made from; anything else it refuses.
"""

import collections
import pickle
from typing import Any

import numpy as np

from simclr_jax.tree import by_path

PLAIN = {"byol", "haiku", "optax", "jax"}  # packages whose classes become a Box
NUMBERS = "biuf"  # NumPy's letters for what its bytes alone tell
BRANCHES = ("online_params", "target_params", "online_state", "target_state")


class Refused(ValueError):
    """A pickle asks for something that a checkpoint has no need of."""


class Box:
    """Stands for an object of a foreign class: what it was made from, no more."""

    inside: tuple

    def __new__(cls, *inside):
        box = super().__new__(cls)
        box.inside = inside
        return box

    def __setstate__(self, *_):
        """Whatever a pickle would make of a box, its class above all, it stays one."""


def _bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle of protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding!r}, where only latin1 is usual.")
    return text.encode("latin1")


def _array(make, shape, state, about=None) -> np.ndarray:
    """An array as dill and Jax pickle it: as NumPy does, with a word about it."""
    del about
    x = make(*shape)
    x.__setstate__(state)
    return x


def _named_tuple(name: str, fields, module: str, defaults=None) -> type[Box]:
    """dill makes the classes of named tuples anew."""
    del name, fields, module, defaults
    return Box


class Numbers(np.ndarray):
    """What a pickled array is made of: empty at first, filled by its state."""

    def __setstate__(self, state, /):
        _, shape, kind, *_ = state
        super().__setstate__((1, shape, _dtype(kind), *state[3:]))


class Kind:
    """A type of numbers. Bytes of any other would be taken for addresses."""

    def __init__(self, said, *_):
        if not isinstance(said, str) or np.dtype(said).kind not in NUMBERS:
            raise Refused(
                f"its pickle asks for arrays of {said!r}, which are no numbers"
            )
        self.said = said

    def __setstate__(self, state):
        order = state[1]
        if order not in ("<", "=", "|"):
            raise Refused("its pickle has numbers of another byte order than <")


def _dtype(kind: Any) -> np.dtype:
    """Of a Kind, and looked at once more: with it, bytes become an array."""
    if type(kind) is not Kind or np.dtype(kind.said).kind not in NUMBERS:
        raise Refused(f"its pickle has an array of {kind}, no numbers")
    return np.dtype(kind.said)


def _empty(*_) -> Numbers:
    return np.zeros(0, np.int8).view(Numbers)


def _scalar(kind: Kind, raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, _dtype(kind), 1).reshape(())


ALLOWED = {
    ("numpy", "ndarray"): Box,  # an argument, never called
    ("numpy", "dtype"): Kind,
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
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in ALLOWED:
            return ALLOWED[module_name, global_name]
        if module_name.partition(".")[0] in PLAIN:
            return Box
        raise Refused(
            f"its pickle asks for {module_name}.{global_name}. A checkpoint of BYOL "
            f"needs NumPy's arrays and classes of {', '.join(sorted(PLAIN))}; nothing "
            "was run"
        )


def arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of both branches, such as online_params/projector/linear/w.

    The optimiser's state, the step and the random key are left.

    Raises:
      ValueError: the file is not there, is no pickle of BYOL's, or asks for anything
        but arrays and containers.
    """
    try:
        with open(path, "rb") as file:
            content = _plain(Reader(file).load())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise ValueError(f"{path} is not read: {error}.") from error
    except Exception as error:  # there is no end to how a damaged pickle fails
        kind = type(error).__name__
        raise ValueError(f"{path} is no whole pickle ({kind}: {error}).") from error
    state = content.get("experiment_state") if isinstance(content, dict) else None
    if not isinstance(state, list) or len(state) != len(BRANCHES) + 1:
        has = (
            ", ".join(content) if isinstance(content, dict) else type(content).__name__
        )
        raise ValueError(
            f"{path} is no checkpoint of BYOL's pretraining: experiment_state should "
            f"hold {', '.join(BRANCHES)} and the optimiser's state; the file has {has}."
        )
    leaves = by_path(dict(zip(BRANCHES, state, strict=False)))
    odd = [name for name, x in leaves.items() if not isinstance(x, np.ndarray)]
    if odd:
        raise ValueError(f"{path}: {odd[0]} and {len(odd) - 1} more are no arrays.")
    return leaves


def _plain(x: Any) -> Any:
    """Boxes and tuples as dicts, lists and leaves."""
    if isinstance(x, Box):
        # Haiku's mappings are made from one dict, named tuples from their fields.
        one = len(x.inside) == 1 and isinstance(x.inside[0], dict)
        return _plain(x.inside[0] if one else list(x.inside))
    if isinstance(x, dict):
        return {str(key): _plain(child) for key, child in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(child) for child in x]
    return np.asarray(x) if isinstance(x, np.ndarray) else x
