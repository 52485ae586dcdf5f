"""BYOL, ResNet-18, CIFAR-10.

simclr-jax pretrain --config byol_cifar10 --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

The authors published no recipe; this one is ours: that of 1000 epochs on ImageNet,
without blur, with the learning rate and `ema` of small batches. BYOL on ResNet-18 in
other libraries reaches 92.6 % (1000 epochs). Not run here: it needs an accelerator.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("byol", encoder="resnet18", augment="byol")
    base.cifar10(c)
    base.cifar10_pixels(c)
    c.encoder.initializer = "haiku"
    c.epochs = 1000.0
    c.augment.blur = (0.0, 0.0)
    c.optim.lr = 0.4
    c.optim.weight_decay = 1.5e-6
    c.optim.rate_in_momentum = False
    c.optim.length = "byol"
    c.probe.views = 1
    c.probe.adapted = True
    return c
