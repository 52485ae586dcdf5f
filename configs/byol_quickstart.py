"""BYOL on the 5,000 images that come with the package, in minutes on a laptop.

simclr-jax pretrain --config byol_quickstart --workdir DIR
simclr-jax evaluate --workdir DIR

Measured: linear (quick) accuracy 41.4 % of h, 26.9 % of the untrained h, 37.5 % of z;
kNN 33.9, 26.4, 31.6 %.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("byol", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.augment.strength = 0.3
    c.augment.blur = 0.0
    c.method.hidden = 256
    c.method.out = 64
    c.method.ema = 0.97  # 570 steps are too few for a slower target
    return c
