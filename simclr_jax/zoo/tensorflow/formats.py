"""The checkpoints that SimCLR's authors published, v1 and v2."""

import collections
import re
from typing import NamedTuple

from simclr_jax.zoo.name_map import Branch, ForeignCheckpoint, Naming, matching_rule
from simclr_jax.zoo.tensorflow import names as tf_names
from simclr_jax.zoo.tensorflow import read as tf_read

EMA = "ema_model/"
IGNORED = {  # regular expressions of variables that are not read, by file type
    "tf1": (r"global_step", r".*/Momentum", rf"{EMA}.*", r".*memory.*"),
    "tf2": (
        r"global_step",
        r"save_counter",
        r"optimizer/.*",
        r".*/\.OPTIMIZER_SLOT/.*",
    ),
    "saved_model": (),
}
# The last steps of the released v2 networks fine-tuned on 1 % and 10 % of the labels.
FINE_TUNED_HEAD_STEPS = (751, 3754)

PIXELS = "SimCLR's input is pixels in [0, 1], without normalisation."
NO_HEAD = "The file has no projection head: the projector is randomly initialised."
AMBIGUOUS_VERSION = (
    "Without a head a plain ResNet-50 may be v1 or v2; it is imported as v1."
)
KERNEL_SCALE = (
    "The norms of v1's ResNet-50 kernels are about 17 times those of v2's (another "
    "weight decay): fine-tuning with SGD needs different learning rates for the two; "
    "LARS does not."
)
HEAD_CLASSIFIER = (
    "This network was fine-tuned from the first layer of its projection head: its "
    "classifier does not read h and is not imported."
)
POSSIBLE_HEAD_CLASSIFIER = (
    "If this network was fine-tuned from the first layer of its projection head (v2 on "
    "1 % or 10 % of the labels), its classifier does not read h and the probe is wrong."
)


def simclr(path: str) -> ForeignCheckpoint:
    """SimCLR v1 or v2: a TF1 or TF2 checkpoint's prefix, or a SavedModel's folder.

    The variables determine depth, width, selective kernels, head and classifier.

    Raises:
      ValueError: it cannot be read, or is not a SimCLR network.
    """
    return checkpoint_of(tf_read.open_file(path))


def simclr_ema(path: str) -> ForeignCheckpoint:
    """The moving average of a v2 network, which its pretrained TF1 checkpoints hold.

    Raises:
      ValueError: as in `simclr`, or the file has no moving average.
    """
    file = tf_read.open_file(path)
    names = {n.removeprefix(EMA): n for n in file.shapes if n.startswith(EMA)}
    if not names:
        raise ValueError(
            f"{path} has no variables {EMA}...: only the pretrained TF1 checkpoints of "
            "v2 have a moving average. Use --from simclr."
        )
    others = {f"all but {EMA}.*": len(file.shapes) - len(names)}
    return checkpoint_of(tf_read.renamed(file, names))._replace(unread=others)


class Contents(NamedTuple):
    """The network in a file, as determined from its variables."""

    scheme: tf_names.Scheme
    names: dict[str, str]  # name in the scheme: name in the file
    shapes: dict[str, tuple[int, ...]]  # by name in the scheme
    trunk: tf_names.Trunk
    width: int
    head_layers: int  # 0: there is no projection head
    has_classifier: bool
    classifier_on_head: bool  # rather than on h
    v2: bool


def checkpoint_of(file: tf_read.VariableFile) -> ForeignCheckpoint:
    """The network in an open file; see `simclr`."""
    contents = _contents(file)
    classifier = tf_names.classifier_table(contents.scheme)
    ignored = list(IGNORED[file.file_type])
    if contents.classifier_on_head:
        ignored += map(re.escape, classifier.values())
    rules = {name: matching_rule(name, ignored) for name in file.shapes}
    unread = collections.Counter(rule for rule in rules.values() if rule)
    return ForeignCheckpoint(
        _config(contents),
        _changes(contents),
        file.read([name for name, rule in rules.items() if not rule]),
        [Branch("params", "model_state/online", _parts(contents))],
        unread=dict(sorted(unread.items())),
        notes=_notes(contents, file.file_type),
    )


def _contents(file: tf_read.VariableFile) -> Contents:
    scheme = tf_names.OBJECTS if file.file_type == "tf2" else tf_names.VARIABLES
    names = {name: name for name in file.shapes}
    if file.file_type == "saved_model":
        names = tf_names.tf1_names(file.shapes)
    shapes = {name: file.shapes[file_name] for name, file_name in names.items()}
    trunk, width = tf_names.recognise(scheme, shapes)
    layers = tf_names.head_layers(scheme, shapes)
    classifier = tf_names.classifier_table(scheme)
    has_classifier = not shapes.keys().isdisjoint(classifier.values())
    v2 = layers > 2 or trunk.sk or (not layers and trunk.depth > 50)
    on_head = v2 and has_classifier and _step(file) in FINE_TUNED_HEAD_STEPS
    return Contents(
        scheme, names, shapes, trunk, width, layers, has_classifier, on_head, v2
    )


def _parts(contents: Contents) -> dict[str, Naming]:
    scheme = contents.scheme
    tables = {"encoder": tf_names.trunk_table(scheme, contents.trunk)}
    if contents.head_layers:
        tables["projector"] = tf_names.head_table(scheme, contents.head_layers)
    if contents.has_classifier and not contents.classifier_on_head:
        tables["probe"] = tf_names.classifier_table(scheme)
    names = contents.names
    return {
        part: tf_names.naming({path: names.get(n, n) for path, n in table.items()})
        for part, table in tables.items()
    }


def _notes(contents: Contents, file_type: str) -> tuple[str, ...]:
    v2, head = contents.v2, contents.head_layers
    v1_resnet50 = not v2 and contents.trunk.depth == 50
    saved_model = file_type == "saved_model"
    notes = {
        PIXELS: True,
        NO_HEAD: not head,
        AMBIGUOUS_VERSION: not head and v1_resnet50,
        KERNEL_SCALE: v1_resnet50,
        HEAD_CLASSIFIER: contents.classifier_on_head,
        POSSIBLE_HEAD_CLASSIFIER: saved_model and v2 and contents.has_classifier,
    }
    return tuple(note for note, applies in notes.items() if applies)


def _step(file: tf_read.VariableFile) -> int:
    """The step at which a checkpoint was written; 0 where it is not stored."""
    if "global_step" not in file.shapes:
        return 0
    return int(file.read(["global_step"])["global_step"])


def _config(contents: Contents) -> str:
    """The config; v1's released networks were trained for 1000 epochs."""
    trunk = contents.trunk
    version = "version=v2" if contents.v2 else "version=v1,epochs=1000"
    size = f"encoder=resnet{trunk.depth},width={contents.width}"
    return f"simclr_imagenet.py:{version},{size}{',sk=true' if trunk.sk else ''}"


def _changes(contents: Contents) -> list[tuple[str, str]]:
    """Changes of the config, which has bfloat16 and the paper's number of layers."""
    stem, layers = contents.trunk.stem, contents.head_layers
    changes = [("encoder.dtype", "float32"), ("encoder.stem", stem)]
    if stem == "cifar":
        changes.append(("data.image_size", "32"))
    if layers:
        changes.append(("method.layers", str(layers)))
        kernel = f"{contents.scheme.dense.format(layers - 1)}/kernel"
        shape = contents.shapes.get(kernel, ())
        changes += [("method.out", str(shape[1]))] if len(shape) == 2 else []
    return changes
