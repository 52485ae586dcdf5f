"""TensorFlow's SavedModel for any batch size, and TFLite made from it.

For a symbolic batch size, jax2tf writes StableHLO of a version that TensorFlow 2.21
does not read; the file fails when it is called, not when it is saved. Therefore the
program comes from jax.export, without its shape assertions and in an older version of
StableHLO.
"""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from jax import export
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.lite.python.convert_phase import ConverterError
from tensorflow.lite.python.lite import TFLiteConverterV2

from simclr_jax.zoo.catalog import PARTS
from simclr_jax.zoo.native.stablehlo import PLATFORMS, exported
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork, check_size

VERSION = "1.9.0"  # of StableHLO; TensorFlow 2.21 reads it up to 1.13.7
SAVEDMODEL_LIMITS = (
    "No gradient passes through it: for features, not for fine-tuning. For that use "
    "torchvision, timm, numpy or orbax.",
    f"It runs in TensorFlow on {', '.join(PLATFORMS)}.",
)
TFLITE_LIMITS = ("It takes one image at a time, for features, not for fine-tuning.",)
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
    outputs = [signature(images=image[None]) for image in images]
    return {name: np.concatenate([y[name] for y in outputs]) for name in outputs[0]}
"""


def write_savedmodel(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes the folder PATH; weights are variables named by our paths."""
    module = Module(network, PLATFORMS, "b")
    tf.saved_model.save(module, str(path), {"serving_default": module.__call__})
    return ExportedFile(SAVEDMODEL, ("tensorflow",), SAVEDMODEL_LIMITS)


def write_tflite(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes PATH, with TensorFlow's converter from a SavedModel.

    For a batch of one: the converter does not support a ViT with a symbolic batch size.

    Raises:
      ValueError: the network is too large, or the converter fails.
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
            raise ValueError(f"TensorFlow's converter failed: {reason}") from error
    return ExportedFile(TFLITE, ("tensorflow",), TFLITE_LIMITS)


class Module(tf.Module):
    """A network as a TensorFlow function, images -> {"h": ...}, with its weights."""

    def __init__(
        self, network: ExportedNetwork, platforms: tuple[str, ...], batch: str
    ):
        """
        Args:
          platforms: the platforms that it runs on.
          batch: N, or a letter for any N.
        """
        super().__init__()
        program = exported(network, platforms, batch)
        serialised = _portable(program)
        count = None if batch.isalpha() else int(batch)
        shapes = [(count, *y.shape[1:]) for y in program.out_avals]
        # Both in the order in which jax flattens a dict.
        names, paths = sorted(PARTS[network.part]), sorted(network.arrays)
        self.weights = [_variable(path, network.arrays[path]) for path in paths]

        def call(images):
            outputs = xla.call_module(
                [*(weight.value() for weight in self.weights), images],
                version=program.calling_convention_version,
                module=serialised,
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

        shape = count, network.image_size, network.image_size, 3
        spec = tf.TensorSpec(shape, network.input_dtype, "images")
        self.__call__ = tf.function(call, input_signature=[spec], autograph=False)


def _variable(path: str, x: np.ndarray) -> tf.Variable:
    return tf.Variable(tf.convert_to_tensor(x), name=path)


def _portable(program: export.Exported) -> bytes:
    """The program in VERSION, without its shape assertions."""
    with ir.Context() as context, ir.Location.unknown(context):
        stablehlo.register_dialect(context)
        context.allow_unregistered_dialects = True
        serialized = program.mlir_module_serialized
        module = stablehlo.deserialize_portable_artifact(context, serialized)
        assertions = []

        def collect(op):
            op = op.operation
            if op.name == "stablehlo.custom_call":
                target = str(op.attributes["call_target_name"])
                assertions.extend([op] if "shape_assertion" in target else [])
            return ir.WalkResult.ADVANCE

        module.operation.walk(collect)
        for op in assertions:
            op.erase()
        text = str(module.operation.get_asm(enable_debug_info=False))
        return stablehlo.serialize_portable_artifact_str(text, VERSION)
