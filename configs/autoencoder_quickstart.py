"""The autoencoder baseline on the package's 5,000 images, in minutes on a laptop.

simclr-jax pretrain --config autoencoder_quickstart --workdir DIR
simclr-jax evaluate --workdir DIR

Encoder, views, optimiser and length are those of quickstart; only the loss differs.

Measured: linear (quick) accuracy 36.8 % of h, 26.9 % of the untrained h; kNN 27.9,
26.4 %. There is no z.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("autoencoder", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.augment.strength = 0.3
    c.augment.blur = 0.0
    return c
