"""Multiplications, additions and memory traffic of one operation of a program."""

import math
import re

from simclr_jax.plan import hlo
from simclr_jax.plan.jaxpr_flops import products

# Multiplications and additions.


def flops(program: hlo.Program, op: hlo.Op, types: dict[str, str]) -> int:
    """Multiplications and additions of an operation, without padding and dilation.

    Args:
      program: the program.
      op: the operation; those that it calls are included.
      types: of the operations of its computation, by name.
    """
    if op.kind == "convolution":
        return _convolution(op, types)
    if op.kind == "dot":
        return _dot(op, types)
    inner = program.computations.get(op.called(), [])
    inner_types = {x.name: x.type for x in inner}
    return sum(flops(program, x, inner_types) for x in inner)


def _dot(op: hlo.Op, types: dict[str, str]) -> int:
    left = hlo.arrays(types[op.operands[0]])[0].shape
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
    contracted = [int(axis) for axis in match[1].split(",") if axis] if match else []
    rows = math.prod(hlo.arrays(op.type)[0].shape)
    return 2 * rows * math.prod(left[axis] for axis in contracted)


def _convolution(op: hlo.Op, types: dict[str, str]) -> int:
    """Without multiplications by padding or by zeros of a dilated input."""
    image, kernel = (hlo.arrays(types[name])[0].shape for name in op.operands[:2])
    out = hlo.arrays(op.type)[0].shape
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest)
    if not match:
        raise ValueError(f"the convolution {op.name} has no dim_labels")
    of_image, of_kernel, of_out = match.groups()
    flops = 2 * out[of_out.index("b")] * out[of_out.index("f")]
    flops *= kernel[of_kernel.index("i")]
    axes = sum(label.isdigit() for label in of_out)
    for axis, window in enumerate(_windows(op.rest, axes)):
        pixels = image[of_image.index(str(axis))]
        outputs = out[of_out.index(str(axis))]
        flops *= products(pixels=pixels, outputs=outputs, **window)
    return flops


def _windows(rest: str, axes: int) -> list[dict[str, int]]:
    """The window of a convolution, axis by axis, as arguments of `products`."""
    match = re.search(r"window=\{([^}]*)\}", rest)
    window = match[1] if match else ""

    def values(key, default):
        match = re.search(rf"\b{key}=([\d_x\-]+)", window)
        texts = match[1].split("x") if match else [default] * axes
        return [int(text.split("_")[0]) for text in texts]  # pad is LOW_HIGH

    columns = {
        "kernel": values("size", "1"),
        "stride": values("stride", "1"),
        "pad": values("pad", "0_0"),
        "lhs_dilation": values("lhs_dilate", "1"),
        "rhs_dilation": values("rhs_dilate", "1"),
    }
    return [{key: column[i] for key, column in columns.items()} for i in range(axes)]


# Bytes to and from main memory.


def traffic(program: hlo.Program, op: hlo.Op, types: dict[str, str]) -> int:
    """Bytes read from and written to main memory; arguments as in `flops`."""
    if op.kind == "dynamic-slice":
        return 2 * hlo.hbm_size(op.type)
    if op.kind == "dynamic-update-slice":
        return 0  # in place; the update was counted where it was computed
    fusion = op.called()
    written = max(hlo.hbm_size(op.type) - _in_place(program, fusion), 0)
    read = 0
    for i, name in enumerate(op.operands):
        if name not in op.operands[:i]:
            whole = hlo.hbm_size(types.get(name, ""))
            read += _read(program, fusion, i, whole) if whole > 2**20 else whole
    return written + read


def _in_place(program: hlo.Program, name: str) -> int:
    """Bytes that a fusion does not write, as it updates a slice in place."""
    ops = program.computations.get(name, [])
    types = {op.name: op.type for op in ops}
    saved = 0
    for op in ops:
        if op.kind == "dynamic-update-slice":
            update = hlo.size(types.get(op.operands[1], ""))
            saved += max(hlo.size(op.type) - update, 0)
        elif op.kind == "fusion":
            saved += _in_place(program, op.called())
    return saved


def _read(program: hlo.Program, name: str, number: int, whole: int) -> int:
    """Bytes of an operand that a fusion reads: all, or only slices.

    Args:
      program: the program.
      name: of the fused computation.
      number: index of the operand.
      whole: bytes of the operand.
    """
    ops = program.computations.get(name, [])
    aliases = [
        op.name for op in ops if op.kind == "parameter" and op.operands == [str(number)]
    ]
    if not aliases:
        return whole
    total = 0
    for alias in aliases:  # the loop appends bitcasts of the operand
        for op in ops:
            if op.kind == "parameter" or alias not in op.operands:
                continue
            if op.kind == "dynamic-slice" and op.operands[0] == alias:
                total += hlo.size(op.type)
            elif op.kind == "bitcast":
                aliases.append(op.name)
            elif op.kind == "dynamic-update-slice" and op.operands[0] == alias:
                continue  # written in place
            elif op.kind == "fusion":
                total += sum(
                    _read(program, op.called(), i, whole)
                    for i, operand in enumerate(op.operands)
                    if operand == alias
                )
            else:
                return whole
    return min(total, whole)
