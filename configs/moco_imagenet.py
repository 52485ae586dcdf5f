"""MoCo v2 and v1, ResNet-50, ImageNet (arXiv:2003.04297, arXiv:1911.05722).

simclr-jax pretrain --config moco_imagenet --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

Version 1, and the long run of version 2:

simclr-jax pretrain --config moco_imagenet:version=v1 --workdir DIR
simclr-jax pretrain --config moco_imagenet:epochs=800 --workdir DIR

Published top-1 of linear evaluation: v1 60.6 %, v2 67.5 % (200 epochs) and 71.1 %
(800). The published runs computed in float32; here the encoder computes in bfloat16.
Their batch norm had groups of 32 images, one group a GPU; here the groups have a fixed
size for any number of devices and any batch. Their linear evaluation decayed the rate
by steps; ours decays it by a cosine, from the same first rate.
"""

from simclr_jax.experiment import base


def get_config(*, version: str = "v2", epochs: int = 200, batch: int = 256):
    if version not in ("v1", "v2"):
        raise ValueError(f"version={version}: must be v1 or v2.")
    v1 = version == "v1"
    c = base.get_config("moco", augment=f"moco_{version}", optim="sgd")
    base.imagenet_pixels(c)
    base.torchvision(c)
    base.plain_sgd(c, weight_decay=1e-4)
    c.epochs = float(epochs)
    c.data.batch_size = batch
    c.data.colour = "device"
    c.encoder.zero_init = False
    c.encoder.dtype = "bfloat16"
    c.encoder.bn_group = 32
    c.method.layers = 1 if v1 else 2
    c.method.temperature = 0.07 if v1 else 0.2
    c.optim.lr = 0.03
    c.optim.warmup_epochs = 0.0
    c.optim.length = "moco"
    c.optim.schedule = "steps" if v1 else "epochs"
    c.checkpoint.keep_every = 50_000
    c.evaluate.linear_augmented.lr = 30.0
    c.evaluate.linear_augmented.batch_size = 256
    c.evaluate.linear_augmented.epochs = 100
    return c
