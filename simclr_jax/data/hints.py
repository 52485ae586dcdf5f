"""The nearest spelling, for messages about names."""

import difflib


def nearest(name: str, names) -> str:
    """' Did you mean ...?' with the closest of the names, or "" if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
