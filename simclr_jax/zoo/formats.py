"""The foreign formats by name."""

from collections.abc import Callable

from simclr_jax.zoo.name_map import Found
from simclr_jax.zoo.tensorflow.formats import byol, simclr, simclr_ema
from simclr_jax.zoo.torch.formats import dino, moco, mocov3, simsiam, tsimcne
from simclr_jax.zoo.torch.libraries import (
    huggingface,
    lightly,
    solo_learn,
    timm,
    torchvision,
)

# name -> reader: the path of a file or folder -> what it holds
FORMATS: dict[str, Callable[[str], Found]] = {
    "simclr": simclr,
    "simclr_ema": simclr_ema,
    "byol": byol,
    "moco": moco,
    "mocov3": mocov3,
    "simsiam": simsiam,
    "dino": dino,
    "tsimcne": tsimcne,
    "torchvision": torchvision,
    "timm": timm,
    "huggingface": huggingface,
    "lightly": lightly,
    "solo_learn": solo_learn,
}
