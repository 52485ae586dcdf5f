"""SimSiam, ResNet-18, CIFAR-10 (arXiv:2011.10566, appendix D).

simclr-jax pretrain --config simsiam_cifar10 --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

Published: 91.8 % top-1 of linear evaluation (800 epochs at batch 512). Not run here: it
needs an accelerator.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("simsiam", encoder="resnet18", augment="moco_v2", optim="sgd")
    base.cifar10(c)
    base.cifar10_pixels(c)
    c.encoder.initializer = "he"
    c.encoder.shortcut = "needed"
    base.plain_sgd(c, weight_decay=5e-4)
    c.epochs = 800.0
    c.augment.blur = 0.0
    c.method.layers = 2
    c.optim.lr = 0.03
    c.optim.warmup_epochs = 0.0
    c.optim.length = "moco"
    c.optim.schedule = "epochs"
    return c
