"""Elementwise exponentials, logarithms, trigonometric and hyperbolic functions, with their inverses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chainrule.core.primitive import functions
from chainrule.ops.arithmetic import divide, hypot, reciprocal, rsqrt
from chainrule.ops.elementwise import binary, unary

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cos",
    "cosh",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "sin",
    "sinh",
    "tan",
    "tanh",
]

_LN2 = math.log(2.0)
_LN10 = math.log(10.0)

exp = unary(
    "exp",
    "Exponential, elementwise: e**x.",
    partial="out",
    scalar=lambda k, x: k.exp(x),
    onnx="Exp",
    notes="The derivative is the function itself, so that backward keeps only the output.",
    example=("[0.0, 1.0]", "tensor([1.      , 2.718282])"),
    gradient="tensor([1.      , 2.718282])",
)
exp2 = unary(
    "exp2",
    "Power of two, elementwise: 2**x.",
    partial=lambda out: _LN2 * out,
    scalar=lambda k, x: k.exp2(x),
    notes="The derivative is log(2) 2**x.",
    example=("[0.0, 1.0]", "tensor([1., 2.])"),
    gradient="tensor([0.6931472, 1.3862944])",
)


def _expm1_source(x: Any, out: str) -> str | None:
    return None if x.dtype.kind == "c" else f"np.expm1({x}{out})"


def _expm1(x: Any) -> Any:
    if x.dtype.kind != "c":
        return np.expm1(x)
    with np.errstate(invalid="ignore"):
        a, b = np.real(x), np.imag(x)
        real = np.expm1(a) * np.cos(b) - 2.0 * np.square(np.sin(0.5 * b))
        imag = np.exp(a) * np.sin(b)
    # The limits, where the formula has an undefined angle.
    lost = ~np.isfinite(b) & np.isinf(a)
    real = np.where(b == 0, np.expm1(a), np.where(lost, np.expm1(a), real))
    imag = np.where(b == 0, b, np.where(lost, np.where(a < 0, 0.0, np.nan), imag))
    whole = np.empty(x.shape, x.dtype)
    whole.real, whole.imag = real, imag
    return whole[()]


expm1 = unary(
    "expm1",
    "e**x - 1, elementwise, exact also near 0.",
    eval=_expm1,
    numpy=_expm1_source,
    partial=lambda out: out + 1.0,
    scalar=lambda k, x: k.expm1(x),
    notes="The derivative is e**x.",
    example=("[0.0, 1.0]", "tensor([0.       , 1.7182819])"),
    gradient="tensor([1.       , 2.7182817])",
)
log = unary(
    "log",
    "Natural logarithm, elementwise; NaN for negative values.",
    partial=lambda x: 1.0 / x,
    scalar=lambda k, x: k.log(x),
    onnx="Log",
    domain=(0.5, 3.0),
    notes="The derivative is 1 / x.",
    example=("[1.0, 2.0]", "tensor([0.       , 0.6931472])"),
    gradient="tensor([1. , 0.5])",
)
log2 = unary(
    "log2",
    "Logarithm to the base 2, elementwise.",
    partial=lambda x: 1.0 / (_LN2 * x),
    scalar=lambda k, x: k.log2(x),
    domain=(0.5, 3.0),
    notes="The derivative is 1 / (x log(2)).",
    example=("[1.0, 2.0]", "tensor([0., 1.])"),
    gradient="tensor([1.442695 , 0.7213475])",
)
log10 = unary(
    "log10",
    "Logarithm to the base 10, elementwise.",
    partial=lambda x: 1.0 / (_LN10 * x),
    scalar=lambda k, x: k.log10(x),
    domain=(0.5, 3.0),
    notes="The derivative is 1 / (x log(10)).",
    example=("[1.0, 10.0]", "tensor([0., 1.])"),
    gradient="tensor([0.43429446, 0.04342945])",
)
log1p = unary(
    "log1p",
    "log(1 + x), elementwise, exact also near 0.",
    partial=lambda x: 1.0 / (1.0 + x),
    scalar=lambda k, x: k.log1p(x),
    domain=(-0.5, 3.0),
    notes="The derivative is 1 / (1 + x).",
    example=("[0.0, 1.0]", "tensor([0.       , 0.6931472])"),
    gradient="tensor([1. , 0.5])",
)


def _logaddexp(x1: Any, x2: Any) -> Any:
    with np.errstate(invalid="ignore"):
        total = np.log1p(np.exp(-np.abs(x1 - x2))) + np.maximum(x1, x2)
        whole = np.add.reduce(total, axis=None)
    # Infinities of one sign have no difference; they are their own result.
    return total if whole == whole else np.where(np.isinf(x1) & (x1 == x2), x1, total)[()]


def _weight(x1: Any, x2: Any) -> Any:
    """exp(x1) / (exp(x1) + exp(x2)); a half where both are the same infinity."""
    endless = functions.logical_and(functions.isinf(x1), x1 == x2)
    return functions.sigmoid(functions.where(endless, 0.0, x1) - functions.where(endless, 0.0, x2))


logaddexp = binary(
    "logaddexp",
    "log(exp(x1) + exp(x2)), elementwise, without overflow.",
    kinds="real floating",
    eval=_logaddexp,
    partials=(_weight, lambda x1, x2: _weight(x2, x1)),
    scalar=lambda k, x1, x2: k.maximum(x1, x2) + k.log1p(k.exp(-k.select(x1 == x2, 0.0, k.abs(x1 - x2)))),
    notes="The derivatives are sigmoid(x1 - x2) and sigmoid(x2 - x1).",
    example=("[0.0, 1000.0]", "[0.0, 1000.0]", "tensor([6.9314718e-01, 1.0006932e+03])"),
    gradients=("tensor([0.5, 0.5])", "tensor([0.5, 0.5])"),
)
sin = unary(
    "sin",
    "Sine of angles in radians, elementwise.",
    partial=lambda x: cos(x),
    scalar=lambda k, x: k.sin(x),
    onnx="Sin",
    notes="The derivative is cos(x).",
    example=("[0.0, 1.0]", "tensor([0.      , 0.841471])"),
    gradient="tensor([1.       , 0.5403023])",
)
cos = unary(
    "cos",
    "Cosine of angles in radians, elementwise.",
    partial=lambda x: -sin(x),
    scalar=lambda k, x: k.cos(x),
    onnx="Cos",
    notes="The derivative is -sin(x).",
    example=("[0.0, 1.0]", "tensor([1.       , 0.5403023])"),
    gradient="tensor([-0.      , -0.841471])",
)
tan = unary(
    "tan",
    "Tangent of angles in radians, elementwise.",
    partial=lambda out: 1.0 + out * out,
    scalar=lambda k, x: k.tan(x),
    onnx="Tan",
    domain=(-1.2, 1.2),
    notes="The derivative is 1 + tan(x)**2.",
    example=("[0.0, 1.0]", "tensor([0.       , 1.5574077])"),
    gradient="tensor([1.       , 3.4255188])",
)
asin = unary(
    "asin",
    "Angle with the given sine, elementwise, in [-pi/2, pi/2]; NaN outside of [-1, 1].",
    eval=np.arcsin,
    partial=lambda x: rsqrt((1.0 - x) * (1.0 + x)),
    scalar=lambda k, x: k.asin(x),
    onnx="Asin",
    domain=(-0.8, 0.8),
    notes="The derivative is 1 / sqrt(1 - x**2).",
    example=("[0.0, 0.5]", "tensor([0.       , 0.5235988])"),
    gradient="tensor([1.       , 1.1547005])",
)
acos = unary(
    "acos",
    "Angle with the given cosine, elementwise, in [0, pi]; NaN outside of [-1, 1].",
    eval=np.arccos,
    partial=lambda x: -rsqrt((1.0 - x) * (1.0 + x)),
    scalar=lambda k, x: k.acos(x),
    onnx="Acos",
    domain=(-0.8, 0.8),
    notes="The derivative is -1 / sqrt(1 - x**2).",
    example=("[0.0, 0.5]", "tensor([1.5707964, 1.0471976])"),
    gradient="tensor([-1.       , -1.1547005])",
)
atan = unary(
    "atan",
    "Angle with the given tangent, elementwise, in [-pi/2, pi/2].",
    eval=np.arctan,
    partial=lambda x: reciprocal(1.0 + x * x),
    scalar=lambda k, x: k.atan(x),
    onnx="Atan",
    notes="The derivative is 1 / (1 + x**2).",
    example=("[0.0, 1.0]", "tensor([0.       , 0.7853982])"),
    gradient="tensor([1. , 0.5])",
)


def _turn(side: Any, x1: Any, x2: Any) -> Any:
    """The quotient side / (x1**2 + x2**2), without overflow of the squares; 0 at the origin."""
    length = hypot(x1, x2)
    length = functions.where(length == 0, 1.0, length)
    return divide(divide(side, length), length)


atan2 = binary(
    "atan2",
    "Angle of the point (x2, x1), elementwise, in [-pi, pi]: the y-coordinate comes first.",
    kinds="real floating",
    eval=np.arctan2,
    partials=(lambda x1, x2: _turn(x2, x1, x2), lambda x1, x2: -_turn(x1, x1, x2)),
    scalar=lambda k, x1, x2: k.atan2(x1, x2),
    domains=((0.5, 3.0), (-3.0, 3.0)),
    notes="The derivatives are x2 / (x1**2 + x2**2) and -x1 / (x1**2 + x2**2), taken as 0 at the origin.",
    example=("[0.0, 1.0]", "[1.0, 1.0]", "tensor([0.       , 0.7853981])"),
    gradients=("tensor([1. , 0.5])", "tensor([-0. , -0.5])"),
)
sinh = unary(
    "sinh",
    "Hyperbolic sine, elementwise.",
    partial=lambda x: cosh(x),
    scalar=lambda k, x: k.sinh(x),
    onnx="Sinh",
    notes="The derivative is cosh(x).",
    example=("[0.0, 1.0]", "tensor([0.       , 1.1752012])"),
    gradient="tensor([1.       , 1.5430807])",
)
cosh = unary(
    "cosh",
    "Hyperbolic cosine, elementwise.",
    partial=lambda x: sinh(x),
    scalar=lambda k, x: k.cosh(x),
    onnx="Cosh",
    notes="The derivative is sinh(x).",
    example=("[0.0, 1.0]", "tensor([1.       , 1.5430807])"),
    gradient="tensor([0.       , 1.1752012])",
)
tanh = unary(
    "tanh",
    "Hyperbolic tangent, elementwise.",
    partial=lambda out: 1.0 - out * out,
    scalar=lambda k, x: k.tanh(x),
    onnx="Tanh",
    notes="The derivative is 1 - tanh(x)**2, so that backward keeps only the output.",
    example=("[0.0, 1.0]", "tensor([0.       , 0.7615942])"),
    gradient="tensor([1.        , 0.41997433])",
)
asinh = unary(
    "asinh",
    "Inverse hyperbolic sine, elementwise.",
    eval=np.arcsinh,
    partial=lambda x: reciprocal(hypot(x, 1.0)),
    scalar=lambda k, x: k.asinh(x),
    onnx="Asinh",
    notes="The derivative is 1 / sqrt(x**2 + 1).",
    example=("[0.0, 1.0]", "tensor([0.       , 0.8813736])"),
    gradient="tensor([1.        , 0.70710677])",
)
acosh = unary(
    "acosh",
    "Inverse hyperbolic cosine, elementwise; NaN below 1.",
    eval=np.arccosh,
    partial=lambda x: rsqrt(x - 1.0) * rsqrt(x + 1.0),
    scalar=lambda k, x: k.acosh(x),
    onnx="Acosh",
    domain=(1.5, 3.0),
    notes="The derivative is 1 / sqrt(x**2 - 1).",
    example=("[1.0, 2.0]", "tensor([0.      , 1.316958])"),
)
atanh = unary(
    "atanh",
    "Inverse hyperbolic tangent, elementwise; NaN outside of [-1, 1].",
    eval=np.arctanh,
    partial=lambda x: reciprocal((1.0 - x) * (1.0 + x)),
    scalar=lambda k, x: k.atanh(x),
    onnx="Atanh",
    domain=(-0.8, 0.8),
    notes="The derivative is 1 / (1 - x**2).",
    example=("[0.0, 0.5]", "tensor([0.        , 0.54930615])"),
    gradient="tensor([1.       , 1.3333334])",
)
