"""Names and arrays of TensorFlow's files: checkpoints of TF1 and TF2, SavedModels.

Nothing of a graph is loaded or run: a SavedModel is read like the checkpoint that it
holds.
"""

import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # only TF2 stores one
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
DAMAGED = (tf.errors.OpError, RuntimeError, ValueError, IndexError)  # what TF raises


class Stored(NamedTuple):
    """What a file holds, before any of it is read."""

    kind: str  # "tf1", "tf2" or "saved_model"
    shapes: dict[str, tuple[int, ...]]  # by name
    read: Callable[[Iterable[str]], dict[str, np.ndarray]]  # names -> arrays by name


def stored(path: str) -> Stored:
    """Opens a checkpoint or a SavedModel.

    The names are those of TF1's variables; in a TF2 checkpoint, the paths of objects,
    such as model/supervised_head/linear_layer/dense/bias; in a SavedModel, those of the
    variables without ":0".

    Args:
      path: a prefix, such as DIR/model.ckpt-225206, or a folder with one checkpoint or
        a SavedModel in it.

    Raises:
      ValueError: there is no such thing, or it cannot be read.
    """
    place = pathlib.Path(path)
    model = place / "saved_model.pb"
    prefix = place / "variables/variables" if model.is_file() else _prefix(place)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        graph = reader.get_tensor(GRAPH) if GRAPH in shapes else None
    except DAMAGED as error:
        raise ValueError(_unreadable(prefix, error)) from error
    kind, keys = "tf1", {name: name for name in shapes}
    if graph is not None:
        ends = [key for key in shapes if key.endswith(VALUE)]
        kind, keys = "tf2", {key.removesuffix(VALUE): key for key in ends}
    if graph is not None and model.is_file():
        kind, keys = "saved_model", _variables(model, graph, keys)

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        try:
            return {name: reader.get_tensor(keys[name]) for name in names}
        except DAMAGED as error:
            raise ValueError(_unreadable(prefix, error)) from error

    return Stored(kind, {n: tuple(shapes[k]) for n, k in keys.items()}, read)


def renamed(stored: Stored, names: dict[str, str]) -> Stored:
    """Only the variables with these names, by new ones: {new name: name there}."""

    def read(wanted: Iterable[str]) -> dict[str, np.ndarray]:
        wanted = list(wanted)
        arrays = stored.read(names[name] for name in wanted)
        return {name: arrays[names[name]] for name in wanted}

    shapes = {name: stored.shapes[there] for name, there in names.items()}
    return Stored(stored.kind, shapes, read)


def _prefix(place: pathlib.Path) -> pathlib.Path:
    """Where a checkpoint is: PREFIX for the files PREFIX.index and PREFIX.data-*."""
    if place.is_dir():
        found = sorted(file.with_suffix("") for file in place.glob("*.index"))
        if len(found) == 1:
            return found[0]
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(
            f"{place} holds no saved_model.pb and not one checkpoint but: {names}. "
            "Give a SavedModel's folder, or a checkpoint's prefix, DIR/NAME of the "
            "files NAME.index and NAME.data-*."
        )
    if place.with_name(f"{place.name}.index").is_file():
        return place
    if place.suffix in (".index", ".meta") or place.suffix.startswith(".data-"):
        raise ValueError(
            f"{place} is one of the files of a checkpoint. Give their common prefix, "
            f"{place.with_suffix('')}."
        )
    raise ValueError(
        f"There is no TensorFlow checkpoint {place}: neither a folder nor a prefix "
        f"with a file {place.name}.index."
    )


def _unreadable(prefix: pathlib.Path, error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    return (
        f"{prefix} is no whole TensorFlow checkpoint ({said}). It consists of "
        f"{prefix.name}.index and all of {prefix.name}.data-*."
    )


def _variables(
    model: pathlib.Path, graph: bytes, keys: dict[str, str]
) -> dict[str, str]:
    """{name of a variable: its key}; the paths of objects stay where none has a name.

    The model and the checkpoint inside describe the same objects, each with numbers of
    its own; only the names of the edges are common.
    """
    saved = saved_model_pb2.SavedModel()
    objects = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        saved.ParseFromString(model.read_bytes())
        objects.ParseFromString(graph)
    except Exception as error:  # protobuf's own kind
        raise ValueError(f"{model} is no SavedModel, or damaged ({error}).") from error
    here = saved.meta_graphs[0].object_graph_def.nodes if saved.meta_graphs else ()
    if not here:
        raise ValueError(f"{model} has no objects: a SavedModel of TF2 has some.")
    names, seen, todo = {}, set(), [(0, 0)]
    while todo:
        a, b = pair = todo.pop()
        if pair in seen:
            continue
        seen.add(pair)
        for attribute in objects.nodes[b].attributes:
            if here[a].variable.name:
                names[attribute.checkpoint_key] = here[a].variable.name
        inside = {
            child.local_name: child.node_id for child in objects.nodes[b].children
        }
        todo += [
            (child.node_id, inside[child.local_name])
            for child in here[a].children
            if child.local_name in inside
        ]
    named = {names.get(key, path): key for path, key in keys.items()}
    if len(named) < len(keys):
        raise ValueError(f"{model}: several variables share a name.")
    return named
