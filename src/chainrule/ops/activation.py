"""Activations: the elementwise functions between the layers of networks.

Those whose value or derivative would overflow or cancel when composed are gates; the others are
written in gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.errors import ArgumentError, DtypeError
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.arithmetic import negative
from chainrule.ops.elementwise import unary
from chainrule.ops.error_function import erf
from chainrule.ops.gate import batch_elementwise, elementwise_aval, gate, operands
from chainrule.ops.rounding import abs
from chainrule.ops.selection import clip, where
from chainrule.ops.transcendental import tanh
from chainrule.tape import bind
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
]

# From this size on NumPy's clip, which is vectorised for scalar bounds, beats its maximum and minimum, which are not.
_MANY = 4096


def _in_each(number: float) -> dict[Any, Any]:
    """The number as NumPy takes it quickest, by dtype."""
    return {np.dtype(name): np.array(number, name) for name in ("float32", "float64")}


_ZERO, _ONE, _LIMIT = _in_each(0.0), _in_each(1.0), _in_each(40.0)


def _relu(x: Any) -> Any:
    if not x.shape:
        return x.dtype.type(0) if x <= 0 else x
    return np.clip(x, 0.0, np.inf) if x.size > _MANY and x.dtype.kind == "f" else np.maximum(x, _ZERO.get(x.dtype, 0))


def _parametric_samples(*kwargs: dict[str, float]) -> Callable[[np.random.Generator], list[Sample]]:
    return lambda rng: [Sample((rng.normal(size=shape),), chosen) for chosen in kwargs for shape in ((2, 3), (), (0, 2))]


def _parametric_refusals() -> list[Refusal]:
    return [Refusal((np.array([1j]),), DtypeError, "takes"), Refusal((np.array(["a"]),), DtypeError, "numbers")]


relu = unary(
    "relu",
    "Rectified linear unit, elementwise: max(x, 0).",
    kinds="real",
    eval=_relu,
    vjp=(lambda ct, out: where(out > 0, ct, 0.0),),
    jvp=(lambda t, out: where(out > 0, t, 0.0),),
    scalar=lambda k, x: k.maximum(x, 0),
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


sigmoid = unary(
    "sigmoid",
    "Logistic function, elementwise: 1 / (1 + exp(-x)), without overflow.",
    kinds="real floating",
    eval=_sigmoid,
    partial=lambda out: out * (1.0 - out),
    scalar=lambda k, x: 1.0 / (1.0 + k.exp(-x)),
    onnx="Sigmoid",
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
    rest += _relu(x)
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
    return negative(softplus(negative(_real("log_sigmoid", x))))


@public
def silu(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Sigmoid linear unit (swish), elementwise: x sigmoid(x).

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
    Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning" (2018).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.silu([-1.0, 0.0, 1.0])
    tensor([-0.2689414,  0.       ,  0.7310586])
    """
    value = _real("silu", x)
    return value * sigmoid(value)


@public
def gelu(x: Tensor | npt.ArrayLike, /, *, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit, elementwise: x times the normal distribution's probability below x.

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.
    approximate : "none" or "tanh"
        "tanh" is faster and off by up to 5e-4.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    ArgumentError
        If ``approximate`` is neither.
    DtypeError
        For complex values.

    Notes
    -----
    x (1 + erf(x / sqrt(2))) / 2, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2: Hendrycks and Gimpel,
    "Gaussian error linear units" (2016).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.gelu([-1.0, 0.0, 1.0])
    tensor([-0.15865526,  0.        ,  0.8413447 ])
    >>> cr.gelu([-1.0, 0.0, 1.0], approximate="tanh")
    tensor([-0.158808,  0.      ,  0.841192])
    """
    value = _real("gelu", x)
    if approximate == "none":
        return (0.5 * value) * (1.0 + erf(math.sqrt(0.5) * value))
    if approximate == "tanh":
        return (0.5 * value) * (1.0 + tanh(math.sqrt(2.0 / math.pi) * value * (1.0 + 0.044715 * (value * value))))
    raise ArgumentError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')


def _elu(x: Any, alpha: float) -> Any:
    below = np.expm1(np.minimum(x, _ZERO.get(x.dtype, 0.0)))
    return alpha * below + _relu(x)


ELU = Primitive(
    name="elu",
    inputs=("x",),
    aval=elementwise_aval("elu", "real floating"),
    eval=_elu,
    partials=(lambda x, out, alpha: where(x > 0, 1.0, out + alpha),),
    batch=batch_elementwise,
    scalar=lambda k, x, alpha: k.select(x > 0.0, x, alpha * k.expm1(k.minimum(x, 0.0))),
    onnx="Elu",
    samples=_parametric_samples({}, {"alpha": 0.5}),
    refuses=_parametric_refusals,
)


@gate(ELU)
def elu(x: Tensor | npt.ArrayLike, /, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit, elementwise: x above 0, alpha (exp(x) - 1) below.

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.
    alpha : float
        Minus the limit for x towards minus infinity.

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
    The derivative at 0 is alpha. Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning
    by exponential linear units" (2015).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.elu([-1.0, 0.0, 2.0])
    tensor([-0.63212055,  0.        ,  2.        ])
    """
    return bind(ELU, operands("elu", "real floating", x), {"alpha": float(alpha)})


_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


@public
def selu(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Scaled exponential linear unit, elementwise, under which means 0 and variances 1 are a fixed point.

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
    1.0507009873554805 elu(x, 1.6732632423543772): Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing
    neural networks" (2017).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.selu([-1.0, 0.0, 2.0])
    tensor([-1.1113307,  0.       ,  2.101402 ])
    """
    return _SELU_SCALE * elu(_real("selu", x), _SELU_ALPHA)


LEAKY_RELU = Primitive(
    name="leaky_relu",
    inputs=("x",),
    aval=elementwise_aval("leaky_relu", "real floating"),
    eval=lambda x, negative_slope: _relu(x) - negative_slope * _relu(-x),
    vjp=(lambda ct, x, negative_slope: where(x > 0, ct, negative_slope * ct),),
    jvp=(lambda t, x, negative_slope: where(x > 0, t, negative_slope * t),),
    batch=batch_elementwise,
    scalar=lambda k, x, negative_slope: k.select(x > 0.0, x, negative_slope * x),
    onnx="LeakyRelu",
    samples=_parametric_samples({}, {"negative_slope": 0.3}),
    refuses=_parametric_refusals,
)


@gate(LEAKY_RELU)
def leaky_relu(x: Tensor | npt.ArrayLike, /, negative_slope: float = 0.01) -> Tensor:
    """Rectifier that lets a part of negative values through, elementwise: x above 0, negative_slope x below.

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.
    negative_slope : float

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
    The derivative at 0 is ``negative_slope``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.leaky_relu([-1.0, 0.0, 2.0])
    tensor([-0.01,  0.  ,  2.  ])
    """
    return bind(LEAKY_RELU, operands("leaky_relu", "real floating", x), {"negative_slope": float(negative_slope)})


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

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.hard_sigmoid([-4.0, 0.0, 1.5])
    tensor([0.  , 0.5 , 0.75])
    """
    value = _real("hard_sigmoid", x)
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
    return clip(_real("hard_tanh", x), -1.0, 1.0)


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
    value = _real("softsign", x)
    return value / (1.0 + abs(value))


@public
def mish(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Smooth rectifier that lets small negative values through, elementwise: x tanh(softplus(x)).

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
    Misra, "Mish: a self regularized non-monotonic activation function" (2019).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.mish([-1.0, 0.0, 1.0])
    tensor([-0.3034014,  0.       ,  0.8650984])
    """
    value = _real("mish", x)
    return value * tanh(softplus(value))


def _real(name: str, x: Any) -> Any:
    """``x`` in floating point."""
    (value,) = operands(name, "real floating", x)
    return value
