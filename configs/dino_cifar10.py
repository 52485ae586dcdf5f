"""DINO, ResNet-18, CIFAR-10.

simclr-jax pretrain --config dino_cifar10 --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

The authors published no recipe; this one is ours, based on reported results: few
prototypes, a slow teacher, no blur. DINO on ResNet-18 in other libraries, without small
crops, reaches 89.5 % (1000 epochs). Not run here: it needs an accelerator.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("dino", encoder="resnet18", augment="dino", optim="adamw")
    base.cifar10(c)
    base.cifar10_pixels(c)
    c.encoder.initializer = "he"
    c.encoder.shortcut = "needed"
    c.epochs = 800.0
    c.augment.local_size = 16
    c.augment.locals = 6
    c.augment.global_area = (0.3, 1.0)
    c.augment.local_area = (0.1, 0.3)
    c.augment.blur = (0.0, 0.0, 0.0)
    c.method.batch_norm = True
    c.method.prototypes = 4096
    c.method.ema = 0.9995
    c.optim.lr = 5e-4
    c.optim.weight_decay = 0.04
    c.optim.weight_decay_end = 0.4
    c.optim.schedule = "dino"
    c.optim.length = "moco"
    c.optim.lr_end = 1e-6
    c.optim.clip = 3.0
    c.optim.delayed = ("^prototypes/",)
    c.optim.delay_epochs = 1.0
    return c
