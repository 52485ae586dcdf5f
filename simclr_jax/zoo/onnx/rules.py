"""ONNX nodes for jax's primitives, and the graph that they are added to.

A value is the name of a tensor in the graph, or a NumPy array or scalar where it does
not depend on the images. Images stay [N, H, W, C] as in jax; operators that ONNX has
only for [N, C, H, W] are put between transposes.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Value = str | np.ndarray | np.generic

ONE_NODE = {  # primitives that become one node with the same operands
    "add": "Add",
    "add_any": "Add",
    "copy": "Identity",
    "div": "Div",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sqrt": "Sqrt",
    "stop_gradient": "Identity",
    "sub": "Sub",
    "tanh": "Tanh",
}


class Equation(NamedTuple):
    """An equation of a jaxpr with the values of its operands."""

    params: dict[str, Any]
    inputs: list[Any]  # values
    shapes: list[tuple]  # of the inputs
    shape: tuple  # of the first output


class Graph:
    """Nodes and constants in the order in which they were added."""

    def __init__(self, onnx: ModuleType, images: str):
        """
        Args:
          onnx: the package.
          images: the name of the input, whose first axis is the batch.
        """
        self.onnx, self.nodes, self.constants = onnx, [], []
        self._images, self._batch, self._count = images, "", 0

    def add(
        self, op_type: str, *inputs: Value, output: str = "", **attributes: Any
    ) -> str:
        """Adds a node and returns the name of its output."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        output = output or self._name(op_type)
        node = self.onnx.helper.make_node(op_type, names, [output], **attributes)
        self.nodes.append(node)
        return output

    def constant(self, x: Any) -> str:
        """Adds an array as a constant and returns its name."""
        name = self._name("constant")
        # ascontiguousarray would turn a scalar into a vector.
        x = np.asarray(x, order="C")
        self.constants.append(self.onnx.numpy_helper.from_array(x, name))
        return name

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count}"

    def reshape(self, x: Value, shape: Sequence) -> Value:
        """The value in another shape; a symbolic batch size is inferred."""
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        if isinstance(x, str):
            return self.add("Reshape", x, integers(sizes))
        return x.reshape(sizes)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """The value with its axes in another order."""
        if list(order) == sorted(order):
            return x
        if isinstance(x, str):
            return self.add("Transpose", x, perm=list(order))
        return np.transpose(x, order)

    def sizes(self, shape: Sequence) -> Value:
        """A shape as a tensor; a symbolic batch size is taken from the images."""
        if all(isinstance(d, int) for d in shape):
            return integers(shape)
        if not self._batch:
            shape_of_images = self.add("Shape", self._images)
            self._batch = self.add("Gather", shape_of_images, integers([0]), axis=0)
        parts = [integers([d]) if isinstance(d, int) else self._batch for d in shape]
        return self.add("Concat", *parts, axis=0)


def integers(x: Any) -> np.ndarray:
    """An int64 array, the dtype of axes and sizes in ONNX."""
    return np.array(x, np.int64)


def _rsqrt(graph: Graph, e: Equation):
    return graph.add("Reciprocal", graph.add("Sqrt", *e.inputs))


def _square(graph: Graph, e: Equation):
    return graph.add("Mul", *e.inputs * 2)


def _erfc(graph: Graph, e: Equation):
    return graph.add("Sub", np.float32(1), graph.add("Erf", *e.inputs))


def _power(graph: Graph, e: Equation):
    return graph.add("Pow", *e.inputs, np.float32(e.params["y"]))


def _cast(graph: Graph, e: Equation):
    dtype = graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(e.params["new_dtype"]))
    return graph.add("Cast", *e.inputs, to=dtype)


def _reduce(op_type: str):
    def rule(graph: Graph, e: Equation):
        return graph.add(op_type, *e.inputs, integers(e.params["axes"]), keepdims=0)

    return rule


def _reshape(graph: Graph, e: Equation):
    return graph.reshape(e.inputs[0], e.shape)


def _transpose(graph: Graph, e: Equation):
    return graph.transpose(e.inputs[0], e.params["permutation"])


def _concatenate(graph: Graph, e: Equation):
    return graph.add("Concat", *e.inputs, axis=e.params["dimension"])


def _broadcast(graph: Graph, e: Equation):
    spread = [1] * len(e.shape)
    for axis, size in zip(e.params["broadcast_dimensions"], e.shapes[0], strict=True):
        spread[axis] = size
    x = e.inputs[0]
    if spread != list(e.shapes[0]):
        x = graph.reshape(x, spread)
    if spread == list(e.shape):
        return x
    return graph.add("Expand", x, graph.sizes(e.shape))


def _slice(graph: Graph, e: Equation):
    starts, limits = e.params["start_indices"], e.params["limit_indices"]
    strides = e.params["strides"] or [1] * len(starts)
    bounds = list(zip(starts, limits, strides, e.shapes[0], strict=True))
    cut = [i for i, (a, b, s, size) in enumerate(bounds) if (a, b, s) != (0, size, 1)]
    if not cut:
        return e.inputs[0]
    first, last, step = ([bounds[i][k] for i in cut] for k in range(3))
    return graph.add("Slice", *e.inputs, *map(integers, (first, last, cut, step)))


def _gather(graph: Graph, e: Equation):
    """x[:, i], as jax writes it for a symbolic batch size."""
    names, (x, index) = e.params["dimension_numbers"], e.inputs
    axes = tuple(names.start_index_map)
    if isinstance(index, str) or len(axes) != 1 or names.collapsed_slice_dims != axes:
        raise ValueError("ONNX: gather is supported for a fixed index of one axis.")
    return graph.add("Gather", x, integers(index).reshape(()), axis=axes[0])


def _select(graph: Graph, e: Equation):
    which, no, yes = e.inputs
    return graph.add("Where", which, yes, no)


def _barrier(graph: Graph, e: Equation):
    return e.inputs[0]


def _pad(graph: Graph, e: Equation):
    x, fill = e.inputs
    low, high, between = zip(*e.params["padding_config"], strict=True)
    if any(between):
        raise ValueError("ONNX: interior padding is not supported.")
    return graph.add("Pad", x, integers([*low, *high]), fill) if any(low + high) else x


def _window(pads) -> list[int]:
    return [low for low, _ in pads] + [high for _, high in pads]


def _convolve(graph: Graph, e: Equation):
    p, names = e.params, e.params["dimension_numbers"]
    if p["batch_group_count"] != 1 or set(p["lhs_dilation"]) != {1}:
        raise ValueError("ONNX: no input dilation or batch groups in a convolution.")
    x = graph.transpose(e.inputs[0], names.lhs_spec)
    kernel = graph.transpose(e.inputs[1], names.rhs_spec)
    y = graph.add(
        "Conv",
        x,
        kernel,
        group=p["feature_group_count"],
        strides=list(p["window_strides"]),
        dilations=list(p["rhs_dilation"]),
        pads=_window(p["padding"]),
    )
    return graph.transpose(y, np.argsort(names.out_spec).tolist())


def _pool(op_type: str):
    """Pooling over windows of H and W of [N, H, W, C]."""

    def rule(graph: Graph, e: Equation):
        size, strides = e.params["window_dimensions"], e.params["window_strides"]
        attributes: dict[str, Any] = {}
        if op_type == "AveragePool":
            attributes["count_include_pad"] = 1
        y = graph.add(
            op_type,
            graph.transpose(e.inputs[0], (0, 3, 1, 2)),
            kernel_shape=list(size[1:3]),
            strides=list(strides[1:3]),
            pads=_window(e.params["padding"][1:3]),
            **attributes,
        )
        y = graph.transpose(y, (0, 2, 3, 1))
        if op_type == "MaxPool":
            return y
        return graph.add("Mul", y, np.float32(np.prod(size)))  # mean to sum

    return rule


def _product(graph: Graph, e: Equation):
    (contract, contract_right), (batch, batch_right) = e.params["dimension_numbers"]
    shared, shared_right = {*contract, *batch}, {*contract_right, *batch_right}
    free = [i for i in range(len(e.shapes[0])) if i not in shared]
    free_right = [i for i in range(len(e.shapes[1])) if i not in shared_right]
    if len(contract) != 1 or len(free_right) != 1 or (batch and len(free) != 1):
        raise ValueError(f"ONNX: no rule for the product {e.params}.")
    left = graph.transpose(e.inputs[0], [*batch, *free, *contract])
    right = graph.transpose(e.inputs[1], [*batch_right, *contract_right, *free_right])
    return graph.add("MatMul", left, right)


RULES: dict[str, Callable[[Graph, Equation], Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolve,
    "convert_element_type": _cast,
    "dot_general": _product,
    "erfc": _erfc,
    "expand_dims": _reshape,
    "gather": _gather,
    "integer_pow": _power,
    "optimization_barrier": _barrier,
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "square": _square,
    "squeeze": _reshape,
    "transpose": _transpose,
}


def convert(graph: Graph, name: str, e: Equation) -> Value:
    """Adds the nodes of an equation and returns its value.

    Args:
      name: of the primitive.

    Raises:
      ValueError: there is no rule for the primitive.
    """
    if name in ONE_NODE:
        return graph.add(ONE_NODE[name], *e.inputs)
    if name not in RULES:
        raise ValueError(
            f"ONNX: no rule for jax's {name}. Use savedmodel or stablehlo, which need "
            "no rules."
        )
    return RULES[name](graph, e)
