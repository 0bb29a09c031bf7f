"""Composite gates: what networks compute between their linear maps.

Each could be written with simpler gates; as gates of their own they are stable for large values, take few
passes over memory, keep little for the backward pass, and a backend may give them one fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, normalize_axes
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.arithmetic import sqrt
from chainrule.ops.gate import describe, gate, lift, operands, to_dtype
from chainrule.ops.groups import Groups
from chainrule.ops.movement import broadcast_to, reshape
from chainrule.ops.reduction import sum
from chainrule.ops.shifting import batch_axes
from chainrule.ops.summation import total
from chainrule.ops.transcendental import exp
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["batch_norm", "layer_norm", "log_softmax", "softmax", "standardize"]

if TYPE_CHECKING:
    import numpy.typing as npt

    from chainrule.tensor import Axis


def _same(x: Aval, axis: tuple[int, ...]) -> Aval:
    return x


def less_maximum(x: Any, axis: Any) -> Any:
    """``x`` less its maximum along the axes: its exponential cannot overflow."""
    return x - np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)


def softmax_eval(x: Any, axis: tuple[int, ...]) -> Any:
    e = less_maximum(x, axis)
    np.exp(e, out=e)
    e /= total(e, axis, True)
    return e


def log_softmax_eval(x: Any, axis: tuple[int, ...]) -> Any:
    """`log_softmax` on arrays, as a new array unless there is nothing in it."""
    if not x.size:
        return x
    shifted = less_maximum(x, axis)
    shifted -= np.log(total(np.exp(shifted), axis, True))
    return shifted


def _softmax_axes(name: str, x: Any, axis: int | Sequence[int]) -> tuple[int, ...]:
    axes = normalize_axes(axis, len(x.shape), name)
    if not axes:
        raise AxisError(f"{name}: no axis along which to normalise", mend="name at least one axis")
    return axes


def _softmax_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.normal(size=(2, 3, 4)),), {"axis": axis}) for axis in (-1, 0, (0, 2))] + [
        Sample((rng.normal(size=5),)),
        Sample((rng.normal(size=(0, 3)),)),
        Sample((rng.normal(size=(2, 0)),)),
    ]


def _softmax_refusals() -> list[Refusal]:
    return [
        Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}),
        Refusal((np.ones(()),), AxisError, "out of range"),
        Refusal((np.ones(2),), AxisError, "no axis", {"axis": ()}),
        Refusal((np.ones(3) + 1j,), DtypeError, "takes"),
    ]


def softmax_pull(ct: Any, out: Any, axis: tuple[int, ...]) -> Any:
    """A cotangent (or tangent: the Jacobian is symmetric) carried through the softmax with this output."""
    p = ct * out
    return p - out * sum(p, axis=axis, keepdims=True)


def _softmax_push(t: Any, out: Any, axis: tuple[int, ...]) -> Any:
    return softmax_pull(t, out, axis)


def _softmax_loops(w: Nest, out: Array, x: Array, axis: tuple[int, ...]) -> None:
    with Groups(w, x, axis).each() as group:
        top, total = group.top(), w.variable(0, x.dtype)
        with group.elements() as place:
            part = w.let(w.k.exp(w.at(x, place) - top), "e")
            w.put(out, place, part)
            w.assign(total, total + part)
        with group.elements() as place:
            w.put(out, place, w.at(out, place) / total)


SOFTMAX = Primitive(
    name="softmax",
    inputs=("x",),
    aval=_same,
    eval=softmax_eval,
    vjp=(softmax_pull,),
    jvp=(_softmax_push,),
    batch=batch_axes,
    loops=_softmax_loops,
    kernel="softmax",
    onnx="Softmax",
    samples=_softmax_samples,
    refuses=_softmax_refusals,
)


@gate(SOFTMAX)
def softmax(x: Tensor | npt.ArrayLike, /, *, axis: int | Sequence[int] = -1) -> Tensor:
    """Probabilities proportional to the exponentials of ``x``.

    Parameters
    ----------
    x : Tensor or array_like
        Real scores of any shape with at least one axis; integers are converted to float32.
    axis : int or tuple of int
        Axes along which the probabilities sum to 1.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    AxisError
        If an axis is out of range, or none is given.
    DtypeError
        For complex values.

    Notes
    -----
    ``exp(x - max(x)) / sum(exp(x - max(x)))``, so that nothing overflows. The backward pass reads the
    output only: ``p * (ct - sum(ct * p))``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.softmax([1000.0, 1000.0])
    tensor([0.5, 0.5])
    """
    (scores,) = operands("softmax", "real floating", x)
    return bind(SOFTMAX, (scores,), {"axis": _softmax_axes("softmax", scores, axis)})


def _log_softmax_loops(w: Nest, out: Array, x: Array, axis: tuple[int, ...]) -> None:
    with Groups(w, x, axis).each() as group:
        top = group.top()
        log_total = w.let(w.k.log(group.sum(lambda e: w.k.exp(e - top))), "log_total")
        with group.elements() as place:
            w.put(out, place, w.at(x, place) - top - log_total)


LOG_SOFTMAX = Primitive(
    name="log_softmax",
    inputs=("x",),
    aval=_same,
    eval=log_softmax_eval,
    vjp=(lambda ct, out, axis: ct - exp(out) * sum(ct, axis=axis, keepdims=True),),
    jvp=(lambda t, out, axis: t - sum(t * exp(out), axis=axis, keepdims=True),),
    batch=batch_axes,
    loops=_log_softmax_loops,
    kernel="softmax",
    onnx="LogSoftmax",
    samples=_softmax_samples,
    refuses=_softmax_refusals,
)


@gate(LOG_SOFTMAX)
def log_softmax(x: Tensor | npt.ArrayLike, /, *, axis: int | Sequence[int] = -1) -> Tensor:
    """Logarithm of the softmax, exact where a probability underflows.

    Parameters
    ----------
    x : Tensor or array_like
        Real scores of any shape with at least one axis; integers are converted to float32.
    axis : int or tuple of int
        Axes along which the probabilities sum to 1.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    AxisError
        If an axis is out of range, or none is given.
    DtypeError
        For complex values.

    Notes
    -----
    ``x - logsumexp(x)``. The backward pass reads the output only: ``ct - exp(out) * sum(ct)``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.log_softmax([0.0, 1000.0])
    tensor([-1000.,     0.])
    """
    (scores,) = operands("log_softmax", "real floating", x)
    return bind(LOG_SOFTMAX, (scores,), {"axis": _softmax_axes("log_softmax", scores, axis)})


def _count(shape: Sequence[int], axis: tuple[int, ...]) -> int:
    count = 1
    for position in axis:
        count *= shape[position]
    return count


def _standardize_aval(x: Aval, axis: tuple[int, ...], epsilon: float) -> tuple[Aval, Aval, Aval]:
    if not _count(x.shape, axis):
        raise ShapeError(f"standardize: {x} has no elements along axes {axis} to take a mean of", mend="give at least one element along the axes")
    small = Aval(tuple(1 if position in axis else size for position, size in enumerate(x.shape)), x.dtype)
    return x, small, small


def _standardize_eval(x: Any, axis: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    weight = x.dtype.type(1 / _count(x.shape, axis))
    mean = total(x, axis, True) * weight
    y = x - mean
    var = total(y * y, axis, True) * weight
    y *= 1 / np.sqrt(var + x.dtype.type(epsilon))
    return y, mean, var


def _standardize_pull(ct: tuple[Any, Any, Any], out: tuple[Any, Any, Any], axis: tuple[int, ...], epsilon: float) -> Any:
    (ct_y, ct_mean, ct_var), (y, _, var) = ct, out
    weight = 1 / _count(y.shape, axis)
    deviation = sqrt(var + epsilon)
    # Per group: a share for every element (from the mean) and one in proportion to y (from the variance).
    even = None if ct_mean is None else ct_mean * weight
    scaled = None if ct_var is None else ct_var * deviation * (2 * weight)
    direct = None
    if ct_y is not None:
        direct = ct_y / deviation
        even = _plus(even, sum(direct, axis=axis, keepdims=True) * -weight)
        scaled = _plus(scaled, sum(direct * y, axis=axis, keepdims=True) * -weight)
    share = None if scaled is None else y * scaled
    whole = _plus(_plus(share, direct), even)
    return whole if whole is None or whole.shape == y.shape else broadcast_to(whole, y.shape)


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _standardize_push(t: Any, out: tuple[Any, Any, Any], axis: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    y, _, var = out
    weight = 1 / _count(y.shape, axis)
    deviation = sqrt(var + epsilon)
    mean = sum(t, axis=axis, keepdims=True) * weight
    along = sum(t * y, axis=axis, keepdims=True) * weight
    return (t - mean - y * along) / deviation, mean, along * deviation * 2


def _standardize_loops(w: Nest, outs: tuple[Array, ...], x: Array, axis: tuple[int, ...], epsilon: float) -> None:
    out, mean, var = outs
    with Groups(w, x, axis).each() as group:
        weight = 1.0 / group.count
        middle = w.let(group.sum() * weight, "middle")
        spread = w.let(group.sum(lambda e: (e - middle) * (e - middle)) * weight, "spread")
        w.put(mean, group.out, middle)
        w.put(var, group.out, spread)
        scale = w.let(1.0 / w.k.sqrt(spread + epsilon), "scale")
        with group.elements() as place:
            w.put(out, place, (w.at(x, place) - middle) * scale)


STANDARDIZE = Primitive(
    name="standardize",
    inputs=("x",),
    aval=_standardize_aval,
    eval=_standardize_eval,
    vjp=_standardize_pull,
    jvp=_standardize_push,
    batch=batch_axes,
    outputs=True,
    loops=_standardize_loops,
    kernel="standardize",
    samples=lambda rng: (
        [Sample((rng.normal(size=(3, 2, 4)),), {"axis": axis, "epsilon": 0.1}) for axis in (-1, 0, (0, 1), (0, -1))]
        + [Sample((rng.normal(size=(0, 3)),), {"axis": 1}), Sample((rng.normal(size=4),))]
    ),
    refuses=lambda: [
        Refusal((np.ones((0, 3)),), ShapeError, "no elements", {"axis": 0}),
        Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}),
        Refusal((np.ones(2),), ArgumentError, "epsilon", {"epsilon": -1.0}),
    ],
)


@gate(STANDARDIZE)
def standardize(x: Tensor | npt.ArrayLike, /, *, axis: Axis = -1, epsilon: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Shift and scale to mean 0 and variance 1 along axes.

    Parameters
    ----------
    x : Tensor or array_like
        Real values; integers are converted to float32.
    axis : int or tuple of int, optional
        Axes over which mean and variance are taken; all of them if None.
    epsilon : float
        Added to the variance under the root.

    Returns
    -------
    y, mean, var : Tensor
        ``y`` of the shape of ``x``; the mean and the (biased) variance with size 1 along the axes.

    Raises
    ------
    ShapeError
        If there is no element along the axes.
    AxisError
        If an axis is out of range.
    ArgumentError
        For a negative epsilon.

    Notes
    -----
    ``y = (x - mean) / sqrt(var + epsilon)``. The backward pass reads outputs only; see Ioffe & Szegedy,
    "Batch Normalization" (2015), section 3, for the derivative.

    Examples
    --------
    >>> import chainrule as cr
    >>> y, mean, var = cr.standardize([1.0, 3.0], epsilon=0.0)
    >>> y, mean, var
    (tensor([-1.,  1.]), tensor([2.]), tensor([1.]))
    """
    (values,) = operands("standardize", "real floating", x)
    if epsilon < 0:
        raise ArgumentError(f"standardize: epsilon={epsilon} is negative", mend="give a small positive number")
    return bind(STANDARDIZE, (values,), {"axis": normalize_axes(axis, len(values.shape), "standardize"), "epsilon": float(epsilon)})


def _affine(name: str, y: Any, weight: Any, bias: Any) -> Any:
    for label, operand in (("weight", weight), ("bias", bias)):
        if operand is None:
            continue
        operand = to_dtype(lift(operand), y.dtype)
        shape = operand.shape
        if len(shape) > len(y.shape) or any(size not in (1, full) for size, full in zip(reversed(shape), reversed(y.shape))):
            raise ShapeError(
                f"{name}: {label} {describe(operand)} does not broadcast to {describe(y)}", mend="give it the sizes of the last axes, or 1"
            )
        y = y * operand if label == "weight" else y + operand
    return y


@public
def layer_norm(
    x: Tensor | npt.ArrayLike,
    weight: Tensor | npt.ArrayLike | None = None,
    bias: Tensor | npt.ArrayLike | None = None,
    /,
    *,
    axis: Axis = -1,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise every example over its own features, then scale and shift.

    Parameters
    ----------
    x : Tensor or array_like
        Real values.
    weight, bias : Tensor or array_like, optional
        Scale and shift; shapes that broadcast to that of ``x``, such as the size of the last axis.
    axis : int or tuple of int, optional
        Feature axes.
    epsilon : float
        Added to the variance under the root.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    ShapeError
        If weight or bias do not broadcast to ``x``.

    Notes
    -----
    ``(x - mean) / sqrt(var + epsilon) * weight + bias`` (Ba, Kiros & Hinton, "Layer Normalization", 2016).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.layer_norm([[1.0, 3.0], [10.0, 30.0]], [2.0, 2.0], epsilon=0.0)
    tensor([[-2.,  2.],
            [-2.,  2.]])
    """
    y, _, _ = standardize(x, axis=axis, epsilon=epsilon)
    return _affine("layer_norm", y, weight, bias)


@public
def batch_norm(
    x: Tensor | npt.ArrayLike,
    weight: Tensor | npt.ArrayLike | None = None,
    bias: Tensor | npt.ArrayLike | None = None,
    /,
    *,
    axis: Axis = None,
    epsilon: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every channel over the batch, as in training, then scale and shift.

    Parameters
    ----------
    x : Tensor or array_like
        Real values; the channels are the last axis unless ``axis`` says otherwise.
    weight, bias : Tensor or array_like, optional
        Scale and shift; shapes that broadcast to that of ``x``, such as the number of channels.
    axis : int or tuple of int, optional
        Axes over which statistics are taken; all but the last if not given.
    epsilon : float
        Added to the variance under the root.

    Returns
    -------
    y : Tensor
        Of the shape of ``x``.
    mean, var : Tensor
        The batch's mean and biased variance, without the axes; gradients flow through them too.

    Raises
    ------
    ShapeError
        If there is no element along the axes, or weight or bias do not broadcast to ``x``.

    Notes
    -----
    ``(x - mean) / sqrt(var + epsilon) * weight + bias`` (Ioffe & Szegedy, "Batch Normalization", 2015).

    Examples
    --------
    >>> import chainrule as cr
    >>> y, mean, var = cr.batch_norm([[1.0, 0.0], [3.0, 4.0]], epsilon=0.0)
    >>> y, mean
    (tensor([[-1., -1.],
            [ 1.,  1.]]), tensor([2., 2.]))
    """
    values = lift(x)
    shape = values.shape
    rank = len(shape)
    axes = normalize_axes(tuple(range(rank - 1)) if axis is None else axis, rank, "batch_norm")
    y, mean, var = standardize(values, axis=axes, epsilon=epsilon)
    kept = tuple(size for position, size in enumerate(shape) if position not in axes)
    return _affine("batch_norm", y, weight, bias), reshape(mean, kept), reshape(var, kept)
