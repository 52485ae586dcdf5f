"""The base config of every experiment: defines each key with its default and type."""

import ml_collections as mlc

from simclr_jax.experiment import schema


def get_config(
    method: str = "simclr",
    *,
    encoder: str = "resnet50",
    augment: str = "simclr",
    optim: str = "lars",
    data: str = "imagenet2012",  # a TFDS name, a folder of images, or cifar10_mini
) -> mlc.ConfigDict:
    """Returns the config of a run, with defaults that an experiment's file changes.

    A section has `name`, a factory, and the keyword arguments of that factory, at the
    paper's values. Keys can be changed, but not added. All names but the optimiser's
    may be `package.module:factory`, see `external`.
    """
    c = mlc.ConfigDict()
    c.seed = 0
    c.epochs = 100.0
    c.steps = 0  # length of the run; 0: computed by optim.length
    c.recipe_batch_size = 0  # of the original recipe, see batch_scaling.py; 0: off
    c.log_every = 50  # steps
    c.health_every = 100  # steps between diagnostics, see train/health.py; 0: never
    c.health_stop = False  # end the run at a sign of failure; else it is only logged
    c.init_from = ""  # a work directory: initialise from its newest checkpoint
    c.init_code = False  # whether factories from outside that only it names may run
    c.patience = 10  # consecutive steps without a finite loss before the run fails
    c.profile = ""  # FIRST:LAST: steps to trace with the profiler, both included
    c.placement = "replicated"  # of the state; fsdp: large arrays are sharded
    c.data = schema.section("data", data)
    c.augment = schema.section("augment", augment)
    c.encoder = schema.section("encoder", encoder)
    c.method = schema.section("method", method)
    c.optim = schema.section("optim", optim)
    c.optim.lr = 0.3  # the base rate
    c.optim.lr_scaling = "linear"  # lr * batch/256; sqrt: lr * sqrt(batch); none
    c.optim.warmup_epochs = 10.0
    c.optim.length = "simclr"  # steps: floor(nE/B)+1; byol: floor(nE/B); whole, moco
    c.optim.schedule = "cosine"  # or dino, epochs, tsimcne, steps: train/schedules.py
    c.optim.lr_end = 0.0  # final rate of all schedules but "steps"
    c.optim.lr_end_scaling = "none"  # lr_end is a rate; peak: a share of the peak rate
    c.optim.milestones = (120.0, 160.0)  # epochs at which "steps" divides by 10
    c.optim.microbatches = 1  # sequential parts of a batch in a step
    c.optim.clip = 0.0  # largest norm of the gradient of an array; 0: no limit
    # Regular expressions, searched in paths such as encoder/conv1/kernel, for
    # parameters that
    c.optim.frozen = ()  # are never updated
    c.optim.delayed = ()  # are not updated before delay_epochs
    c.optim.delay_epochs = 0.0
    c.optim.constant = ()  # are updated with the peak rate in every step
    # REGEX=FACTOR, such as "^encoder/=0.1": the rate of these parameters is multiplied
    c.optim.multipliers = ()
    c.probe = {
        "enabled": True,  # trains a linear classifier of h during the run
        "views": 2,  # number of views that it is trained on
        "adapted": False,  # apply weight decay and trust ratio to it
    }
    c.checkpoint = {"every": 1000, "keep": 3, "keep_every": 0}  # steps, number, steps
    c.evaluate = {
        "every": 0,  # steps between kNN scores during the run
        "batch_size": 512,  # of feature extraction
        **schema.protocols(),
    }
    return c.lock()


# Settings shared by several experiments.


def imagenet_pixels(c) -> None:
    """Normalises pixels by ImageNet's mean and standard deviation."""
    c.encoder.mean = (0.485, 0.456, 0.406)
    c.encoder.std = (0.229, 0.224, 0.225)


def cifar10_pixels(c) -> None:
    """Normalises pixels by CIFAR-10's mean and standard deviation."""
    c.encoder.mean = (0.4914, 0.4822, 0.4465)
    c.encoder.std = (0.2023, 0.1994, 0.2010)


def torchvision(c) -> None:
    """A ResNet as torchvision builds it: MoCo, SimSiam, DINO, t-SimCNE."""
    c.encoder.initializer = "he"
    c.encoder.shortcut = "needed"
    c.encoder.pool_padding = "torch"


def plain_sgd(c, weight_decay: float) -> None:
    """PyTorch's SGD, decay of all parameters: MoCo v1 and v2, SimSiam, t-SimCNE."""
    c.optim.nesterov = False
    c.optim.weight_decay = weight_decay
    c.optim.no_decay = ()


def cifar10(c) -> None:
    """ResNet-18 for images of 32 pixels."""
    c.data.name = "cifar10"
    c.data.eval_split = "test"
    c.data.batch_size = 512
    c.data.image_size = 32
    c.data.colour = "device"
    c.encoder.stem = "cifar"
    c.evaluate.linear_augmented.batch_size = 512
    c.evaluate.linear_augmented.epochs = 100


def tsimcne(c, stage: int, init_from: str, out: int) -> None:
    """Initialisation, data and trained layers for a stage of t-SimCNE.

    Args:
      out: width of z in stage 1; 2 in the others.
    """
    if stage not in (1, 2, 3):
        raise ValueError(f"stage={stage}: must be 1, 2 or 3.")
    if stage > 1 and not init_from:
        raise ValueError(
            f"stage={stage} goes on from stage {stage - 1}: give its work directory, "
            "init_from=DIR."
        )
    c.init_from = init_from
    c.data.split = "train+test"
    c.data.bank_split = "train"
    c.method.out = out if stage == 1 else 2
    c.method.initializer = "normal" if stage == 2 else "torch"
    if stage == 2:  # only the new last layer; batch-norm statistics still change
        c.optim.frozen = ("^encoder/", "^projector/dense1/")
        c.optim.warmup_epochs = 0.0


def quickstart(c) -> None:
    """A small ResNet on the package's images, for minutes on a laptop."""
    c.epochs = 30.0
    c.log_every = 19
    c.health_every = 38
    c.data.name = "cifar10_mini"
    c.data.eval_split = "test"
    c.data.batch_size = 256
    c.data.image_size = 32
    c.encoder.stem = "small"
    c.optim.lr = 0.005
    c.optim.lr_scaling = "none"
    c.optim.weight_decay = 1e-4
    c.optim.warmup_epochs = 2.0
    c.optim.length = "whole"
    c.checkpoint.every = 190
    c.evaluate.every = 190
