"""MoCo v3, ResNet-18, CIFAR-10.

simclr-jax pretrain --config mocov3_cifar10 --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

The authors published no recipe; this one is ours: that of ImageNet, at temperature 0.2
and without blur. MoCo v3 on ResNet-18 in other libraries reaches 93.1 % (1000 epochs).
Not run here: it needs an accelerator.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("mocov3", encoder="resnet18", augment="moco_v3")
    base.cifar10(c)
    base.cifar10_pixels(c)
    c.encoder.initializer = "he"
    c.encoder.shortcut = "needed"
    c.epochs = 1000.0
    c.augment.smallest = 0.2
    c.augment.blur = (0.0, 0.0)
    c.method.temperature = 0.2
    c.method.ema = 0.996
    c.optim.lr = 0.3
    c.optim.rate_in_momentum = False
    c.optim.length = "moco"
    return c
