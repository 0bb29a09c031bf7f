"""Elementwise gates of sign, size and integer parts.

Most are constant between their jumps: their derivative is the number 0 there, and by convention at
the jumps too.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from chainrule.core.primitive import Rule
from chainrule.ops.elementwise import binary, unary

__all__ = ["abs", "ceil", "copysign", "floor", "floor_divide", "nextafter", "remainder", "round", "sign", "signbit", "trunc"]


def _whole(ufunc: np.ufunc) -> Rule:
    """The ufunc for values that can have a fraction; integers stay as they are."""

    def evaluate(x: Any) -> Any:
        return x if x.dtype.kind in "iu" else ufunc(x)

    return evaluate


def _whole_source(name: str) -> Rule:
    return lambda x, out: None if x.dtype.kind in "iu" else f"{name}({x}{out})"


sign = unary(
    "sign",
    "Sign, elementwise: -1, 0 or 1; of a complex value x / abs(x).",
    kinds="numeric",
    partial=0,
    scalar=lambda k, x: k.sign(x),
    onnx="Sign",
    notes="The derivative is 0.",
    example=("[-2.0, 0.0, 3.0]", "tensor([-1.,  0.,  1.])"),
)
abs = unary(
    "abs",
    "Absolute value, elementwise.",
    kinds="numeric",
    result="real",
    eval=operator.abs,
    partial=lambda x: sign(x),
    scalar=lambda k, x: k.abs(x),
    onnx="Abs",
    notes="The derivative is the sign of x, 0 at 0.",
    example=("[-2.0, 0.0, 3.0]", "tensor([2., 0., 3.])"),
    gradient="tensor([-1.,  0.,  1.])",
)
floor = unary(
    "floor",
    "The largest integer that is not greater, elementwise, in the dtype of the input.",
    kinds="real",
    eval=_whole(np.floor),
    numpy=_whole_source("np.floor"),
    partial=0,
    scalar=lambda k, x: k.floor(x),
    onnx="Floor",
    notes="The derivative is 0.",
    example=("[-1.5, 2.5]", "tensor([-2.,  2.])"),
)
ceil = unary(
    "ceil",
    "The smallest integer that is not less, elementwise, in the dtype of the input.",
    kinds="real",
    eval=_whole(np.ceil),
    numpy=_whole_source("np.ceil"),
    partial=0,
    scalar=lambda k, x: k.ceil(x),
    onnx="Ceil",
    notes="The derivative is 0.",
    example=("[-1.5, 2.5]", "tensor([-1.,  3.])"),
)
trunc = unary(
    "trunc",
    "The integer part, elementwise: rounded towards 0, in the dtype of the input.",
    kinds="real",
    eval=_whole(np.trunc),
    numpy=_whole_source("np.trunc"),
    partial=0,
    scalar=lambda k, x: k.trunc(x),
    notes="The derivative is 0.",
    example=("[-1.5, 2.5]", "tensor([-1.,  2.])"),
)
round = unary(
    "round",
    "The nearest integer, halves to the even one, elementwise, in the dtype of the input.",
    kinds="numeric",
    eval=_whole(np.rint),
    numpy=_whole_source("np.rint"),
    partial=0,
    scalar=lambda k, x: k.round(x),
    onnx="Round",
    notes="The derivative is 0. Parts of complex values are rounded one by one.",
    example=("[-1.5, 0.4, 2.5]", "tensor([-2.,  0.,  2.])"),
)


def _floor_divide(x1: Any, x2: Any) -> Any:
    if x1.dtype.kind != "f":
        return x1 // x2
    with np.errstate(invalid="ignore"):
        # NumPy follows Python where an operand is infinite, the standard rounds the quotient there too.
        endless = np.isinf(x1) | np.isinf(x2)
        quotient = x1 // x2
        return np.where(endless, np.floor(x1 / x2), quotient)[()] if endless.any() else quotient


floor_divide = binary(
    "floor_divide",
    "Quotient rounded down, elementwise: x1 // x2.",
    kinds="real",
    eval=_floor_divide,
    operator="//",
    partials=(0, 0),
    scalar=lambda k, x1, x2: k.floor_divide(x1, x2),
    domains=((-3.0, 3.0), (1.0, 2.5)),
    notes="The derivative is 0.",
    example=("[7, -7]", "2", "tensor([ 3, -4])"),
)
remainder = binary(
    "remainder",
    "Remainder with the sign of x2, elementwise: x1 % x2 = x1 - x2 * (x1 // x2).",
    kinds="real",
    eval=operator.mod,
    operator="%",
    partials=(1, lambda x1, x2: -floor_divide(x1, x2)),
    scalar=lambda k, x1, x2: k.remainder(x1, x2),
    onnx="Mod",
    domains=((-3.0, 3.0), (1.0, 2.5)),
    notes="The derivatives are 1 and -(x1 // x2).",
    example=("[7.0, -7.0]", "[2.0, 2.0]", "tensor([1., 1.])"),
    gradients=("tensor([1., 1.])", "tensor([-3.,  4.])"),
)
copysign = binary(
    "copysign",
    "The size of x1 with the sign of x2, elementwise.",
    kinds="real floating",
    partials=(lambda x1, out: sign(x1) * sign(out), 0),
    scalar=lambda k, x1, x2: k.copysign(x1, x2),
    notes="The derivatives are 1 or -1 as the sign is kept or changed (0 where x1 is 0), and 0.",
    example=("[1.0, 2.0]", "[-3.0, 4.0]", "tensor([-1.,  2.])"),
    gradients=("tensor([-1.,  1.])", "tensor([0., 0.])"),
)
nextafter = binary(
    "nextafter",
    "The floating-point number next to x1 towards x2, elementwise.",
    kinds="real floating",
    scalar=lambda k, x1, x2: k.nextafter(x1, x2),
    notes="No gradient flows.",
    example=("1.0", "[0.0, 2.0]", "tensor([0.99999994, 1.0000001 ])"),
)
signbit = unary(
    "signbit",
    "Whether the sign bit is set, elementwise: true for negative values, -0 and negative NaN.",
    kinds="real floating",
    result="boolean",
    scalar=lambda k, x: k.signbit(x),
    example=("[-1.0, -0.0, 0.0]", "tensor([ True,  True, False])"),
)
