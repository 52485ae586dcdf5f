"""The parts that a config names: what their factories get and must return.

The catalogues' factories are of these types, and so must be those from outside this
package (see `external`), whose signatures are checked here, and whose results in
`part_results`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from simclr_jax.data.sources import Source
from simclr_jax.data.view import View
from simclr_jax.methods.base import Method
from simclr_jax.models.network import BatchOptions

SETTING = (bool, int, float, str)  # types of a config's values, or tuples of them


class MethodFactory(Protocol):
    def __call__(self, encoder: Any, options: BatchOptions, **settings: Any) -> Method:
        """A method around an encoder.

        Args:
          encoder: a Flax module, for `models.network.network`.
          options: how a batch is run, for the same function.
          settings: its keyword-only arguments. Some names, if there are any, are no
            keys of the config but int numbers of the run: total_steps,
            steps_per_epoch, classes (0 without labels) and size (data.image_size).
        """
        ...


class EncoderFactory(Protocol):
    def __call__(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: str,
        **settings: Any,
    ) -> Any:
        """A Flax module with `width`, F, and (x, train, rows) -> h [N, F].

        Its first operation is `models.norm.pixels(x, mean, std, dtype)` on pictures
        [N, H, W, 3], uint8 or float in [0, 1]; `rows` is for batch norms, see
        `models.norm.BatchNorm`.

        Args:
          mean, std: of the pixels, by channel, on the scale of [0, 1].
          dtype: of the arithmetic.
          settings: its other keyword-only arguments.
        """
        ...


class RecipeFactory(Protocol):
    def __call__(self, *, size: int, **settings: Any) -> tuple[View, ...]:
        """The views of every picture.

        Args:
          size: data.image_size, the side of the views in pixels.
          settings: its other keyword-only arguments.
        """
        ...


class SourceFactory(Protocol):
    def __call__(self, *, split: str, **settings: Any) -> Source:
        """A split of a data set; `data.arrays.Arrays` makes one of NumPy arrays.

        Args:
          split: a single name, such as "train"; "train+test" and "train[:10%]" are
            taken apart before the call.
          settings: its other keyword-only arguments. The one called data_dir, if there
            is one, gets data.data_dir as an absolute path.

        Raises:
          ValueError: there is no such split.
        """
        ...


class EvaluationProtocol(Protocol):
    def __call__(
        self,
        train: np.ndarray,
        train_label: np.ndarray,
        test: np.ndarray,
        test_label: np.ndarray,
        classes: int,
        **settings: Any,
    ) -> dict[str, Any]:
        """Judges features by their labels.

        Args:
          train: float32 [N, F]; train_label: int32 [N] in [0, classes).
          test: float32 [M, F]; test_label: int32 [M].
          classes: C.
          settings: its keyword-only arguments, the keys of evaluate.NAME, where NAME
            is that of the function. The one called mesh, if there is one, gets the
            mesh of the devices.

        Returns:
          {"accuracy": float in [0, 1]}, and other values that JSON can hold.
        """
        ...


class Signature(NamedTuple):
    """What a factory gets beside its settings."""

    title: str  # of the factory, for messages
    positional: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()  # keywords that it gets if it declares them
    required: tuple[str, ...] = ()  # keywords that it must declare


SIGNATURES = {
    "method": Signature(
        "a method's factory",
        positional=("encoder", "options"),
        derived=("total_steps", "steps_per_epoch", "classes", "size"),
    ),
    "encoder": Signature("an encoder's factory", required=("mean", "std", "dtype")),
    "augment": Signature("a recipe of views", derived=("size",), required=("size",)),
    "data": Signature(
        "a data set's factory", derived=("split", "data_dir"), required=("split",)
    ),
    "protocol": Signature(
        "an evaluation protocol",
        positional=("train", "train_label", "test", "test_label", "classes"),
        derived=("mesh",),
    ),
}


def field(part: str) -> str:
    """Where a part is named, such as "method.name"."""
    return "--protocol" if part == "protocol" else f"{part}.name"


def label(part: str, name: str) -> str:
    """A part's name with its field, for messages."""
    return f"{field(part)}={name}"


def check_signature(part: str, name: str, factory: Callable) -> None:
    """Checks that a factory can be called, and its settings kept in a config.

    Args:
      part: one of SIGNATURES.
      name: of the factory, for messages.
      factory: to check.

    Raises:
      ValueError: the message names the argument and what is expected of it.
    """
    title, positional, derived, required = SIGNATURES[part]
    arguments = inspect.signature(factory).parameters.values()
    prefix = f"{label(part, name)}: {title}"
    ordered = [
        p.name
        for p in arguments
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and p.name not in derived
    ]
    if len(ordered) != len(positional):
        raise ValueError(
            f"{prefix} takes ({', '.join((*positional, '*'))}, setting=default, ...); "
            f"got the positional arguments ({', '.join(ordered)})."
        )
    absent = {*required} - {p.name for p in arguments}
    if absent:
        raise ValueError(f"{prefix} needs the argument {', '.join(sorted(absent))}.")
    for p in arguments:
        if p.kind is p.KEYWORD_ONLY and p.name not in derived:
            _check_default(prefix, p)


def _check_default(prefix: str, p: inspect.Parameter) -> None:
    """Checks that a config can hold a default; it gives the key its type."""
    items = p.default if isinstance(p.default, tuple) else (p.default,)
    if p.default is p.empty or not all(isinstance(x, SETTING) for x in items):
        value = "none" if p.default is p.empty else repr(p.default)
        raise ValueError(
            f"{prefix} needs a default for {p.name} that is a number, a bool, a str or "
            f"a tuple of them (it gives the key its type); got {value}."
        )
