"""SimSiam on the 5,000 images that come with the package, in minutes on a laptop.

simclr-jax pretrain --config simsiam_quickstart --workdir DIR
simclr-jax evaluate --workdir DIR

Measured: linear (quick) accuracy 37.3 % of h, 26.9 % of the untrained h, 35.0 % of z;
kNN 31.9, 26.4, 30.9 %.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("simsiam", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.augment.strength = 0.3
    c.augment.blur = 0.0
    c.method.layers = 2
    c.method.out = 256
    c.method.bottleneck = 64
    return c
