"""Activations: the rectifier, the sigmoid, and their smooth, hard and cheap relatives.

Those whose value or derivative would overflow or cancel when composed are gates; the others are
written in gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.primitive import public
from chainrule.ops.arithmetic import negative
from chainrule.ops.elementwise import unary
from chainrule.ops.gate import operands
from chainrule.ops.rounding import abs
from chainrule.ops.selection import clip, where
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["hard_sigmoid", "hard_tanh", "log_sigmoid", "relu", "sigmoid", "softplus", "softsign"]

# From this size on NumPy's clip, which is vectorised for scalar bounds, beats its maximum and minimum, which are not.
_MANY = 4096


def in_each(number: float) -> dict[Any, Any]:
    """The number as NumPy takes it quickest, by dtype."""
    return {np.dtype(name): np.array(number, name) for name in ("float32", "float64")}


ZERO, _ONE, _LIMIT = in_each(0.0), in_each(1.0), in_each(40.0)


def rectified(x: Any) -> Any:
    """max(0, x) on arrays; of two zeros, x."""
    if not x.shape:
        return x.dtype.type(0) if x < 0 else x
    return np.clip(x, 0.0, np.inf) if x.size > _MANY and x.dtype.kind == "f" else np.maximum(ZERO.get(x.dtype, 0), x)


def _rectified_source(x: Any, out: str) -> str:
    if not x.shape:
        return f"{x.number(0)} if {x} < {x.number(0)} else {x}"
    if x.size > _MANY and x.dtype.kind == "f":
        return f"np.clip({x}, {x.number(0.0)}, {x.number(np.inf)}{out})"
    return f"np.maximum({x.number(0)}, {x}{out})"


relu = unary(
    "relu",
    "Rectified linear unit, elementwise: max(x, 0).",
    kinds="real",
    eval=rectified,
    vjp=(lambda ct, out: where(out > 0, ct, 0.0),),
    jvp=(lambda t, out: where(out > 0, t, 0.0),),
    scalar=lambda k, x: k.maximum(x, 0),
    numpy=_rectified_source,
    onnx="Relu",
    notes="The derivative is 1 where x > 0 and 0 elsewhere, at 0 too.",
    example=("[-1.0, 0.0, 2.0]", "tensor([0., 0., 2.])"),
    gradient="tensor([0., 0., 1.])",
)


def _sigmoid(x: Any) -> Any:
    if not x.shape:
        power = np.exp(-x if x > 0 else x)
        return 1.0 / (1.0 + power) if x > 0 else power / (1.0 + power)
    # From 40 on the result is 1 in double precision too; exp cannot overflow, and may well underflow to 0.
    if x.size <= _MANY:
        power = np.exp(np.minimum(x, _LIMIT.get(x.dtype, 10.0)))
        return power / (power + _ONE.get(x.dtype, 1.0))
    power = np.clip(x, -np.inf, 40.0)
    np.exp(power, out=power)
    return np.divide(power, power + 1.0, out=power)


def _sigmoid_source(x: Any) -> str | None:
    one, power = x.number(1.0), x.spare("power")
    if not x.shape:
        return f"{one} / ({one} + np.exp(-{x})) if {x} > 0 else ({power} := np.exp({x})) / ({one} + {power})"
    if x.size > _MANY or x.dtype not in _LIMIT:
        return None
    return f"({power} := np.exp(np.minimum({x}, {x.number(40.0)}))) / ({power} + {one})"


sigmoid = unary(
    "sigmoid",
    "Logistic function, elementwise: 1 / (1 + exp(-x)), without overflow.",
    kinds="real floating",
    eval=_sigmoid,
    partial=lambda out: (1.0 - out) * out,
    scalar=lambda k, x: k.sigmoid(x),
    numpy=_sigmoid_source,
    onnx="Sigmoid",
    sign="σ",
    notes="The derivative is s (1 - s) for s = sigmoid(x), so that backward keeps only the output.",
    example=("[-1000.0, 0.0, 1.0]", "tensor([0.       , 0.5      , 0.7310586])"),
    gradient="tensor([0.        , 0.25      , 0.19661193])",
)


def _softplus(x: Any) -> Any:
    rest = np.abs(x)
    if not x.shape:
        return np.log1p(np.exp(-rest)) + np.maximum(x, 0)
    np.negative(rest, out=rest)
    np.log1p(np.exp(rest, out=rest), out=rest)
    rest += rectified(x)
    return rest


softplus = unary(
    "softplus",
    "Smooth rectifier, elementwise: log(1 + exp(x)), without overflow.",
    kinds="real floating",
    eval=_softplus,
    partial=lambda x: sigmoid(x),
    scalar=lambda k, x: k.maximum(x, 0.0) + k.log1p(k.exp(-k.abs(x))),
    onnx="Softplus",
    notes="Computed as max(x, 0) + log1p(exp(-abs(x))). The derivative is sigmoid(x).",
    example=("[-1000.0, 0.0, 1000.0]", "tensor([0.000000e+00, 6.931472e-01, 1.000000e+03])"),
    gradient="tensor([0. , 0.5, 1. ])",
)


@public
def log_sigmoid(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Logarithm of the logistic function, elementwise: -softplus(-x).

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    DtypeError
        For complex values.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.log_sigmoid([-1000.0, 0.0])
    tensor([-1.000000e+03, -6.931472e-01])
    """
    return negative(softplus(negative(real_operand("log_sigmoid", x))))


@public
def hard_sigmoid(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Piecewise linear stand-in for the sigmoid, elementwise: x / 6 + 1 / 2 between 0 and 1.

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    DtypeError
        For complex values.

    Notes
    -----
    ``clip(x / 6 + 1 / 2, 0, 1)``, as in PyTorch and Keras 3; Keras 1 and 2 had ``clip(0.2 x + 0.5, 0, 1)``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.hard_sigmoid([-4.0, 0.0, 1.5])
    tensor([0.  , 0.5 , 0.75])
    """
    value = real_operand("hard_sigmoid", x)
    return clip(value / 6.0 + 0.5, 0.0, 1.0)


@public
def hard_tanh(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Piecewise linear stand-in for the hyperbolic tangent, elementwise: x between -1 and 1.

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    DtypeError
        For complex values.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.hard_tanh([-4.0, 0.0, 0.5])
    tensor([-1. ,  0. ,  0.5])
    """
    return clip(real_operand("hard_tanh", x), -1.0, 1.0)


@public
def softsign(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Sign that grows slowly, elementwise: x / (1 + abs(x)).

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    DtypeError
        For complex values.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.softsign([-1.0, 0.0, 3.0])
    tensor([-0.5 ,  0.  ,  0.75])
    """
    value = real_operand("softsign", x)
    return value / (1.0 + abs(value))


def real_operand(name: str, x: Any) -> Any:
    """``x`` in floating point."""
    (value,) = operands(name, "real floating", x)
    return value
