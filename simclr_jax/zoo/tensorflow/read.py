"""Names and arrays of TensorFlow's files: checkpoints of TF1 and TF2, SavedModels.

No graph is loaded or run: a SavedModel is read like the checkpoint inside it.
"""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # stored by TF2 only
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Raised by TensorFlow for damaged files.
DAMAGED = (tf.errors.OpError, RuntimeError, ValueError, IndexError)


class VariableFile(NamedTuple):
    """An open file, before any array is read."""

    file_type: str  # "tf1", "tf2" or "saved_model"
    shapes: dict[str, tuple[int, ...]]  # by name
    read: Callable[[Iterable[str]], dict[str, np.ndarray]]  # names -> arrays by name


def open_file(path: str) -> VariableFile:
    """Opens a checkpoint or a SavedModel.

    The names are those of TF1's variables; in a TF2 checkpoint, the paths of objects,
    such as model/supervised_head/linear_layer/dense/bias; in a SavedModel, those of the
    variables without ":0".

    Args:
      path: a prefix, such as DIR/model.ckpt-225206, or a folder with one checkpoint or
        a SavedModel in it.

    Raises:
      ValueError: there is no such file, or it cannot be read.
    """
    folder = pathlib.Path(path)
    model = folder / "saved_model.pb"
    prefix = folder / "variables/variables" if model.is_file() else _prefix(folder)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        graph = reader.get_tensor(GRAPH) if GRAPH in shapes else None
    except DAMAGED as error:
        raise ValueError(_unreadable(prefix, error)) from error
    file_type, keys = "tf1", {name: name for name in shapes}
    if graph is not None:
        values = [key for key in shapes if key.endswith(VALUE)]
        file_type, keys = "tf2", {key.removesuffix(VALUE): key for key in values}
    if graph is not None and model.is_file():
        file_type, keys = "saved_model", _variables(model, graph, keys)

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        try:
            return {name: reader.get_tensor(keys[name]) for name in names}
        except DAMAGED as error:
            raise ValueError(_unreadable(prefix, error)) from error

    return VariableFile(file_type, {n: tuple(shapes[k]) for n, k in keys.items()}, read)


def renamed(file: VariableFile, names: dict[str, str]) -> VariableFile:
    """Selects variables of a file under new names, {new name: name in the file}."""

    def read(new_names: Iterable[str]) -> dict[str, np.ndarray]:
        new_names = list(new_names)
        arrays = file.read(names[name] for name in new_names)
        return {name: arrays[names[name]] for name in new_names}

    shapes = {name: file.shapes[file_name] for name, file_name in names.items()}
    return VariableFile(file.file_type, shapes, read)


def _prefix(path: pathlib.Path) -> pathlib.Path:
    """The prefix of a checkpoint with files PREFIX.index and PREFIX.data-*."""
    if path.is_dir():
        prefixes = sorted(file.with_suffix("") for file in path.glob("*.index"))
        if len(prefixes) == 1:
            return prefixes[0]
        names = ", ".join(file.name for file in prefixes) or "none"
        raise ValueError(
            f"{path} has no saved_model.pb and not exactly one checkpoint: {names}. "
            "Give the folder of a SavedModel, or the prefix of a checkpoint, DIR/NAME "
            "for the files NAME.index and NAME.data-*."
        )
    if path.with_name(f"{path.name}.index").is_file():
        return path
    if path.suffix in (".index", ".meta") or path.suffix.startswith(".data-"):
        raise ValueError(
            f"{path} is one of the files of a checkpoint. Give their common prefix, "
            f"{path.with_suffix('')}."
        )
    raise ValueError(
        f"There is no TensorFlow checkpoint {path}: neither a folder nor a prefix "
        f"with a file {path.name}.index."
    )


def _unreadable(prefix: pathlib.Path, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    return (
        f"{prefix} is no complete TensorFlow checkpoint ({reason}). It consists of "
        f"{prefix.name}.index and all of {prefix.name}.data-*."
    )


def _variables(
    model: pathlib.Path, graph: bytes, keys: dict[str, str]
) -> dict[str, str]:
    """{name of a variable, or the path of its object if it has no name: its key}.

    Args:
      model: the file saved_model.pb.
      graph: the checkpoint's serialised TrackableObjectGraph.
      keys: {path of an object: key in the checkpoint}.
    """
    saved = saved_model_pb2.SavedModel()
    objects = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        saved.ParseFromString(model.read_bytes())
        objects.ParseFromString(graph)
    except Exception as error:  # of protobuf
        raise ValueError(f"{model} is no SavedModel, or damaged ({error}).") from error
    nodes = saved.meta_graphs[0].object_graph_def.nodes if saved.meta_graphs else ()
    if not nodes:
        raise ValueError(f"{model} has no objects: it is no SavedModel of TF2.")
    names = _variable_names(nodes, objects.nodes)
    named = {names.get(key, path): key for path, key in keys.items()}
    if len(named) < len(keys):
        raise ValueError(f"{model}: several variables have the same name.")
    return named


def _variable_names(model_nodes: Any, checkpoint_nodes: Any) -> dict[str, str]:
    """{key in the checkpoint: name of the variable in the model}.

    The two graphs describe the same objects with different numbers; the names of their
    edges are the same. Both are followed from the root.
    """
    names, visited, pairs = {}, set(), [(0, 0)]
    while pairs:
        pair = model_id, checkpoint_id = pairs.pop()
        if pair in visited:
            continue
        visited.add(pair)
        model_node = model_nodes[model_id]
        checkpoint_node = checkpoint_nodes[checkpoint_id]
        for attribute in checkpoint_node.attributes:
            if model_node.variable.name:
                names[attribute.checkpoint_key] = model_node.variable.name
        children = {x.local_name: x.node_id for x in checkpoint_node.children}
        pairs += [
            (child.node_id, children[child.local_name])
            for child in model_node.children
            if child.local_name in children
        ]
    return names
