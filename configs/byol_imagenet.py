"""BYOL, ResNet-50, ImageNet, batch 4096 (arXiv:2006.07733).

simclr-jax pretrain --config byol_imagenet --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

The authors' presets have 40, 100, 300 and 1000 epochs, and 1000 at batch 512:

simclr-jax pretrain --workdir DIR \
  --config byol_imagenet:epochs=1000
simclr-jax pretrain --workdir DIR \
  --config byol_imagenet:epochs=1000,batch=512

Published top-1 of linear evaluation: 72.5 % (300 epochs), 74.3 % (1000), 73.7 % (1000
at batch 512). Here the encoder computes in bfloat16, and running statistics are not
debiased, which affects only the first steps.
"""

from simclr_jax.experiment import base

PRESETS = {  # (epochs, batch): base rate, weight decay, ema
    (40, 4096): (0.45, 1e-6, 0.97),
    (100, 4096): (0.45, 1e-6, 0.99),
    (300, 4096): (0.3, 1e-6, 0.99),
    (1000, 4096): (0.2, 1.5e-6, 0.996),
    (1000, 512): (0.4, 1.5e-6, 0.9995),
}


def get_config(*, epochs: int = 300, batch: int = 4096):
    if (epochs, batch) not in PRESETS:
        presets = ", ".join(f"epochs={e},batch={b}" for e, b in PRESETS)
        raise ValueError(f"epochs={epochs},batch={batch}: the presets are {presets}.")
    c = base.get_config("byol", augment="byol")
    base.imagenet_pixels(c)
    c.epochs = float(epochs)
    c.data.batch_size = batch
    c.data.colour = "device"
    c.encoder.padding = "same"
    c.encoder.initializer = "haiku"
    c.encoder.zero_init = False  # as in the paper; the released code has it True now
    c.encoder.dtype = "bfloat16"
    c.optim.lr, c.optim.weight_decay, c.method.ema = PRESETS[epochs, batch]
    c.optim.rate_in_momentum = False
    c.optim.length = "byol"
    c.probe.views = 1
    c.probe.adapted = True
    c.checkpoint.keep_every = 10_000
    return c
