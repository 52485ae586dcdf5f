"""Configs that older versions saved: their former keys, and keys they did not have."""

import json
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
# A key that older configs lack: the value (as in JSON) for what they did without it, or
# {factory: value} if it depends on the section's factory.
ADDED: dict[str, Any] = {
    "init_code": False,
    "profile": "",
    "health_every": 100,
    "health_stop": False,
    "data.shrink_batch": False,
    "augment.operations": [
        *("crop", "flip", "rotation", "jitter", "grey", "blur", "solarise"),
    ],
    "augment.crop_probability": 1.0,
    "augment.area": {
        "simclr": [0.08, 1.0],
        "byol": [0.08, 1.0],
        "moco_v1": [0.2, 1.0],
        "moco_v2": [0.2, 1.0],
        "tsimcne": [0.2, 1.0],
        "crop_flip": [0.08, 1.0],
    },
    "augment.flip": 0.5,
    "augment.rotation": 0.0,
    "augment.jitter": {
        **dict.fromkeys(
            ("simclr", "byol", "moco_v2", "moco_v3", "dino", "tsimcne"), 0.8
        ),
        "moco_v1": 1.0,
    },
    "augment.jitter_limits": {
        "simclr": [0.8, 0.8, 0.8, 0.2],
        "byol": [0.4, 0.4, 0.2, 0.1],
        "moco_v1": [0.4, 0.4, 0.4, 0.4],
        "moco_v2": [0.4, 0.4, 0.4, 0.1],
        "moco_v3": [0.4, 0.4, 0.2, 0.1],
        "dino": [0.4, 0.4, 0.2, 0.1],
        "tsimcne": [0.4, 0.4, 0.4, 0.1],
    },
    "augment.strength": dict.fromkeys(
        ("byol", "moco_v1", "moco_v2", "moco_v3", "dino", "tsimcne"), 1.0
    ),
    "augment.grey": 0.2,
    "augment.blur": dict.fromkeys(("moco_v1", "tsimcne"), 0.0),
    "augment.sigma": [0.1, 2.0],
    "augment.solarise": dict.fromkeys(("simclr", "moco_v1", "moco_v2", "tsimcne"), 0.0),
    "optim.lr_end_scaling": "none",
    "optim.multipliers": [],
}
# Protocols that later ones were added to; these are in the fingerprints of all recipes.
FIRST_PROTOCOLS = ("knn", "linear", "linear_augmented", "map2d")


def upgraded(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with the new names of renamed keys, and with all added keys."""
    c = with_new_keys(saved)
    if "evaluate" in c:
        c["evaluate"] = _with_protocols(c["evaluate"])
    for key, value in _added(c).items():
        section, _, name = key.rpartition(".")
        (c[section] if section else c).setdefault(name, value)
    return c


def _with_protocols(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section evaluate with all settings of all protocols, by default as now."""
    new = {k: x | section.get(k, {}) for k, x in protocol_defaults().items()}
    return {**section, **new}


def protocol_defaults() -> dict[str, dict[str, Any]]:
    """The settings of all protocols, as JSON stores them."""
    return json.loads(json.dumps(schema.protocols()))


def without_added(c: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config without the added keys whose value is that of older versions.

    Thus the fingerprint of a recipe does not change when keys are added.
    """
    added = _added(c)

    def kept(section, prefix):
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in section.items()
            if f"{prefix}{key}" not in added or value != added[f"{prefix}{key}"]
        }

    first = kept(c, "")
    if "evaluate" in c:
        first["evaluate"] = {
            key: value
            for key, value in first["evaluate"].items()
            if key in FIRST_PROTOCOLS or not isinstance(value, Mapping)
        }
    return first


def _added(c: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of the ADDED keys that a config with the same sections has."""
    values = {}
    for key, value in ADDED.items():
        section = key.rpartition(".")[0]
        settings = c.get(section) if section else c
        if not isinstance(settings, Mapping):
            continue
        if not isinstance(value, Mapping):
            if _has_key(c, key):
                values[key] = value
        elif settings.get("name") in value:
            values[key] = value[settings["name"]]
    return values


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
