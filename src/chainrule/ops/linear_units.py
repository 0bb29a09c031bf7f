"""Linear units: activations that let large values through and bend the line around 0.

Those with a kink and a parameter are gates; the smooth ones are written in gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.errors import ArgumentError, DtypeError
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.activation import ZERO, real_operand, rectified, sigmoid, softplus
from chainrule.ops.error_function import erf
from chainrule.ops.gate import batch_elementwise, elementwise_aval, gate, operands
from chainrule.ops.selection import where
from chainrule.ops.transcendental import tanh
from chainrule.tape import bind
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["elu", "gelu", "leaky_relu", "mish", "selu", "silu"]


def _samples(*kwargs: dict[str, float]) -> Callable[[np.random.Generator], list[Sample]]:
    return lambda rng: [Sample((rng.normal(size=shape),), chosen) for chosen in kwargs for shape in ((2, 3), (), (0, 2))]


def _refusals() -> list[Refusal]:
    return [Refusal((np.array([1j]),), DtypeError, "takes"), Refusal((np.array(["a"]),), DtypeError, "numbers")]


def _elu(x: Any, alpha: float) -> Any:
    below = np.expm1(np.minimum(x, ZERO.get(x.dtype, 0.0)))
    return alpha * below + rectified(x)


ELU = Primitive(
    name="elu",
    inputs=("x",),
    aval=elementwise_aval("elu", "real floating"),
    eval=_elu,
    partials=(lambda x, out, alpha: where(x > 0, 1.0, out + alpha),),
    batch=batch_elementwise,
    scalar=lambda k, x, alpha: k.select(x > 0.0, x, alpha * k.expm1(k.minimum(x, 0.0))),
    onnx="Elu",
    samples=_samples({}, {"alpha": 0.5}),
    refuses=_refusals,
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
    return _SELU_SCALE * elu(real_operand("selu", x), _SELU_ALPHA)


LEAKY_RELU = Primitive(
    name="leaky_relu",
    inputs=("x",),
    aval=elementwise_aval("leaky_relu", "real floating"),
    eval=lambda x, negative_slope: rectified(x) - negative_slope * rectified(-x),
    vjp=(lambda ct, x, negative_slope: where(x > 0, ct, negative_slope * ct),),
    jvp=(lambda t, x, negative_slope: where(x > 0, t, negative_slope * t),),
    batch=batch_elementwise,
    scalar=lambda k, x, negative_slope: k.select(x > 0.0, x, negative_slope * x),
    onnx="LeakyRelu",
    samples=_samples({}, {"negative_slope": 0.3}),
    refuses=_refusals,
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
    The derivative at 0 is ``negative_slope``. The default is PyTorch's; Keras's function has 0.2.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.leaky_relu([-1.0, 0.0, 2.0])
    tensor([-0.01,  0.  ,  2.  ])
    """
    return bind(LEAKY_RELU, operands("leaky_relu", "real floating", x), {"negative_slope": float(negative_slope)})


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
    value = real_operand("gelu", x)
    if approximate == "none":
        return (0.5 * value) * (1.0 + erf(math.sqrt(0.5) * value))
    if approximate == "tanh":
        return (0.5 * value) * (1.0 + tanh(math.sqrt(2.0 / math.pi) * value * (1.0 + 0.044715 * (value * value))))
    raise ArgumentError(f"gelu: there is no approximation {approximate!r}", mend='use "none" or "tanh"')


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
    value = real_operand("silu", x)
    return value * sigmoid(value)


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
    value = real_operand("mish", x)
    return value * tanh(softplus(value))
