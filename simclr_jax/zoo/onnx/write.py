"""ONNX for any batch size, from the jaxpr; needs the package onnx."""

import functools
import pathlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax import export

from simclr_jax.zoo.catalog import PARTS
from simclr_jax.zoo.network import (
    ExportedFile,
    ExportedNetwork,
    check_size,
    import_optional,
    installed,
)
from simclr_jax.zoo.onnx.rules import Equation, Graph, Value, convert

OPSET = 18
IMAGES = "images"
LIMITS = (f"Opset {OPSET}; for features, not for fine-tuning.",)
RUNTIME = """\
import onnxruntime

session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]

def network(images):
    return dict(zip(names, session.run(names, {"images": images})))
"""
REFERENCE = """\
from onnx.reference import ReferenceEvaluator

session = ReferenceEvaluator(path)

def network(images):
    return dict(zip(session.output_names, session.run(None, {"images": images})))
"""


def write_onnx(network: ExportedNetwork, path: pathlib.Path) -> ExportedFile:
    """Writes PATH and the lines to load it.

    They use ONNX Runtime, or onnx's reference evaluator if that is not installed.

    Raises:
      ValueError: onnx is not installed, the network is too large, or it has a primitive
        without a rule.
    """
    onnx = import_optional("onnx", "--to=onnx")
    check_size(network, "onnx")
    path.write_bytes(_model(network, onnx).SerializeToString())
    if installed("onnxruntime"):
        return ExportedFile(RUNTIME, ("onnxruntime",), LIMITS)
    return ExportedFile(REFERENCE, ("onnx",), LIMITS)


def _model(network: ExportedNetwork, onnx: ModuleType) -> Any:
    """An onnx.ModelProto with the weights as constants."""
    size, helper = network.image_size, onnx.helper
    shape = export.symbolic_shape(f"b, {size}, {size}, 3")
    program = jax.make_jaxpr(functools.partial(network.forward, network.arrays))(
        jax.ShapeDtypeStruct(shape, network.input_dtype)
    )
    graph = Graph(onnx, IMAGES)
    constants = [np.asarray(x) for x in program.consts]
    values = _add_nodes(graph, program.jaxpr, constants, [IMAGES])
    names = sorted(PARTS[network.part])  # the order in which jax flattens a dict
    for name, value in zip(names, values, strict=True):
        graph.add("Identity", value, output=name)

    def tensor(name, aval):
        dtype = helper.np_dtype_to_tensor_dtype(aval.dtype)
        sizes = [d if isinstance(d, int) else "batch" for d in aval.shape]
        return helper.make_tensor_value_info(name, dtype, sizes)

    outputs = [tensor(*pair) for pair in zip(names, program.out_avals, strict=True)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            network.encoder_name,
            [tensor(IMAGES, program.in_avals[0])],
            outputs,
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="simclr_jax",
        ir_version=9,  # that of opset 18
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _add_nodes(
    graph: Graph, jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value]
) -> list[Value]:
    """Adds the nodes of a jaxpr and returns the values of its outputs.

    Equations that do not depend on the images are evaluated to constants.
    """
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def value(x):
        return np.asarray(x.val) if hasattr(x, "val") else values[x]

    for e in _used_equations(jaxpr):
        operands = [value(x) for x in e.invars]
        inner = [e.params[k] for k in ("jaxpr", "call_jaxpr") if k in e.params]
        if inner:
            closed = inner[0]
            outputs = _add_nodes(graph, closed.jaxpr, closed.consts, operands)
        elif any(isinstance(x, str) for x in operands) or not _has_fixed_shape(e):
            shapes = [x.aval.shape for x in e.invars]
            equation = Equation(e.params, operands, shapes, e.outvars[0].aval.shape)
            outputs = [convert(graph, e.primitive.name, equation)]
        else:
            outputs = e.primitive.bind(*operands, **e.params)
            outputs = outputs if e.primitive.multiple_results else [outputs]
            outputs = [np.asarray(x) for x in outputs]
        values |= zip(e.outvars, outputs, strict=True)
    return [value(x) for x in jaxpr.outvars]


def _used_equations(jaxpr: Any) -> list:
    """The equations that an output depends on, in order."""
    needed, used = {x for x in jaxpr.outvars if not hasattr(x, "val")}, []
    for e in reversed(jaxpr.eqns):
        if needed & set(e.outvars):
            used.append(e)
            needed |= {x for x in e.invars if not hasattr(x, "val")}
    return used[::-1]


def _has_fixed_shape(e: Any) -> bool:
    """Whether no output shape of an equation depends on the batch size."""
    return all(isinstance(d, int) for x in e.outvars for d in x.aval.shape)
