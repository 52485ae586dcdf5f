"""Self-supervised pretraining of image encoders.

The functions for use from Python; they are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_jax.experiment.config import get_config
    from simclr_jax.experiment.encoder import Encoder, load
    from simclr_jax.experiment.training import pretrain

__all__ = ["Encoder", "get_config", "load", "pretrain"]

MODULES = {
    "Encoder": "simclr_jax.experiment.encoder",
    "get_config": "simclr_jax.experiment.config",
    "load": "simclr_jax.experiment.encoder",
    "pretrain": "simclr_jax.experiment.training",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
