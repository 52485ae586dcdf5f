"""The methods by name."""

from simclr_jax.methods.simclr import simclr

METHODS = {"simclr": simclr}
