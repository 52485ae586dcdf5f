"""The methods by name."""

from collections.abc import Callable

from simclr_jax.methods.autoencoder import autoencoder
from simclr_jax.methods.base import Method
from simclr_jax.methods.byol import byol
from simclr_jax.methods.dino import dino
from simclr_jax.methods.moco import moco
from simclr_jax.methods.mocov3 import mocov3
from simclr_jax.methods.simclr import simclr
from simclr_jax.methods.simsiam import simsiam
from simclr_jax.methods.supervised import supervised
from simclr_jax.methods.tsimcne import tsimcne

# name -> factory (encoder, options, ...); its keywords are the config section
METHODS: dict[str, Callable[..., Method]] = {
    "simclr": simclr,
    "moco": moco,
    "mocov3": mocov3,
    "byol": byol,
    "simsiam": simsiam,
    "dino": dino,
    "tsimcne": tsimcne,
    "supervised": supervised,
    "autoencoder": autoencoder,
}
