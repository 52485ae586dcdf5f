"""What a row is, and in what our recipes differ from the published ones."""

from typing import NamedTuple

IMAGENET, CIFAR10, EMBEDDED = 1_281_167, 50_000, 5_000  # pictures of the training split
PLANNED = {  # by `python -m simclr_jax plan`: topology, ms a step from roof to estimate
    "simclr_imagenet": ("v5e:8x8", 40.9, 80.6),
    "simclr_imagenet:width=2,epochs=1000": ("v5e:16x16", 29.0, 52.6),
    "simclr_imagenet:width=4,epochs=1000": ("v5e:16x16", 100.8, 160.8),
    "moco_imagenet": ("v5e:2x4", 10.5, 30.3),
    "mocov3_imagenet": ("v5e:8x8", 51.2, 119.3),
    "byol_imagenet": ("v5e:8x8", 50.8, 117.8),
    "simsiam_imagenet": ("v5e:2x4", 39.2, 87.5),
    "dino_imagenet": ("v5e:8x8", 17.0, 53.4),
}


class Differs(NamedTuple):
    """Where our recipe is not the one that the number was published for."""

    field: str  # of the config; other words where it has none
    published: str
    ours: str
    why: str


class Row(NamedTuple):
    """A number and what it was published for; all of it goes into the card."""

    name: str
    paper: str
    table: str
    model: str
    epochs: int  # of all stages
    batch: int
    published: float  # top-1 in %
    config: str  # in configs/, FILE.py[:key=value,...]
    changes: dict[str, str] = {}  # noqa: RUF012  of it
    protocol: str = "linear_augmented"
    features: str = "h"
    judged: dict[str, str] = {}  # noqa: RUF012  changes of the protocol's settings
    differs: tuple[Differs, ...] = ()
    images: int = IMAGENET
    stages: int = 1  # runs that begin each from the one before
    planned: str = ""  # of PLANNED, the plan whose step this row's is
    own: bool = False  # measured by this project, no paper's


BF16 = Differs(
    "encoder.dtype", "float32", "bfloat16", "half the bytes to read and send"
)
ONE_PASS = Differs(
    "batch norm's variance",
    "two passes",
    "one, in float32",
    "activations are read once",
)
RESIZE = Differs(
    "the bicubic's grid",
    "TensorFlow 1's, by the corner",
    "by half pixels, as the code's TensorFlow 2 version",
    "0.2 points at most where released weights were judged both ways",
)
SIGMA = Differs(
    "augment.blur_sigma",
    "batch",
    "image",
    "the paper's text; its code has one a device",
)
MEMORY = Differs(
    "negatives",
    "also 65,536 from a network that follows slowly",
    "those of the batch",
    "never released; without it its author has 71.1 for ResNet-50, not 71.7",
)
DEBIASED = Differs(
    "batch norm's running statistics",
    "debiased",
    "not",
    "shows in the first steps only",
)
OVERSHOOT = Differs(
    "the bicubic's overshoot", "clipped at once", "at the first colour", "as in SimCLR"
)
UNSAID = BF16._replace(published="not said")
RUNNING = Differs(
    "batch norm's running variance", "unbiased", "biased", "one layer for all methods"
)
FIRST = Differs(
    "batch norm's running statistics",
    "those of the first GPU's images",
    "means over the groups of 32",
    "it has seen all images",
)
CROPS = Differs(
    "the evaluation's pictures",
    "as its own code cuts and resizes them",
    "as SimCLR's: TensorFlow's crops, the central 7/8, bicubic",
    "one evaluation for all rows",
)
HEAD = Differs(
    "the evaluation's head",
    "SGD without Nesterov, a rate for each epoch, the best epoch's",
    "Nesterov, a rate for each step, the last",
    "one evaluation for all rows",
)
STEPS = Differs(
    "the evaluation's rate", "a tenth at 60 and 80 epochs", "a cosine", HEAD.why
)
SWEPT = Differs(
    "evaluate.linear_augmented.lr",
    "the best of 0.4, 0.3, 0.2, 0.1, 0.05 on held-out pictures",
    "0.2",
    "the released code's",
)
LARC = Differs(
    "evaluate.linear_augmented.lr",
    "0.1 with LARC, batch 4096",
    "30 without, batch 256",
    "there is no LARC here; the paper puts this at 1 point less",
)
BLOCKS = Differs(
    "features", "of several blocks", "h, of the last", "there are no others"
)
SECOND_HAND = Differs(
    "settings", "in a file of arguments", "as others quote it", "it was not seen"
)
SHORT = Differs(
    "an epoch's last, short batch", "trained on", "left out", "one shape for all steps"
)
OTHERS = Differs(
    "recipe",
    "solo-learn's",
    "ours",
    "the method's authors published none for CIFAR-10",
)
LARGER = Differs("data.batch_size", "256", "512", "of our recipe")
SHORTER = Differs("epochs", "1000", "800", "of our recipe")
ABOUT = Differs("the number", "about 91", "91.0", "its README says no more")
TUNED = Differs(
    "optim.lr, method.temperature",
    "the best of 0.5, 1, 1.5 and of 0.1, 0.5, 1",
    "1 and 0.5",
    "it does not say which; 0.5 for long runs",
)
JUDGED_HERE = Differs(
    "the number",
    "none seen in the paper's tables",
    "of the coordinates that its authors published",
    "judged by this protocol",
)
TORCH = (RUNNING, CROPS, HEAD)


def judge(**settings: float) -> dict[str, str]:
    """Changes of linear_augmented."""
    place = "evaluate.linear_augmented."
    return {place + name: str(value) for name, value in settings.items()}
