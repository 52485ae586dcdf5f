"""The nearest allowed spelling, for messages about a wrong name."""

import difflib
from collections.abc import Iterable

MOST_SHOWN = 50  # if more names are allowed, a message lists only the nearest


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The most similar of the allowed names, or "" if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(allowed), 1)), "")


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """ " Did you mean ...?" with the most similar name, or "" if none is similar."""
    match = nearest(name, allowed)
    return f" Did you mean {match!r}?" if match else ""


def check_name(name: str, allowed: Iterable[str], field: str) -> None:
    """Checks that a name is one of the allowed ones.

    Args:
      name: what the user wrote.
      field: what it names, such as "method.name"; the message starts with it.

    Raises:
      ValueError: it is not; the message has the nearest and the allowed names.
    """
    allowed = list(allowed)
    if name in allowed:
        return
    shown, number = sorted(allowed), ""
    if len(shown) > MOST_SHOWN:
        shown = difflib.get_close_matches(name, shown, 8, 0.0)
        number = f"{len(allowed)}, such as "
    raise ValueError(
        f"{field}: unknown {name!r}.{did_you_mean(name, allowed)} "
        f"There are: {number}{', '.join(shown)}."
    )
