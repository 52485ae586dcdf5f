"""The published SimCLR (TensorFlow) and BYOL (Haiku) checkpoints, as layouts."""

import collections
import re

from simclr_jax.zoo.haiku import names as haiku_names
from simclr_jax.zoo.haiku import read as haiku_read
from simclr_jax.zoo.name_map import Branch, Found, rule
from simclr_jax.zoo.tensorflow import names as tf_names
from simclr_jax.zoo.tensorflow import read as tf_read

EMA = "ema_model/"
SPARE = {  # expressions, by kind of file, for what is of no use here and is not read
    "tf1": (r"global_step", r".*/Momentum", rf"{EMA}.*", r".*memory.*"),
    "tf2": (
        r"global_step",
        r"save_counter",
        r"optimizer/.*",
        r".*/\.OPTIMIZER_SLOT/.*",
    ),
    "saved_model": (),
}
HAIKU_SPARE = (r".*/(hidden|counter)", r"target_\w+/(predictor|classifier)/.*")
# The last steps of the released v2 networks fine-tuned on 1 % and 10 % of the labels.
FROM_THE_HEAD = (751, 3754)

PIXELS = "SimCLR takes pixels in [0, 1] as they are, without a mean and deviation."
NO_HEAD = "The file has no projection head: the one here is untrained."
EITHER = "Without a head a plain ResNet-50 may be v1 or v2; this is taken for v1."
KERNELS = (
    "Kernels of v1's ResNet-50 are about 17 times as long as v2's (another weight "
    "decay): fine-tuning by SGD wants other rates for each; LARS does not care."
)
ELSEWHERE = (
    "This network was fine-tuned from the first layer of its projection head: its "
    "classifier does not read h, and is left there."
)
PERHAPS = (
    "If this network was fine-tuned from the first layer of its projection head (v2 on "
    "1 % or 10 % of the labels), its classifier does not read h: distrust the probe."
)
BYOL = "BYOL takes pixels of ImageNet's mean and deviation, and pads as XLA's SAME."


def simclr(path: str) -> Found:
    """SimCLR v1 or v2: a TF1 or TF2 checkpoint's prefix, or a SavedModel's folder.

    Depth, width, selective kernels, head and classifier follow from the variables.

    Raises:
      ValueError: it cannot be read, or is no SimCLR network.
    """
    return described(tf_read.stored(path))


def simclr_ema(path: str) -> Found:
    """The moving average of a v2 network, which its pretrained TF1 checkpoints hold.

    Raises:
      ValueError: as in `simclr`, or the file has no moving average.
    """
    stored = tf_read.stored(path)
    names = {n.removeprefix(EMA): n for n in stored.shapes if n.startswith(EMA)}
    if not names:
        raise ValueError(
            f"{path} has no variables {EMA}...: only the pretrained TF1 checkpoints of "
            "v2 hold a moving average. Take --from simclr."
        )
    others = {f"all but {EMA}.*": len(stored.shapes) - len(names)}
    return described(tf_read.renamed(stored, names))._replace(unread=others)


def described(stored: tf_read.Stored) -> Found:
    """What an open file holds; see `simclr`."""
    scheme = tf_names.OBJECTS if stored.kind == "tf2" else tf_names.VARIABLES
    known = {name: name for name in stored.shapes}  # name of the scheme: name there
    if stored.kind == "saved_model":
        known = tf_names.in_order(stored.shapes)
    shapes = {name: stored.shapes[there] for name, there in known.items()}

    trunk, width = tf_names.recognise(scheme, shapes)
    layers = tf_names.head_layers(scheme, shapes)
    classifier = tf_names.classifier_table(scheme)
    classifies = not shapes.keys().isdisjoint(classifier.values())
    v2 = layers > 2 or trunk.sk or (not layers and trunk.depth > 50)
    elsewhere = v2 and classifies and _step(stored) in FROM_THE_HEAD

    tables = {"encoder": tf_names.trunk_table(scheme, trunk)}
    if layers:
        tables["projector"] = tf_names.head_table(scheme, layers)
    if classifies and not elsewhere:
        tables["probe"] = classifier
    parts = {
        part: tf_names.naming({path: known.get(n, n) for path, n in table.items()})
        for part, table in tables.items()
    }
    spare = list(SPARE[stored.kind])
    if elsewhere:
        spare += map(re.escape, classifier.values())
    rules = {name: rule(name, spare) for name in stored.shapes}
    wanted = [name for name, spared in rules.items() if not spared]
    unread = collections.Counter(spared for spared in rules.values() if spared)
    notes = {
        PIXELS: True,
        NO_HEAD: not layers,
        EITHER: not layers and not v2 and trunk.depth == 50,
        KERNELS: not v2 and trunk.depth == 50,
        ELSEWHERE: elsewhere,
        PERHAPS: stored.kind == "saved_model" and v2 and classifies,
    }
    return Found(
        _config(trunk, width, v2),
        _changes(scheme, trunk, layers, shapes),
        stored.read(wanted),
        [Branch("params", "model_state/online", parts)],
        unread=dict(sorted(unread.items())),
        notes=tuple(note for note, said in notes.items() if said),
    )


def _step(stored: tf_read.Stored) -> int:
    """The step at which a checkpoint was written; 0 where it does not say."""
    if "global_step" not in stored.shapes:
        return 0
    return int(stored.read(["global_step"])["global_step"])


def _config(trunk: tf_names.Trunk, width: int, v2: bool) -> str:
    """The recipe; v1's released networks are those of 1000 epochs."""
    said = "version=v2" if v2 else "version=v1,epochs=1000"
    said += f",encoder=resnet{trunk.depth},width={width}"
    return f"simclr_imagenet.py:{said}{',sk=true' if trunk.sk else ''}"


def _changes(
    scheme: tf_names.Scheme,
    trunk: tf_names.Trunk,
    layers: int,
    shapes: dict[str, tuple[int, ...]],
) -> list[tuple[str, str]]:
    """Of the config, which computes in bfloat16 and has as many layers as the paper."""
    changes = [("encoder.dtype", "float32"), ("encoder.stem", trunk.stem)]
    changes += [("data.image_size", "32")] if trunk.stem == "cifar" else []
    if layers:
        changes.append(("method.layers", str(layers)))
        last = shapes.get(f"{scheme.dense.format(layers - 1)}/kernel", ())
        changes += [("method.out", str(last[1]))] if len(last) == 2 else []
    return changes


def byol(path: str) -> Found:
    """BYOL's pickles of the pretraining, online and target branch.

    Raises:
      ValueError: the file is no such pickle, or holds something that a checkpoint has
        no need of.
    """
    arrays = haiku_read.arrays(path)
    root = haiku_names.root(arrays)
    widths = {  # of layers; where one is missing, the layout will say so
        "encoder.width": (f"{root}/~/initial_conv", 64),
        "method.hidden": ("projector/linear", 1),
        "method.out": ("projector/linear_1", 1),
    }
    changes = [("encoder.name", root.replace("res_net", "resnet"))]
    for key, (layer, unit) in widths.items():
        kernel = arrays.get(f"online_params/{layer}/w")
        if kernel is not None and kernel.ndim:
            changes.append((key, str(max(kernel.shape[-1] // unit, 1))))
    return Found(
        "byol_imagenet.py:epochs=1000",
        [*changes, ("encoder.dtype", "float32")],
        arrays,
        [
            Branch(params, f"model_state/{who}", haiku_names.parts(who, root))
            for who, params in (("online", "params"), ("target", "target_params"))
        ],
        spare=HAIKU_SPARE,
        unread={"optimizer state, step and random key": 1},
        notes=(BYOL,),
    )
