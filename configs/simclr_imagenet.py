"""SimCLR, ResNet-50, ImageNet (arXiv:2002.05709, table B.1; v2: arXiv:2006.10029).

simclr-jax pretrain --config simclr_imagenet --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

Every cell of table B.1 is one command, such as 800 epochs at batch 1024 with the
square-root rate, or the 4x wide network of table 6:

simclr-jax pretrain --workdir DIR \
  --config simclr_imagenet:epochs=800,batch=1024,lr_scaling=sqrt
simclr-jax pretrain --workdir DIR \
  --config simclr_imagenet:epochs=1000,width=4

Published top-1 of linear evaluation in %, linear rate / square-root rate:

| batch | 100 epochs  | 200         | 400         | 800         |
|-------|-------------|-------------|-------------|-------------|
| 256   | 57.5 / 62.8 | 61.9 / 64.3 | 64.7 / 65.7 | 66.6 / 66.5 |
| 512   | 60.7 / 63.8 | 64.0 / 65.6 | 66.2 / 66.7 | 67.8 / 67.4 |
| 1024  | 62.8 / 64.3 | 65.3 / 66.1 | 67.2 / 67.2 | 68.5 / 68.3 |
| 2048  | 64.0 / 64.7 | 66.1 / 66.8 | 68.1 / 67.9 | 68.9 / 68.8 |
| 4096  | 64.6 / 64.5 | 66.5 / 66.8 | 68.2 / 68.0 | 68.9 / 69.1 |
| 8192  | 64.8 / 64.8 | 66.6 / 67.0 | 67.8 / 68.3 | 69.0 / 69.1 |

1000 epochs at 4096: 1x 69.3, 2x 74.2, 4x 76.5. v2 (version=v2: 800 epochs, three-layer
head, multiplicative brightness, weight decay 1e-4): 71.7 with the unreleased momentum
queue, 71.1 without it, as here. The published runs computed in float32; here the
encoder computes in bfloat16 (--config.encoder.dtype=float32 for theirs).
"""

from simclr_jax.experiment import base


def get_config(
    *,
    version: str = "v1",
    epochs: int = 0,  # 0: 100 for v1, 800 for v2
    batch: int = 4096,
    width: int = 1,
    lr_scaling: str = "",  # "": linear for v1, sqrt for v2
    encoder: str = "resnet50",
    sk: bool = False,  # selective kernels and the ResNet-D stem (v2)
):
    if version not in ("v1", "v2"):
        raise ValueError(f"version={version}: must be v1 or v2.")
    v2 = version == "v2"
    if v2 and lr_scaling not in ("", "sqrt"):
        raise ValueError(f"lr_scaling={lr_scaling}: must be sqrt for version=v2.")
    if sk and not v2:
        raise ValueError("sk=true needs version=v2.")
    c = base.get_config("simclr", encoder=encoder)
    c.epochs = float(epochs or (800 if v2 else 100))
    c.data.batch_size = batch
    c.data.colour = "device"
    c.encoder.width = width
    c.encoder.dtype = "bfloat16"
    c.optim.lr_scaling = lr_scaling or ("sqrt" if v2 else "linear")
    if v2:
        c.optim.lr = 0.1
        c.optim.weight_decay = 1e-4
        c.optim.warmup_epochs = 0.05 * c.epochs
        c.method.layers = 3
        c.augment.brightness = "multiplicative"
        c.encoder.sk_ratio = 0.0625 if sk else 0.0
    else:
        c.optim.lr = 0.075 if c.optim.lr_scaling == "sqrt" else 0.3
        c.optim.weight_decay = 1e-6
    c.checkpoint.keep_every = 10_000
    return c
