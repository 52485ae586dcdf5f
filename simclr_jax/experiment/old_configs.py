"""Configs that older versions saved: their former keys, and keys they did not have."""

from collections.abc import Mapping
from typing import Any

from simclr_jax.experiment import schema

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
# A key that older configs lack: the value (as in JSON) for what they did without it.
ADDED: dict[str, Any] = {
    "init_code": False,
    "data.shrink_batch": False,
}


def upgraded(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with the new names of renamed keys, and with all added keys."""
    c = with_new_keys(saved)
    for key, value in ADDED.items():
        section, _, name = key.rpartition(".")
        target = c.get(section) if section else c
        if isinstance(target, dict) and name not in target and _has_key(c, key):
            target[name] = value
    return c


def without_added(c: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A plain config without the added keys whose value is that of older versions.

    Thus the fingerprint of a recipe does not change when keys are added.
    """
    kept = {}
    for key, value in c.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            kept[key] = without_added(value, f"{path}.")
        elif path not in ADDED or value != ADDED[path]:
            kept[key] = value
    return kept


def _has_key(c: Mapping[str, Any], key: str) -> bool:
    """Whether a new config with the same factories has the key."""
    part, _, name = key.partition(".")
    factories = schema.SECTIONS.get(part, {})
    with_keyword = [f for f, x in factories.items() if name in schema.defaults(x)]
    return not with_keyword or c[part].get("name") in with_keyword


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
