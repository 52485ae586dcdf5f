"""Checks what the factories from outside this package have returned.

What they must return is described by the protocols in `parts`.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.data.view import View
from simclr_jax.experiment.parts import label
from simclr_jax.methods.base import Method
from simclr_jax.models.rows import WHOLE

SOURCE = ("name", "classes", "class_names", "block", "read", "describe", "__len__")


def check_result(part: str, name: str, result: Any) -> None:
    """Checks what a factory has returned.

    Raises:
      ValueError: it is not what the factory's protocol in `parts` describes.
    """
    problem = RESULTS[part](result)
    if problem:
        raise ValueError(f"{label(part, name)} {problem}")


def _method_problem(result: Any) -> str:
    if isinstance(result, Method):
        return ""
    returned = type(result).__name__
    return f"must return a simclr_jax.methods.base.Method, and returned {returned}."


def _encoder_problem(result: Any) -> str:
    if not isinstance(getattr(result, "width", None), int) or not callable(result):
        return (
            "must return a Flax module with the number `width`, the length of h; it "
            f"returned {type(result).__name__}."
        )
    try:
        inspect.signature(type(result).__call__).bind(result, None, False, WHOLE)
    except TypeError as error:
        return f"returned a module that must be called with (x, train, rows): {error}."
    return ""


def check_encoder(name: str, encoder: Any, size: int) -> None:
    """Checks that an encoder makes h [N, width] of pictures of `size` pixels a side.

    Raises:
      ValueError: it makes something else.
    """
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)

    def encode(x):
        return encoder.init_with_output(jax.random.key(0), x, False, WHOLE)[0]

    h = jax.eval_shape(encode, images)
    if getattr(h, "shape", None) != (2, encoder.width):
        raise ValueError(
            f"encoder.name={name}: for 2 pictures it must return an array [2, width] "
            f"= [2, {encoder.width}], and it returned {h}."
        )


def _recipe_problem(result: Any) -> str:
    is_tuple = isinstance(result, tuple) and result
    if is_tuple and all(isinstance(view, View) for view in result):
        return ""
    return (
        "must return a tuple of simclr_jax.data.view.View, one or more; it returned "
        f"{result!r}."
    )


def _source_problem(result: Any) -> str:
    absent = [name for name in SOURCE if not hasattr(result, name)]
    if absent:
        return (
            "must return a source (simclr_jax.data.sources.Source); "
            f"{type(result).__name__} lacks {', '.join(absent)}."
        )
    if not len(result):
        return "returned a source without pictures."
    rows = result.read(np.zeros(1, np.int64))
    image, labels = rows.get("image"), rows.get("label")
    dtype, shape = getattr(image, "dtype", None), np.shape(image)
    decoded = dtype == np.uint8 and len(shape) == 4 and shape[3] == 3
    if not decoded and not (dtype is np.dtype(object) and isinstance(image[0], bytes)):
        return (
            'returned a source whose pictures, read(...)["image"], are neither uint8 '
            f"[n, H, W, 3] nor bytes, object [n]; got {dtype} {list(shape)}."
        )
    if result.classes and not (labels is not None and 0 <= labels[0] < result.classes):
        return (
            f'returned a source whose labels, read(...)["label"], are not in [0, '
            f"{result.classes}), its number of classes; got {labels!r:.60}."
        )
    return ""


def _protocol_problem(result: Any) -> str:
    accuracy = result.get("accuracy") if isinstance(result, dict) else None
    if not (isinstance(accuracy, float) and 0 <= accuracy <= 1):
        return f'must return {{"accuracy": float in [0, 1]}}, got {result!r:.60}.'
    try:
        json.dumps(result)
    except TypeError as error:
        return f"must return values for JSON, such as float: {error}."
    return ""


RESULTS: dict[str, Callable[[Any], str]] = {
    "method": _method_problem,
    "encoder": _encoder_problem,
    "augment": _recipe_problem,
    "data": _source_problem,
    "protocol": _protocol_problem,
}
