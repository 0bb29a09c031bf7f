"""Elementwise gates: arithmetic, exponentials."""

from __future__ import annotations

import operator

from chainrule.ops.gate import binary, unary
from chainrule.core.primitive import functions as f

__all__ = ["add", "exp", "multiply"]

add = binary("add", "Sum, elementwise: x1 + x2.", eval=operator.add, partials=(1, 1), scalar=lambda k, x1, x2: x1 + x2, onnx="Add", example=("2.0, [1.0, 2.0]", "tensor([3., 4.])"))
multiply = binary(
    "multiply",
    "Product, elementwise: x1 * x2.",
    eval=operator.mul,
    partials=("x2", "x1"),
    scalar=lambda k, x1, x2: x1 * x2,
    onnx="Mul",
    example=("2.0, [1.0, 2.0]", "tensor([2., 4.])"),
)
exp = unary("exp", "Exponential, elementwise: e**x.", partial="out", scalar=lambda k, x: k.exp(x), onnx="Exp", example=("[0.0, 1.0]", "tensor([1.       , 2.7182817])"))
