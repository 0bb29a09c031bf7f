"""Elementwise arithmetic: sums, products, quotients, powers and roots.

Every gate here states its local derivative; the chain rule does the rest.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import promote
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions, public, register
from chainrule.ops.elementwise import binary, binary_function, unary
from chainrule.ops.gate import KINDS, batch_elementwise, describe, elementwise_aval, gate, lift, mend_of, to_dtype
from chainrule.ops.short import short
from chainrule.tape import bind
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["add", "divide", "hypot", "multiply", "negative", "positive", "pow", "reciprocal", "rsqrt", "sqrt", "square", "subtract"]

add = binary(
    "add",
    "Sum, elementwise: x1 + x2.",
    eval=operator.add,
    operator="+",
    partials=(1, 1),
    scalar=lambda k, x1, x2: x1 + x2,
    onnx="Add",
    notes="The derivative with respect to either input is 1: addition copies the cotangent to both.",
    example=("[1.0, 2.0]", "[3.0, 4.0]", "tensor([4., 6.])"),
    gradients=("tensor([1., 1.])", "tensor([1., 1.])"),
)
subtract = binary(
    "subtract",
    "Difference, elementwise: x1 - x2.",
    eval=operator.sub,
    operator="-",
    partials=(1, -1),
    scalar=lambda k, x1, x2: x1 - x2,
    onnx="Sub",
    example=("[1.0, 2.0]", "[3.0, 5.0]", "tensor([-2., -3.])"),
    gradients=("tensor([1., 1.])", "tensor([-1., -1.])"),
)
multiply = binary(
    "multiply",
    "Product, elementwise: x1 * x2.",
    eval=operator.mul,
    operator="*",
    partials=("x2", "x1"),
    scalar=lambda k, x1, x2: x1 * x2,
    onnx="Mul",
    notes="The derivative with respect to one input is the other input.",
    example=("[1.0, 2.0]", "[3.0, 4.0]", "tensor([3., 8.])"),
    gradients=("tensor([3., 4.])", "tensor([1., 2.])"),
)
divide = binary(
    "divide",
    "Quotient, elementwise: x1 / x2.",
    kinds="floating",
    eval=operator.truediv,
    operator="/",
    partials=(lambda x2: 1.0 / x2, lambda x2, out: -out / x2),
    scalar=lambda k, x1, x2: x1 / x2,
    onnx="Div",
    domains=((-3.0, 3.0), (0.5, 3.0)),
    notes="The derivatives are 1 / x2 and -x1 / x2**2.",
    example=("[1.0, 3.0]", "[2.0, 4.0]", "tensor([0.5 , 0.75])"),
    gradients=("tensor([0.5 , 0.25])", "tensor([-0.25  , -0.1875])"),
)
negative = unary(
    "negative",
    "The value with the other sign, elementwise: -x.",
    kinds="numeric",
    eval=operator.neg,
    operator="-",
    partial=-1,
    scalar=lambda k, x: -x,
    onnx="Neg",
    example=("[1.0, -2.0]", "tensor([-1.,  2.])"),
    gradient="tensor([-1., -1.])",
)
positive = unary(
    "positive",
    "The values as they are: +x.",
    kinds="numeric",
    eval=lambda x: x,
    partial=1,
    scalar=lambda k, x: x,
    loops=lambda w, out, x: w.same(out, x),
    onnx="Identity",
    example=("[1.0, -2.0]", "tensor([ 1., -2.])"),
)
square = unary(
    "square",
    "Square, elementwise: x * x.",
    kinds="numeric",
    partial=lambda x: 2.0 * x,
    scalar=lambda k, x: x * x,
    numpy=lambda x, out: f"np.square({x}{out})" if x.shape else f"{x} * {x}",
    notes="The derivative is 2 x.",
    example=("[1.0, -2.0]", "tensor([1., 4.])"),
    gradient="tensor([ 2., -4.])",
)
sqrt = unary(
    "sqrt",
    "Square root, elementwise; NaN for negative values.",
    partial=lambda out: 0.5 / out,
    scalar=lambda k, x: k.sqrt(x),
    onnx="Sqrt",
    domain=(0.5, 3.0),
    notes="The derivative is 1 / (2 sqrt(x)), infinite at 0.",
    example=("[1.0, 4.0]", "tensor([1., 2.])"),
    gradient="tensor([0.5 , 0.25])",
)
rsqrt = unary(
    "rsqrt",
    "Reciprocal of the square root, elementwise: 1 / sqrt(x).",
    eval=lambda x: 1.0 / np.sqrt(x),
    partial=lambda out: -0.5 * out * (out * out),
    scalar=lambda k, x: 1.0 / k.sqrt(x),
    numpy=lambda x: f"{x.number(1.0)} / np.sqrt({x})",
    domain=(0.5, 3.0),
    notes="The derivative is -1 / (2 x sqrt(x)).",
    example=("[1.0, 4.0]", "tensor([1. , 0.5])"),
    gradient="tensor([-0.5   , -0.0625])",
)
reciprocal = unary(
    "reciprocal",
    "Reciprocal, elementwise: 1 / x.",
    eval=lambda x: 1.0 / x,
    partial=lambda out: -(out * out),
    scalar=lambda k, x: 1.0 / x,
    numpy=lambda x, out: f"np.true_divide({x.number(1.0)}, {x}{out})" if out else f"{x.number(1.0)} / {x}",
    onnx="Reciprocal",
    domain=(0.5, 3.0),
    notes="The derivative is -1 / x**2.",
    example=("[1.0, 4.0]", "tensor([1.  , 0.25])"),
    gradient="tensor([-1.    , -0.0625])",
)
# At the origin both the numerator and the divisor's stand-in leave a derivative of 0.
hypot = binary(
    "hypot",
    "Length of the hypotenuse, elementwise: sqrt(x1**2 + x2**2), without overflow in the squares.",
    kinds="real floating",
    partials=(lambda x1, out: x1 / functions.where(out == 0, 1.0, out), lambda x2, out: x2 / functions.where(out == 0, 1.0, out)),
    scalar=lambda k, x1, x2: k.hypot(x1, x2),
    domains=((0.5, 3.0), (-3.0, 3.0)),
    notes="The derivatives are x1 / out and x2 / out, taken as 0 at the origin.",
    example=("[3.0, 5.0]", "[4.0, 12.0]", "tensor([ 5., 13.])"),
    gradients=("tensor([0.6      , 0.3846154])", "tensor([0.8      , 0.9230769])"),
)


def _masked_product(x1: Any, x2: Any) -> Any:
    product = x1 * x2
    # Only a product of 0 with infinity or NaN needs care, and it leaves a NaN in the sum: the usual case costs one more pass.
    total = np.add.reduce(product, axis=None) if product.shape else product
    return product if total == total else np.where(x1 == 0, product.dtype.type(0), product)[()]


def _factor(x1: Any, x2: Any) -> Any:
    """What x1 is multiplied by: nothing, where it is 0 and a product would be undefined."""
    return functions.where((x1 == 0) & functions.logical_not(functions.isfinite(x2)), 0.0, x2)


MASKED_MULTIPLY = Primitive(
    name="masked_multiply",
    inputs=("x1", "x2"),
    aval=elementwise_aval("masked_multiply", "floating"),
    eval=_masked_product,
    batch=batch_elementwise,
    vjp=(
        lambda ct, x1, x2: functions.masked_multiply(ct, _factor(x1, x2)),
        lambda ct, x1: functions.where(x1 == 0, 0.0, functions.masked_multiply(ct, x1)),
    ),
    jvp=(lambda t, x1, x2: t * _factor(x1, x2), lambda t, x1: functions.masked_multiply(x1, t)),
    masks=True,
    scalar=lambda k, x1, x2: k.select(x1 == 0, 0.0, x1 * x2),
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), rng.normal(size=(3,)))),
        Sample((rng.normal(), rng.normal())),
        Sample((rng.normal(size=(0,)), rng.normal())),
    ],
    refuses=lambda: [Refusal((np.ones(2), np.ones(3)), ShapeError, "broadcast"), Refusal((np.array(["a"]), 1.0), DtypeError, "numbers")],
)
"""x1 * x2, where an x1 of 0 means "not taken" and wins over any x2: the chain rule behind `where`."""
functions.masked_multiply = binary_function(register(MASKED_MULTIPLY), "floating", tracked=True)

_POWERS: dict[complex, Rule] = {
    -2: lambda x: 1 / (x * x),
    -1: lambda x: 1 / x,
    -0.5: lambda x: 1 / np.sqrt(x),
    0.5: np.sqrt,
    1: lambda x: x,
    2: np.square,
    3: lambda x: x * x * x,
    4: lambda x: np.square(x * x),
}
"""Exponents for which multiplying is much faster than NumPy's general power, and as exact."""


def _power(x: Any, exponent: complex) -> Any:
    quick = _POWERS.get(exponent)
    return x**exponent if quick is None else quick(x)


def _power_slope(x: Any, exponent: complex) -> Any:
    return functions.zeros_like(x) if exponent == 0 else exponent * pow_constant(x, exponent - 1)


_POWER_SOURCES: dict[complex, str] = {
    -2: "{one} / ({x} * {x})",
    -1: "{one} / {x}",
    -0.5: "{one} / np.sqrt({x})",
    0.5: "np.sqrt({x}{out})",
    2: "np.square({x}{out})",
    3: "{x} * {x} * {x}",
    4: "np.square({x} * {x}{out})",
}
"""The same as source; the blank for ``out`` is where it may be."""


def _power_source(x: Any, exponent: complex, out: str) -> str | None:
    text = _POWER_SOURCES.get(exponent)
    if text is None or x.dtype.kind != "f":
        return None if exponent == 1 or not np.isfinite(exponent) else f"np.power({x}, {exponent!r}{out})" if out else f"{x} ** {exponent!r}"
    if exponent == 2 and not x.shape:
        return f"{x} * {x}"
    return None if out and "{out}" not in text else text.format(x=x, one=x.number(1.0), out=out)


_POWER_SCALARS: dict[complex, Rule] = {
    -1: lambda k, x: 1.0 / x,
    -0.5: lambda k, x: 1.0 / k.sqrt(x),
    0.5: lambda k, x: k.sqrt(x),
    1: lambda k, x: x,
    2: lambda k, x: x * x,
    3: lambda k, x: x * x * x,
}


def _power_scalar(k: Any, x: Any, exponent: complex) -> Any:
    rule = _POWER_SCALARS.get(exponent)
    return k.pow(x, exponent) if rule is None else rule(k, x)


POW_CONSTANT = Primitive(
    name="pow_constant",
    inputs=("x",),
    aval=elementwise_aval("pow", "numeric"),
    eval=_power,
    batch=batch_elementwise,
    partials=(_power_slope,),
    scalar=_power_scalar,
    numpy=_power_source,
    onnx="Pow",
    sign="x^{exponent}",
    samples=lambda rng: (
        [Sample((rng.uniform(0.5, 2.0, (2, 3)), exponent)) for exponent in (-2, -1.5, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 5.5)]
        + [Sample((rng.uniform(-2.0, -0.5, (3,)), 3)), Sample((rng.uniform(0.5, 2.0), 2.0)), Sample((np.ones((0, 2)), 2)), Sample((np.arange(3), 2))]
    ),
    refuses=lambda: [Refusal((np.arange(3), -1), ArgumentError, "negative"), Refusal((np.array(["a"]), 2), DtypeError, "numbers")],
)


@gate(POW_CONSTANT)
def pow_constant(x: Any, exponent: Any) -> Any:
    """``x`` to the power of a Python number, which is part of the gate."""
    x = lift(x)
    if x.dtype.kind == "f" and exponent.__class__ is not complex:
        return _pow_constant(x, {"exponent": exponent})
    dtype = promote(x.dtype, exponent)
    if dtype.kind not in KINDS["numeric"]:
        raise DtypeError(f"pow takes numeric values, not {describe(x)}, {describe(exponent)}", mend=mend_of(KINDS["numeric"], dtype))
    if dtype.kind in "iu" and exponent.real < 0:
        says = f"pow: integers, {describe(x)}, to the negative integer power {exponent}"
        raise ArgumentError(says, mend="convert the base with astype, or use a float exponent")
    return bind(POW_CONSTANT, (to_dtype(x, dtype),), {"exponent": exponent})


_pow_constant = short(POW_CONSTANT)

# d x1**x2 / d x1 is x2 x1**(x2 - 1), but 0 * infinity where both are 0; the power's own log is 0 * infinity at x1 = 0.
_pow = binary(
    "pow",
    "Power, elementwise.",
    eval=operator.pow,
    operator="**",
    partials=(
        lambda x1, x2: x2 * functions.pow(functions.where((x1 == 0) & (x2 == 0), 1.0, x1), x2 - 1.0),
        lambda x1, out: functions.where(x1 == 0, 0.0, out * functions.log(functions.where(x1 == 0, 1.0, x1))),
    ),
    scalar=lambda k, x1, x2: k.pow(x1, x2),
    onnx="Pow",
    domains=((0.5, 2.0), (-2.0, 2.0)),
    example=("2.0", "[2.0, 3.0]", "tensor([4., 8.])"),
)


@public
def pow(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
    """Power, elementwise: x1 ** x2.

    Parameters
    ----------
    x1, x2 : Tensor or array_like
        Numeric values of shapes that broadcast; Python scalars take the other's dtype. A Python scalar
        as the exponent is the fastest: small powers multiply, and an exponent of 0.5 is `sqrt`.

    Returns
    -------
    Tensor
        Of the broadcast shape and the promoted dtype.

    Raises
    ------
    DtypeError
        For values of another kind.
    ArgumentError
        For integers to a negative integer power.
    ShapeError
        If the shapes do not broadcast.

    Notes
    -----
    The derivatives are x2 x1**(x2 - 1) and x1**x2 log(x1). Where x1 is 0, the second is taken as 0, and
    with an exponent of 0 so is the first.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = x**2; y
    tensor([1., 4., 9.], from=pow_constant)
    >>> y.sum().backward(); x.grad
    tensor([2., 4., 6.])
    >>> cr.pow(2.0, [2.0, 3.0])
    tensor([4., 8.])
    """
    if x2.__class__ is int or x2.__class__ is float or x2.__class__ is complex:
        return pow_constant(x1, x2)
    return _pow(x1, x2)
