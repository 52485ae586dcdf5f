"""TensorFlow's SavedModel for any number of pictures, and TFLite from it.

jax2tf would write StableHLO of a version that TensorFlow 2.21 does not read once the
batch is free, and the file would fail when it is called, not when it is saved. So the
program comes from jax.export, its checks of the shapes are left out, and it is written
at a version that TensorFlow has known for long.
"""

import pathlib
import tempfile

import tensorflow as tf
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.lite.python.convert_phase import ConverterError
from tensorflow.lite.python.lite import TFLiteConverterV2

from simclr_jax.zoo.native.stablehlo import PLATFORMS, exported
from simclr_jax.zoo.network import PARTS, Network, Written, check_size

VERSION = "1.9.0"  # of StableHLO; TensorFlow 2.21 reads it up to 1.13.7
SAVEDMODEL_LIMITS = (
    "No gradient passes through it: for features, not for fine-tuning. For that take "
    "torchvision, timm, numpy or orbax.",
    f"It runs where TensorFlow does, on {', '.join(PLATFORMS)}.",
)
TFLITE_LIMITS = ("It takes one picture at a time, for features, not for fine-tuning.",)
SAVEDMODEL = """\
import tensorflow as tf

model = tf.saved_model.load(path)

def network(images):
    return {name: y.numpy() for name, y in model(images).items()}
"""
TFLITE = """\
import numpy as np
import tensorflow as tf

interpreter = tf.lite.Interpreter(path)
signature = interpreter.get_signature_runner()

def network(images):
    said = [signature(images=image[None]) for image in images]
    return {name: np.concatenate([y[name] for y in said]) for name in said[0]}
"""


def write_savedmodel(network: Network, path: pathlib.Path) -> Written:
    """Writes the folder PATH; weights stay variables with our paths for names."""
    module = Module(network, PLATFORMS, "b")
    tf.saved_model.save(module, str(path), {"serving_default": module.__call__})
    return Written(SAVEDMODEL, ("tensorflow",), SAVEDMODEL_LIMITS)


def write_tflite(network: Network, path: pathlib.Path) -> Written:
    """Writes PATH; TensorFlow's converter reads it from a SavedModel.

    For one picture: it does not know what a ViT does with any number of them.

    Raises:
      ValueError: the network is too large, or the converter does not know it.
    """
    check_size(network, "tflite")
    module = Module(network, ("cpu",), "1")
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, {"serving_default": module.__call__})
        converter = TFLiteConverterV2.from_saved_model(folder)
        try:
            path.write_bytes(converter.convert())
        except ConverterError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"TensorFlow's converter cannot: {reason}") from error
    return Written(TFLITE, ("tensorflow",), TFLITE_LIMITS)


class Module(tf.Module):
    """A network that TensorFlow calls, images -> {"h": ...}; its weights are variables.

    batch: how many images it takes; a letter: any number.
    """

    def __init__(self, network: Network, platforms: tuple[str, ...], batch: str):
        super().__init__()
        program = exported(network, platforms, batch)
        blob = _portable(program)
        many = None if batch.isalpha() else int(batch)
        shapes = [(many, *y.shape[1:]) for y in program.out_avals]
        # Both in the order in which jax flattens a dict.
        names, paths = sorted(PARTS[network.part]), sorted(network.arrays)
        self.weights = [_variable(path, network.arrays[path]) for path in paths]

        def call(images):
            outputs = xla.call_module(
                [*(weight.value() for weight in self.weights), images],
                version=program.calling_convention_version,
                module=blob,
                Sout=shapes,
                Tout=[tf.float32] * len(shapes),
                platforms=[name.upper() for name in platforms],
                function_list=[],
                has_token_input_output=False,
                disabled_checks=[],
                use_shardy_partitioner=False,
            )
            for y, shape in zip(outputs, shapes, strict=True):
                y.set_shape(shape)
            return dict(zip(names, outputs, strict=True))

        pictures = many, network.side, network.side, 3
        spec = tf.TensorSpec(pictures, network.pixel, "images")
        self.__call__ = tf.function(call, input_signature=[spec], autograph=False)


def _variable(path: str, x) -> tf.Variable:
    return tf.Variable(tf.convert_to_tensor(x), name=path)


def _portable(program) -> bytes:
    """The program at VERSION, without its checks of the shapes."""
    with ir.Context() as context, ir.Location.unknown(context):
        stablehlo.register_dialect(context)
        context.allow_unregistered_dialects = True
        serialized = program.mlir_module_serialized
        module = stablehlo.deserialize_portable_artifact(context, serialized)
        checks = []

        def look(op):
            op = op.operation
            if op.name == "stablehlo.custom_call":
                target = str(op.attributes["call_target_name"])
                checks.extend([op] if "shape_assertion" in target else [])
            return ir.WalkResult.ADVANCE

        module.operation.walk(look)
        for op in checks:
            op.erase()
        text = str(module.operation.get_asm(enable_debug_info=False))
        return stablehlo.serialize_portable_artifact_str(text, VERSION)
