"""SimSiam, ResNet-50, ImageNet, batch 512 (arXiv:2011.10566).

simclr-jax pretrain --config simsiam_imagenet --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

simclr-jax pretrain --workdir DIR \
  --config simsiam_imagenet:epochs=800,batch=256

Published top-1 of linear evaluation: 68.1 % (100 epochs), 70.0 % (200), 70.8 % (400)
and 71.3 % (800), at batch 256; 68.1 % for this command. The predictor's rate is
constant, as in the released command. Here the encoder computes in bfloat16.
"""

from simclr_jax.experiment import base


def get_config(*, epochs: int = 100, batch: int = 512):
    c = base.get_config("simsiam", augment="moco_v2", optim="sgd")
    base.imagenet_pixels(c)
    base.torchvision(c)
    base.plain_sgd(c, weight_decay=1e-4)
    c.epochs = float(epochs)
    c.data.batch_size = batch
    c.data.colour = "device"
    c.encoder.dtype = "bfloat16"
    c.optim.lr = 0.05
    c.optim.warmup_epochs = 10.0 if batch >= 1024 else 0.0
    c.optim.length = "moco"
    c.optim.schedule = "epochs"
    c.optim.constant = ("^predictor/",)
    c.checkpoint.keep_every = 25_000
    return c
