"""SimCLR, ResNet-18, CIFAR-10, the recipe of the released code's first version.

simclr-jax pretrain --config simclr_cifar10 --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

Published: about 91 % top-1 of linear evaluation (1000 epochs at batch 512; README of
the released code). Not run here: it needs an accelerator.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("simclr", encoder="resnet18")
    base.cifar10(c)
    c.epochs = 1000.0
    c.augment.strength = 0.5
    c.augment.blur = 0.0
    c.method.temperature = 0.5
    c.optim.lr = 1.0  # per 256 images: 2.0
    c.optim.weight_decay = 1e-6
    return c
