"""The nearest right spelling, for messages about a wrong name."""

import difflib
from collections.abc import Iterable

LONG = 50  # of more names than these, a message shows the nearest only


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar of the known names, or "" if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean ...?" with the most similar name, or "" if none is similar."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Checks that a name is one of the known ones.

    Args:
      name: what the user wrote.
      known: the allowed names.
      what: what is named, such as "method.name"; begins the message.

    Raises:
      ValueError: it is not, with the nearest right spelling and what is allowed.
    """
    known = list(known)
    if name in known:
        return
    shown, number = sorted(known), ""
    if len(shown) > LONG:
        shown = difflib.get_close_matches(name, shown, 8, 0.0)
        number = f"{len(known)}, such as "
    raise ValueError(
        f"{what}: unknown {name!r}.{did_you_mean(name, known)} "
        f"There are: {number}{', '.join(shown)}."
    )
