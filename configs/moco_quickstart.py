"""MoCo v2 on the 5,000 images that come with the package, in minutes on a laptop.

simclr-jax pretrain --config moco_quickstart --workdir DIR
simclr-jax evaluate --workdir DIR

Measured: linear (quick) accuracy 39.0 % of h, 26.9 % of the untrained h, 34.5 % of z;
kNN 35.7, 26.4, 33.6 %.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("moco", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.augment.strength = 0.3
    c.augment.blur = 0.0
    c.encoder.bn_group = 32
    c.method.hidden = 256
    c.method.out = 32
    c.method.queue = 2048  # less than half of the images: few false negatives
    c.method.ema = 0.98  # the queue is eight batches long, not 256
    return c
