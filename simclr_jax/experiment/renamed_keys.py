"""Renamed config keys, so that older work directories can still be opened."""

from collections.abc import Mapping
from typing import Any

RENAMED = {  # old: new
    "transfer_from": "recipe_batch_size",
    "encoder.pad": "encoder.padding",
    "encoder.pool": "encoder.pool_padding",
    "encoder.start": "encoder.initializer",
    "encoder.zero": "encoder.zero_init",
    "method.start": "method.initializer",
    "optim.changes": "optim.milestones",
    "optim.late": "optim.delayed",
    "optim.late_epochs": "optim.delay_epochs",
    "optim.trust": "optim.trust_coefficient",
    "optim.unadapted": "optim.no_adaptation",
    "optim.undecayed": "optim.no_decay",
}


def with_new_keys(saved: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A plain config with the new name of every key that was renamed."""
    new = {}
    for key, value in saved.items():
        path = f"{prefix}{key}"
        name = RENAMED.get(path, path).removeprefix(prefix)
        is_section = isinstance(value, Mapping)
        new[name] = with_new_keys(value, f"{path}.") if is_section else value
    return new


def check_not_renamed(key: str) -> None:
    """Raises a ValueError with the new name if a key was renamed."""
    if key in RENAMED:
        raise ValueError(f"{key} is now called {RENAMED[key]}.")
