"""MoCo v3, ResNet-50 and ViT, ImageNet, batch 4096 (arXiv:2104.02057).

simclr-jax pretrain --config mocov3_imagenet --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

simclr-jax pretrain --workdir DIR \
  --config mocov3_imagenet:epochs=1000
simclr-jax pretrain --workdir DIR \
  --config mocov3_imagenet:encoder=vit_b

Published top-1 of linear evaluation: ResNet-50 68.9 % (100 epochs), 72.8 % (300) and
74.6 % (1000); ViT-S 73.2 %, ViT-B 76.7 % (300). Here the encoder computes in bfloat16.
"""

from simclr_jax.experiment import base

ENCODERS = ("resnet50", "vit_s", "vit_b")


def get_config(*, encoder: str = "resnet50", epochs: int = 0, batch: int = 4096):
    if encoder not in ENCODERS:
        raise ValueError(f"encoder={encoder}: must be one of {', '.join(ENCODERS)}.")
    vit = encoder != "resnet50"
    c = base.get_config(
        "mocov3",
        encoder=encoder,
        augment="moco_v3",
        optim="adamw" if vit else "lars",
    )
    base.imagenet_pixels(c)
    c.epochs = float(epochs or (300 if vit else 100))
    c.data.batch_size = batch
    c.data.colour = "device"
    c.encoder.dtype = "bfloat16"
    c.optim.length = "moco"
    (_vit if vit else _resnet)(c)
    c.checkpoint.keep_every = 10_000
    c.evaluate.linear_augmented.lr = 3.0 if vit else 0.1
    c.evaluate.linear_augmented.batch_size = 1024
    return c


def _resnet(c):
    base.torchvision(c)
    c.augment.smallest = 0.2
    c.method.ema = 0.996 if c.epochs >= 1000 else 0.99
    c.optim.lr = 0.6 if c.epochs <= 100 else 0.3
    c.optim.weight_decay = 1.5e-6 if c.epochs >= 1000 else 1e-6
    c.optim.rate_in_momentum = False


def _vit(c):
    c.encoder.heads = 12  # in the small one, too
    c.encoder.positions = "sincos"
    c.encoder.initializer = "moco_v3"
    c.encoder.frozen_patch = True
    c.method.temperature = 0.2
    c.method.layers = 3
    c.method.predictor_norm = True
    c.optim.lr = 1.5e-4
    c.optim.weight_decay = 0.1
    c.optim.no_decay = ()  # norms and biases decay, too
    c.optim.frozen = ("^encoder/patch/",)
    c.optim.warmup_epochs = 40.0
