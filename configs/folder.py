"""SimCLR on a folder of your own pictures, from dozens to hundreds of thousands.

simclr-jax pretrain --config folder --workdir runs/mine \
  --config.data.name=path/to/pictures
simclr-jax evaluate --workdir runs/mine

A run has 1,000 steps of at most 256 pictures: estimated half an hour on two cores. With
60 pictures, and so batches of 32, it is a few minutes. More steps and larger pictures
give better features, and need a GPU: --config.steps=20000 --config.data.image_size=128
--config.encoder.name=resnet50.

Pictures in a folder val, validation or test are kept for evaluate; without such a
folder, a tenth of each class (see data/folder.py). Sub-folders are classes, which only
evaluations and the probe use.
"""

from simclr_jax.experiment import base


def get_config():
    c = base.get_config("simclr", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.steps = 1000
    c.log_every = 10
    c.data.name = "folder"
    c.data.split = "seen"
    c.data.eval_split = "held_out"
    c.data.shrink_batch = True
    c.data.image_size = 64
    c.augment.strength = 0.3
    c.augment.blur = 0.0
    c.method.hidden = 256
    c.method.out = 32
    c.method.temperature = 0.2
    c.optim.lr_scaling = "sqrt"
    c.optim.lr = 0.005 / 16  # 0.005 for a batch of 256
    c.checkpoint.every = 200
    c.evaluate.every = 250
    c.evaluate.knn.k = 20
    c.evaluate.linear_augmented.batch_size = 32
    return c
