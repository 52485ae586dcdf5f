"""Which weights others have published, and how they come in.

Nothing is downloaded here and no weights come with the package: fetch a file yourself,
under its own licence, and import it. Where a project's file names are not known to us,
its name stands for them.
"""

from typing import NamedTuple

MIT = "MIT since 2023; its README still says CC BY-NC 4.0, NON-COMMERCIAL"
NON_COMMERCIAL = "CC BY-NC 4.0: NON-COMMERCIAL USE ONLY"
OWN = "see the project"
SIMCLR_V2 = {  # network: top-1 of linear evaluation; fine-tuned on 1, 10, 100 %; labels
    "r50_1x_sk0": (71.7, 57.9, 68.4, 76.3, 76.6),
    "r50_1x_sk1": (74.6, 64.5, 72.1, 78.7, 78.5),
    "r50_2x_sk0": (75.6, 66.3, 73.9, 79.1, 77.8),
    "r50_2x_sk1": (77.7, 70.6, 77.0, 81.3, 79.3),
    "r101_1x_sk0": (73.6, 62.1, 71.4, 78.2, 78.0),
    "r101_1x_sk1": (76.3, 68.3, 75.1, 80.6, 79.6),
    "r101_2x_sk0": (77.0, 69.1, 75.8, 80.7, 78.9),
    "r101_2x_sk1": (79.0, 73.2, 78.8, 82.4, 80.1),
    "r152_1x_sk0": (74.5, 64.0, 73.0, 79.3, 78.3),
    "r152_1x_sk1": (77.2, 70.0, 76.5, 81.3, 79.9),
    "r152_2x_sk0": (77.4, 70.2, 76.6, 81.1, 79.1),
    "r152_2x_sk1": (79.4, 74.2, 79.4, 82.9, 80.4),
    "r152_3x_sk1": (79.8, 74.9, 80.1, 83.1, 80.5),
}
KINDS = {  # folder of SimCLR v2: protocol of its number
    "pretrained": "linear",
    "finetuned_1pct": "fine-tuned, 1 % of labels",
    "finetuned_10pct": "fine-tuned, 10 % of labels",
    "finetuned_100pct": "fine-tuned, all labels",
    "supervised": "supervised",
}
SIMCLR_V1 = {  # of the TensorFlow 2 files: top-1 of 1x, 2x, 4x
    "pretrain": ("linear", (69.0, 74.2, 76.6)),
    "finetune_10pct": ("fine-tuned, 10 % of labels", (65.8, 71.6, 74.5)),
    "finetune_100pct": ("fine-tuned, all labels", (75.6, 79.2, 80.8)),
}


class Weights(NamedTuple):
    """A published file or family of files."""

    format: str  # of `zoo import --from`
    model: str
    where: str  # bucket/object, or the project
    kind: str  # of file
    licence: str
    number: float | None  # top-1 on ImageNet in %; None: not known here
    protocol: str

    @property
    def command(self) -> str:
        """How it comes in, once it is on disk."""
        return (
            f"python -m simclr_jax zoo import --from {self.format} --source PATH "
            "--workdir DIR"
        )


def simclr() -> list[Weights]:
    """SimCLR v1 and v2, TensorFlow 1 checkpoints and TensorFlow 2 SavedModels."""
    found = []
    for width, number in ((1, 69.1), (2, 74.2), (4, 76.6)):
        where = f"simclr-gcs/checkpoints/ResNet50_{width}x.zip"
        about = f"SimCLR ResNet-50 {width}x", where, "TF1 checkpoint, zipped", OWN
        found.append(Weights("simclr", *about, number, "linear"))
    for folder, (protocol, numbers) in SIMCLR_V1.items():
        for width, number in zip((1, 2, 4), numbers, strict=True):
            where = f"simclr-checkpoints-tf2/simclrv1/{folder}/{width}x/saved_model/"
            about = f"SimCLR ResNet-50 {width}x", where, "SavedModel", OWN
            found.append(Weights("simclr", *about, number, protocol))
    for name, numbers in SIMCLR_V2.items():
        for (folder, protocol), number in zip(KINDS.items(), numbers, strict=True):
            where = f"simclr-checkpoints/simclrv2/{folder}/{name}/"
            about = f"SimCLR v2 {name}", where, "TF1 checkpoint", OWN, number, protocol
            found.append(Weights("simclr", *about))
    for what, where, kind in (
        ("distilled", "simclr-checkpoints/simclrv2/distill_1pct/", "TF1 checkpoint"),
        ("distilled", "simclr-checkpoints/simclrv2/distill_10pct/", "TF1 checkpoint"),
        ("all of the above", "simclr-checkpoints-tf2/simclrv2/", "SavedModel"),
    ):
        about = f"SimCLR v2, {what}", where, kind, OWN, None, "-"
        found.append(Weights("simclr", *about))
    return found


MOCO = (  # network, how the MD5 of its file begins, top-1
    ("v1 ResNet-50, 200 epochs", "b251726a", 60.6),
    ("v2 ResNet-50, 200 epochs", "59fd9945", 67.7),
    ("v2 ResNet-50, 800 epochs", "a04e12f8", 71.1),
)
MOCO_V3 = {
    "ResNet-50, 100 epochs": 68.9,
    "ResNet-50, 300 epochs": 72.8,
    "ResNet-50, 1000 epochs": 74.6,
    "ViT-S/16, 300 epochs": 73.2,
    "ViT-B/16, 300 epochs": 76.7,
}
SIMSIAM = {"batch 512": 68.1, "batch 256": 68.3}
DINO = {  # linear and kNN
    "ViT-S/16": (77.0, 74.5),
    "ViT-S/8": (79.7, 78.3),
    "ViT-B/16": (78.2, 76.1),
    "ViT-B/8": (80.1, 77.4),
    "ResNet-50": (75.3, 67.5),
}


def facebook() -> list[Weights]:
    """MoCo, MoCo v3, SimSiam and DINO, saved by PyTorch."""
    found = []
    for net, md5, number in MOCO:
        where = f"facebookresearch/moco, MD5 {md5}..."
        about = f"MoCo {net}", where, ".pth.tar", MIT, number, "linear"
        found.append(Weights("moco", *about))
    for net, number in MOCO_V3.items():
        about = f"MoCo v3 {net}", "facebookresearch/moco-v3", ".pth.tar"
        found.append(Weights("mocov3", *about, NON_COMMERCIAL, number, "linear"))
    for net, number in SIMSIAM.items():
        about = f"SimSiam ResNet-50, {net}", "facebookresearch/simsiam", ".pth.tar"
        found.append(Weights("simsiam", *about, NON_COMMERCIAL, number, "linear"))
    for net, (linear, knn) in DINO.items():
        about = f"DINO {net}", "facebookresearch/dino", ".pth, backbone or all"
        found.append(
            Weights("dino", *about, "Apache-2.0", linear, f"linear; kNN {knn}")
        )
    return found


def byol() -> list[Weights]:
    """BYOL's pickles, which are read without running what is in them."""
    files = (
        ("ResNet-50", "pretrain_res50x1.pkl", 74.3, "linear"),
        ("ResNet-200 2x", "pretrain_res200x2.pkl", 79.6, "linear"),
        ("ResNet-50, ablations", "ablations/res50x1_*.pkl", None, "-"),
    )
    found = []
    for net, name, number, protocol in files:
        about = f"BYOL {net}", f"deepmind-byol/checkpoints/{name}", "pickle"
        found.append(Weights("byol", *about, NON_COMMERCIAL, number, protocol))
    return found


def others() -> list[Weights]:
    """What can be read, though no number is known here."""
    nets, saved = "SimCLR, BYOL, MoCo", "checkpoint"
    known = (
        ("torchvision", "ResNets, ViTs", "the project", "state dict", OWN),
        ("timm", "ResNets, ViTs", "the project", "state dict, safetensors", OWN),
        (
            *("huggingface", "ResNets, ViTs of timm", "huggingface.co/timm"),
            *("folder: config.json, weights", OWN),
        ),
        ("lightly", nets, "the project", saved, OWN),
        ("solo_learn", nets, "withdrawn in 2026", saved, OWN),
        ("tsimcne", "ResNet-18, CIFAR-10", "one's own run", "pickle", "code EUPL"),
    )
    return [Weights(*each, None, "-") for each in known]


PUBLISHED = (*simclr(), *facebook(), *byol(), *others())


def terms(format: str) -> list[str]:
    """The licences that are known of what is published in a format of `zoo import`."""
    known = (each.licence for each in PUBLISHED if each.format == format)
    licences = [each for each in dict.fromkeys(known) if each != OWN]
    return [f"Published files of this format: {each}." for each in licences]


def table() -> str:
    """All of it for people, and how it comes in."""
    lines = [("--from", "model", "where", "file", "top-1 %", "by", "licence")]
    for each in PUBLISHED:
        number = "-" if each.number is None else str(each.number)
        about = (each.format, each.model, each.where, each.kind)
        lines.append((*about, number, each.protocol, each.licence))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
        for line in lines
    ]
    commands = dict.fromkeys(each.command for each in PUBLISHED)
    note = (
        "The numbers are those of the projects, on ImageNet. Nothing is downloaded: "
        "fetch a\nfile yourself, mind its licence, then one of"
    )
    return "\n".join([*map(str.rstrip, text), "", note, "", *commands])
