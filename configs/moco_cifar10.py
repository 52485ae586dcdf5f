"""MoCo v2, ResNet-18, CIFAR-10.

simclr-jax pretrain --config moco_cifar10 --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

The authors published no recipe; this one is ours, based on reported results: a queue
much shorter than the 50,000 images, and a faster momentum encoder. MoCo v2 on ResNet-18
in other libraries reaches 92.9 % (1000 epochs, a longer queue). Not run here: it needs
an accelerator.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("moco", encoder="resnet18", augment="moco_v2", optim="sgd")
    base.cifar10(c)
    base.cifar10_pixels(c)
    c.encoder.initializer = "he"
    c.encoder.shortcut = "needed"
    c.encoder.zero_init = False
    c.encoder.bn_group = 32
    base.plain_sgd(c, weight_decay=5e-4)
    c.epochs = 800.0
    c.augment.blur = 0.0
    c.method.queue = 4096
    c.method.ema = 0.99
    c.optim.lr = 0.03
    c.optim.warmup_epochs = 0.0
    c.optim.length = "moco"
    c.optim.schedule = "epochs"
    return c
