"""The methods by name."""

from simclr_jax.methods.dino import dino
from simclr_jax.methods.simclr import simclr

METHODS = {"dino": dino, "simclr": simclr}
