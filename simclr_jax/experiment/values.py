"""Values of a config: read from the command line, and checked for their type."""

import ast
import json
from typing import Any

ANY_LENGTH = (  # tuples of numbers
    "optim.milestones",
    "evaluate.linear_augmented.milestones",
    "evaluate.linear_augmented.rates",
)


def parse(text: str, like: Any, key: str) -> Any:
    """Parses text from the command line as a value of the type of `like`.

    Raises:
      ValueError: the text is not of that type; the message has the key, the text and
        what is expected.
    """
    if isinstance(like, str):
        return text
    value = _literal(text)
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if not is_like(value, like, key):
        raise ValueError(f"{key} must be {_expected(like, key)} (got {text!r}).")
    return value


def is_like(value: Any, like: Any, key: str) -> bool:
    """Whether a value has the type of `like`, and a tuple its number of items."""
    if type(value) is not type(like):
        return False
    return not isinstance(like, tuple) or _similar(value, like, key)


def _expected(like: Any, key: str) -> str:
    """What a value of the type of `like` is, for messages."""
    if not isinstance(like, tuple):
        names = {bool: "true or false", int: "a whole number", float: "a number"}
        return f"{names[type(like)]}, such as {json.dumps(like)}"
    if key not in ANY_LENGTH and all(isinstance(item, str) for item in like):
        return "a tuple of strings, such as ('a', 'b') or ('a',)"
    count = "" if key in ANY_LENGTH else f"{len(like)} "
    return f"a tuple of {count}numbers, such as {like or (0.1, 0.2)!r}"


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _similar(value: tuple, like: tuple, key: str) -> bool:
    """Whether both have items of the same type and number; of strings, any number."""
    if key not in ANY_LENGTH and all(isinstance(item, str) for item in like):
        return all(isinstance(item, str) for item in value)
    return (len(value) == len(like) or key in ANY_LENGTH) and all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in value
    )
