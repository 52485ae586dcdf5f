"""The encoders that a config can name."""

from collections.abc import Callable
from typing import Any

from simclr_jax.models import resnet, vit

# name -> factory; its keywords are the config section, its module (x, train) -> [N, F]
ENCODERS: dict[str, Callable[..., Any]] = {
    "resnet10": resnet.resnet10,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet200": resnet.resnet200,
    "vit_mini": vit.vit_mini,
    "vit_ti": vit.vit_ti,
    "vit_s": vit.vit_s,
    "vit_b": vit.vit_b,
}
