"""Reductions with a formula of their own: the logarithm of a sum of exponentials, and norms of vectors.

Both are built so that neither they nor their derivatives overflow, or divide by zero, where the answer is finite.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, reduced
from chainrule.core.errors import DtypeError, ShapeError
from chainrule.core.nest import Nest
from chainrule.core.primitive import Primitive, Refusal, Sample, functions
from chainrule.ops.gate import gate, operands
from chainrule.ops.groups import Groups, reduced_loops
from chainrule.ops.reduction import (
    Axes,
    add,
    maximum,
    minimum,
    reducer,
    reduction_aval,
    reduction_samples,
    refusals,
    shares,
    spread,
    sum,
    weigh,
    weighted_sum,
)
from chainrule.ops.shifting import batch_axes
from chainrule.ops.summation import total
from chainrule.tensor import Axis, Tensor

# vector_norm is public as linalg.vector_norm, where the array API has it.
__all__ = ["logsumexp"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _logsumexp_eval(x: Any, axis: Axes, keepdims: bool) -> Any:
    with np.errstate(over="ignore", divide="ignore"):
        top = maximum(x, axis, None, None, True, -np.inf)
        top = np.where(np.isfinite(top), top, x.dtype.type(0))
        out = np.log(add(np.exp(x - top), axis, None, None, True)) + top
    return out if keepdims else out.reshape(reduced(x.shape, axis, False))


def _softmax(x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    # Where everything is -inf, so is the output; weights are 0 there, not NaN. Dividing by the sum makes up for the rounding
    # of a large output, which is a mere shift here and so needs no derivative.
    shift = functions.stop_gradient(functions.where(out == -math.inf, 0.0, out))
    e = functions.exp(x - spread(shift, axis, keepdims, x.shape))
    norm = sum(e, axis=axis, keepdims=True)
    return e / functions.where(norm == 0, 1.0, norm)


def _logsumexp_of(w: Nest, group: Groups) -> Any:
    top = group.top()
    shift = w.let(w.k.select(w.k.isfinite(top), top, 0.0), "shift")
    return w.k.log(group.sum(lambda e: w.k.exp(e - shift))) + shift


LOGSUMEXP = Primitive(
    name="logsumexp",
    inputs=("x",),
    aval=reduction_aval("logsumexp", "f"),
    eval=_logsumexp_eval,
    vjp=(lambda ct, x, out, axis, keepdims: weigh(ct, _softmax(x, out, axis, keepdims), axis, keepdims),),
    jvp=(lambda t, x, out, axis, keepdims: weighted_sum(t, _softmax(x, out, axis, keepdims), axis, keepdims),),
    batch=batch_axes,
    loops=reduced_loops(_logsumexp_of),
    kernel="reduce",
    onnx="ReduceLogSumExp",
    samples=lambda rng: [*reduction_samples(rng), Sample((np.array([0.5, 1000.0, 1001.0]),))],
    refuses=lambda: [*refusals(), Refusal((np.array([1j]),), DtypeError, "takes")],
)


_logsumexp = reducer(LOGSUMEXP)


@gate(LOGSUMEXP)
def logsumexp(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials along axes, without overflow.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers; integers are converted to float32.
    axis : int or tuple of int, optional
        Axes to reduce; all of them if not given.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Without the reduced axes, or with size 1 there; -inf for no elements or only -inf, whose gradient is 0.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.
    DtypeError
        For complex values.

    Notes
    -----
    ``m + log(sum(exp(x - m)))`` with ``m = max(x)``; the gradient is the softmax of ``x``.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1000.0, 1000.0], requires_grad=True)
    >>> cr.logsumexp(x).backward(); x.grad
    tensor([0.5, 0.5])
    """
    return _logsumexp(operands("logsumexp", "real floating", x)[0], axis, keepdims)


def _norm_eval(x: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    if ord == 2 and x.dtype.kind == "f":
        return np.sqrt(total(x * x, axis, keepdims))
    size = np.abs(x)
    if math.isinf(ord):
        return maximum(size, axis, None, None, keepdims, 0) if ord > 0 else minimum(size, axis, None, None, keepdims)
    if ord == 0:
        return add(size != 0, axis, size.dtype, None, keepdims)
    if ord == 1:
        return add(size, axis, None, None, keepdims)
    if ord == 2:
        return np.sqrt(add(size * size, axis, None, None, keepdims))
    with np.errstate(divide="ignore"):
        return add(size**ord, axis, None, None, keepdims) ** (1 / ord)


def _norm_weights(x: Any, out: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    if ord == 0:
        return functions.zeros_like(x)
    if ord == 1:
        return functions.sign(x)
    if math.isinf(ord):
        return functions.sign(x) * shares(functions.abs(x), out, axis, keepdims)
    # At a norm of 0 all elements are 0, and so is by convention the derivative.
    size = spread(functions.where(out == 0, 1.0, out), axis, keepdims, x.shape)
    if ord == 2:
        return x / size
    zero = x == 0
    return functions.where(zero, 0.0, functions.sign(x) * (functions.where(zero, 1.0, functions.abs(x)) / size) ** (ord - 1))


def _norm_aval(x: Aval, axis: Axes, keepdims: bool, ord: float) -> Aval:
    out = reduction_aval("vector_norm", "fc", empty=ord != -math.inf)(x, axis, keepdims)
    return Aval(out.shape, np.finfo(out.dtype).dtype)


def _norm_vjp(ct: Any, x: Any, out: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    return weigh(ct, _norm_weights(x, out, axis, keepdims, ord), axis, keepdims)


def _norm_jvp(t: Any, x: Any, out: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    return weighted_sum(t, _norm_weights(x, out, axis, keepdims, ord), axis, keepdims)


def _norm_of(w: Nest, group: Groups, ord: float) -> Any:
    k = w.k
    if math.isinf(ord):
        return group.fold(0, lambda t, e: k.maximum(t, k.abs(e))) if ord > 0 else group.fold(math.inf, lambda t, e: k.minimum(t, k.abs(e)))
    if ord == 0:
        return group.sum(lambda e: k.select(e != 0, 1.0, 0.0))
    if ord == 1:
        return group.sum(k.abs)
    if ord == 2:
        return k.sqrt(group.sum(lambda e: e * e))
    return k.pow(group.sum(lambda e: k.pow(k.abs(e), ord)), 1 / ord)


VECTOR_NORM = Primitive(
    name="vector_norm",
    inputs=("x",),
    aval=_norm_aval,
    eval=_norm_eval,
    vjp=(_norm_vjp,),
    jvp=(_norm_jvp,),
    batch=batch_axes,
    loops=reduced_loops(_norm_of),
    kernel="reduce",
    onnx="ReduceL2",
    samples=lambda rng: [*reduction_samples(rng), *(reduction_samples(rng, ord=ord)[1] for ord in (0, 1, 3, 0.5, -1.5, math.inf, -math.inf))],
    refuses=lambda: [
        *refusals(),
        Refusal((np.ones(2),), DtypeError, "ord", {"ord": "fro"}),
        Refusal((np.ones(0),), ShapeError, "no elements", {"ord": -math.inf}),
    ],
)


_vector_norm = reducer(VECTOR_NORM)


@gate(VECTOR_NORM)
def vector_norm(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """Norm of all elements along axes, taken as one vector.

    Parameters
    ----------
    x : Tensor or array_like
        Numbers; integers are converted to float32.
    axis : int or tuple of int, optional
        Axes over which the vector runs; all of them if not given.
    keepdims : bool
        Keep reduced axes with size 1.
    ord : float
        Which norm: 2 the Euclidean length, 1 the sum of sizes, inf the largest and -inf the smallest size, 0 the number of
        elements that are not 0, any other p the p-th root of the sum of p-th powers.

    Returns
    -------
    Tensor
        Real, without the reduced axes, or with size 1 there.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.
    DtypeError
        If ``ord`` is not a number.
    ShapeError
        For the smallest size of no elements.

    Notes
    -----
    The derivative at 0, where there is none, is 0 by convention; elements that tie for inf or -inf share it.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([3.0, -4.0], requires_grad=True)
    >>> cr.linalg.vector_norm(x).backward(); x.grad
    tensor([ 0.6, -0.8])
    """
    try:
        power = float(ord)
    except (TypeError, ValueError):
        raise DtypeError(f"vector_norm: ord is a number, not {ord!r}", mend="use linalg.matrix_norm for norms of matrices") from None
    return _vector_norm(operands("vector_norm", "floating", x)[0], axis, keepdims, ord=power)
