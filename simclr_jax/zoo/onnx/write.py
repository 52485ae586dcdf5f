"""ONNX for any number of pictures, from the jaxpr; needs the package onnx."""

import functools
import pathlib
from types import ModuleType

import jax
import numpy as np
from jax import export

from simclr_jax.zoo.network import (
    PARTS,
    Network,
    Written,
    check_size,
    installed,
    needed,
)
from simclr_jax.zoo.onnx.rules import Equation, Graph, convert

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


def write_onnx(network: Network, path: pathlib.Path) -> Written:
    """Writes PATH. ONNX Runtime checks it, or onnx's own slow one where that is not.

    Raises:
      ValueError: onnx is not installed, the network is too large, or it has a primitive
        without a rule.
    """
    onnx = needed("onnx", "--to=onnx")
    check_size(network, "onnx")
    path.write_bytes(_model(network, onnx).SerializeToString())
    if installed("onnxruntime"):
        return Written(RUNTIME, ("onnxruntime",), LIMITS)
    return Written(REFERENCE, ("onnx",), LIMITS)


def _model(network: Network, onnx: ModuleType):
    """An onnx.ModelProto with weights as constants."""
    side, helper = network.side, onnx.helper
    shape = export.symbolic_shape(f"b, {side}, {side}, 3")
    program = jax.make_jaxpr(functools.partial(network.forward, network.arrays))(
        jax.ShapeDtypeStruct(shape, network.pixel)
    )
    graph = Graph(onnx, IMAGES)
    constants = [np.asarray(x) for x in program.consts]
    said = _walk(graph, program.jaxpr, constants, [IMAGES])
    names = sorted(PARTS[network.part])  # the order in which jax flattens a dict
    for name, value in zip(names, said, strict=True):
        graph.add("Identity", value, output=name)

    def tensor(name, aval):
        kind = helper.np_dtype_to_tensor_dtype(aval.dtype)
        sizes = [d if isinstance(d, int) else "batch" for d in aval.shape]
        return helper.make_tensor_value_info(name, kind, sizes)

    outputs = [tensor(*pair) for pair in zip(names, program.out_avals, strict=True)]
    inputs = [tensor(IMAGES, program.in_avals[0])]
    whole = helper.make_graph(
        graph.nodes, network.name, inputs, outputs, graph.constants
    )
    model = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="simclr_jax",
        ir_version=9,  # what runtimes of opset 18's time read
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _walk(graph: Graph, jaxpr, constants: list, inputs: list) -> list:
    """The values of a jaxpr's outputs; what needs no pictures is computed at once."""
    known = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def value(x):
        return np.asarray(x.val) if hasattr(x, "val") else known[x]

    for e in _needed(jaxpr):
        values = [value(x) for x in e.invars]
        inner = [e.params[k] for k in ("jaxpr", "call_jaxpr") if k in e.params]
        if inner:
            closed = inner[0]
            said = _walk(graph, closed.jaxpr, closed.consts, values)
        elif any(isinstance(x, str) for x in values) or not _fixed(e):
            shapes = [x.aval.shape for x in e.invars]
            told = Equation(e.params, values, shapes, e.outvars[0].aval.shape)
            said = [convert(graph, e.primitive.name, told)]
        else:
            said = e.primitive.bind(*values, **e.params)
            said = said if e.primitive.multiple_results else [said]
            said = [np.asarray(x) for x in said]
        known |= zip(e.outvars, said, strict=True)
    return [value(x) for x in jaxpr.outvars]


def _needed(jaxpr) -> list:
    """The equations that an output depends on, in their order."""
    wanted, kept = {x for x in jaxpr.outvars if not hasattr(x, "val")}, []
    for e in reversed(jaxpr.eqns):
        if wanted & set(e.outvars):
            kept.append(e)
            wanted |= {x for x in e.invars if not hasattr(x, "val")}
    return kept[::-1]


def _fixed(e) -> bool:
    """Whether no shape of what comes out depends on the number of pictures."""
    return all(isinstance(d, int) for x in e.outvars for d in x.aval.shape)
