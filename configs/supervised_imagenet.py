"""The supervised baseline, ResNet-50, ImageNet: SimCLR v2's recipe, and torchvision's.

simclr-jax pretrain --config supervised_imagenet --workdir DIR
simclr-jax evaluate --workdir DIR --protocol linear_augmented

simclr-jax pretrain --workdir DIR \
  --config supervised_imagenet:recipe=torchvision

| | `simclr` | `torchvision` |
|---|---|---|
| batch, rate | 4096, 0.1 per 256 images | 256, 0.1 |
| schedule | warm-up of 10 epochs, cosine | a tenth after 30 and after 60 epochs |
| weight decay, 1e-4 | of kernels | of all parameters |
| batch norm over | the batch | 32 images |
| published top-1, % | 76.6 (README of arXiv:2006.10029) | 76.13 (IMAGENET1K_V1) |

Both: 90 epochs, SGD with momentum 0.9, crops and flips, no label smoothing. The
published numbers are of the network's own classifier; linear_augmented trains another
one on the frozen h. For SimCLR v2 its authors state rate, decay, batch and schedule;
the warm-up is their code's default. SimCLR's paper has 76.5 with crops and flips, and
with its colours at strengths 1/8, 1/4, 1/2 and 1 (table 1, without blur) 77.0, 76.7,
76.5 and 75.7. torchvision resizes as PIL, bilinear; here both are bicubic. Here the
encoder computes in bfloat16.
"""

from simclr_jax.experiment import base


def get_config(*, recipe: str = "simclr", encoder: str = "resnet50"):
    if recipe not in ("simclr", "torchvision"):
        raise ValueError(f"recipe={recipe}: must be simclr or torchvision.")
    c = base.get_config("supervised", encoder=encoder, optim="sgd", augment="crop_flip")
    c.epochs = 90.0
    c.data.colour = "device"
    c.encoder.dtype = "bfloat16"
    c.optim.lr = 0.1
    c.optim.weight_decay = 1e-4
    if recipe == "torchvision":
        base.imagenet_pixels(c)
        base.torchvision(c)
        base.plain_sgd(c, weight_decay=1e-4)
        c.augment.crop = "torch"
        c.data.batch_size = 256
        c.encoder.bn_group = 32
        c.encoder.zero_init = False
        c.optim.length = "moco"
        c.optim.schedule = "steps"
        c.optim.milestones = (30.0, 60.0)
        c.optim.warmup_epochs = 0.0
    c.checkpoint.keep_every = 10_000
    return c
