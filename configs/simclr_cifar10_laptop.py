"""SimCLR on CIFAR-10 with a small ResNet, in one to three hours on two laptop cores.

simclr-jax pretrain --config simclr_cifar10_laptop --workdir DIR
simclr-jax evaluate --workdir DIR

Measured: linear (quick) accuracy 67.7 % of h, 32.7 % of the untrained h, 62.3 % of z;
kNN 63.3, 27.0, 63.9 %.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("simclr", encoder="resnet10", optim="sgd")
    c.epochs = 36.0
    c.log_every = 50
    c.data.name = "cifar10"
    c.data.eval_split = "test"
    c.data.batch_size = 512
    c.data.image_size = 32
    c.augment.strength = 0.5
    c.augment.blur = 0.0
    c.encoder.channels = 32
    c.encoder.stem = "small"
    c.method.hidden = 256
    c.method.out = 64
    c.method.temperature = 0.2
    c.optim.lr = 0.3
    c.optim.lr_scaling = "none"
    c.optim.weight_decay = 1e-4
    c.optim.warmup_epochs = 2.0
    c.optim.length = "whole"
    c.checkpoint.every = 485
    c.evaluate.every = 873
    return c
