"""The supervised baseline on the package's 5,000 images, in minutes on a laptop.

simclr-jax pretrain --config supervised_quickstart --workdir DIR
simclr-jax evaluate --workdir DIR

Encoder, views, optimiser and length are those of quickstart; only the loss differs.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("supervised", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.augment.strength = 0.3
    c.augment.blur = 0.0
    return c
