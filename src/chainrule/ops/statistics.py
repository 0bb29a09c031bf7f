"""Mean, variance and standard deviation, with NumPy's care for rounding: pairwise sums, deviations from the mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import float32
from chainrule.core.errors import DtypeError
from chainrule.core.nest import Nest
from chainrule.core.primitive import Primitive, Refusal, Sample, functions
from chainrule.ops.gate import gate, operands
from chainrule.ops.groups import Groups, reduced_loops
from chainrule.ops.reduction import (
    Axes,
    add,
    count_over,
    reducer,
    reduction_aval,
    reduction_samples,
    refusals,
    spread,
    sum_source,
    weigh,
    weighted_sum,
)
from chainrule.ops.shifting import batch_axes
from chainrule.ops.summation import total
from chainrule.tensor import Axis, Tensor

__all__ = ["mean", "std", "var"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _sum(x: Any, axis: Axes, keepdims: bool) -> Any:
    return total(x, axis, keepdims) if x.dtype.kind == "f" else add(x, axis, None, None, keepdims)


def _mean_eval(x: Any, axis: Axes, keepdims: bool) -> Any:
    if x.itemsize == 2:
        # Sums of half precision soon overflow, and so do squares.
        return _mean_eval(x.astype(float32), axis, keepdims).astype(x.dtype)
    # The mean of no elements is NaN, said without NumPy's warning.
    return _sum(x, axis, keepdims) / (count_over(x.shape, axis) or math.nan)


def _mean_source(x: Any, axis: Axes, keepdims: bool) -> str | None:
    added, count = sum_source(x, axis, keepdims), count_over(x.shape, axis)
    if added is None or not count:
        return None
    return f"{added} / {x.number(count) if keepdims or len(axis) < x.ndim else count}"


MEAN = Primitive(
    name="mean",
    inputs=("x",),
    aval=reduction_aval("mean", "fc"),
    eval=_mean_eval,
    numpy=_mean_source,
    transpose=lambda ct, to, axis, keepdims: spread(ct * (1 / (count_over(to.shape, axis) or math.nan)), axis, keepdims, to.shape),
    batch=batch_axes,
    loops=reduced_loops(lambda w, group: group.sum() / float(group.count or math.nan)),
    kernel="reduce",
    onnx="ReduceMean",
    samples=reduction_samples,
    refuses=refusals,
)


_mean = reducer(MEAN)


@gate(MEAN)
def mean(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean along axes.

    Parameters
    ----------
    x : Tensor or array_like
        Numbers; booleans and integers are converted to float32.
    axis : int or tuple of int, optional
        Axes to reduce; all of them if not given.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Without the reduced axes, or with size 1 there; NaN for no elements.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 6.0, 7.0], requires_grad=True)
    >>> average = cr.mean(x); average
    tensor(4., from=mean)
    >>> average.backward(); x.grad
    tensor([0.25, 0.25, 0.25, 0.25])
    """
    return _mean(operands("mean", "floating", x)[0], axis, keepdims)


def _variance(x: Any, axis: Axes, keepdims: bool, correction: float) -> Any:
    if x.itemsize == 2:
        return _variance(x.astype(float32), axis, keepdims, correction).astype(x.dtype)
    deviation = x - _mean_eval(x, axis, True)
    return total(deviation * deviation, axis, keepdims) / _freedom(x.shape, axis, correction)


def _number(correction: Any) -> float:
    try:
        return float(correction)
    except (TypeError, ValueError):
        raise DtypeError(f"a correction is a number, not {correction!r}", mend="pass 0 for the mean of squares, 1 for Bessel's correction") from None


def _freedom(shape: tuple[int, ...], axis: Axes, correction: float) -> float:
    freedom = count_over(shape, axis) - correction
    return freedom if freedom > 0 else math.nan


def _deviation(x: Any, axis: Axes, correction: float, factor: float) -> Any:
    """Deviations from the mean, times ``factor`` over the degrees of freedom."""
    return (x - mean(x, axis=axis, keepdims=True)) * (factor / _freedom(x.shape, axis, correction))


def _std_weights(x: Any, out: Any, axis: Axes, keepdims: bool, correction: float) -> Any:
    # Where the deviation is 0, so is by convention its derivative.
    safe = functions.where(out == 0, 1.0, out)
    return _deviation(x, axis, correction, 1.0) / spread(safe, axis, keepdims, x.shape)


def _samples(rng: np.random.Generator) -> list[Sample]:
    some = reduction_samples(rng)
    return [*some[:2], some[3], reduction_samples(rng, correction=1)[1], reduction_samples(rng, correction=0.5)[0]]


def _spread(w: Nest, group: Groups, correction: float) -> Any:
    mean = w.let(group.sum() / float(group.count or math.nan), "mean")
    freedom = group.count - correction
    return group.sum(lambda e: (e - mean) * (e - mean)) / (freedom if freedom > 0 else math.nan)


VAR = Primitive(
    name="var",
    inputs=("x",),
    aval=reduction_aval("var", "f"),
    eval=_variance,
    vjp=(lambda ct, x, axis, keepdims, correction: weigh(ct, _deviation(x, axis, correction, 2.0), axis, keepdims),),
    jvp=(lambda t, x, axis, keepdims, correction: weighted_sum(t, _deviation(x, axis, correction, 2.0), axis, keepdims),),
    batch=batch_axes,
    loops=reduced_loops(_spread),
    kernel="reduce",
    samples=lambda rng: [*_samples(rng), *reduction_samples(rng)[2:5:2]],
    refuses=lambda: [*refusals(), Refusal((np.array([1j]),), DtypeError, "takes")],
)


_var = reducer(VAR)


@gate(VAR)
def var(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance along axes: the mean of squared deviations from the mean.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers; booleans and integers are converted to float32.
    axis : int or tuple of int, optional
        Axes to reduce; all of them if not given.
    correction : float
        Taken off the number of elements by which the sum of squares is divided; 1 for Bessel's correction.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Without the reduced axes, or with size 1 there; NaN unless there are more elements than the correction.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.
    DtypeError
        For complex values.

    Notes
    -----
    ``sum((x - mean(x))**2) / (n - correction)``, in two passes, so that a large mean cancels nothing.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 6.0], requires_grad=True)
    >>> cr.var(x, correction=1).backward(); x.grad
    tensor([-2., -1.,  3.])
    """
    return _var(operands("var", "real floating", x)[0], axis, keepdims, correction=_number(correction))


def _std(x: Any, axis: Axes, keepdims: bool, correction: float) -> Any:
    if x.itemsize == 2:
        return _std(x.astype(float32), axis, keepdims, correction).astype(x.dtype)
    return np.sqrt(_variance(x, axis, keepdims, correction))


STD = Primitive(
    name="std",
    inputs=("x",),
    aval=reduction_aval("std", "f"),
    eval=_std,
    vjp=(lambda ct, x, out, axis, keepdims, correction: weigh(ct, _std_weights(x, out, axis, keepdims, correction), axis, keepdims),),
    jvp=(lambda t, x, out, axis, keepdims, correction: weighted_sum(t, _std_weights(x, out, axis, keepdims, correction), axis, keepdims),),
    batch=batch_axes,
    loops=reduced_loops(lambda w, group, correction: w.k.sqrt(_spread(w, group, correction))),
    kernel="reduce",
    samples=_samples,
    refuses=lambda: [*refusals(), Refusal((np.array([1j]),), DtypeError, "takes")],
)


_reduce_std = reducer(STD)


@gate(STD)
def std(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation along axes: the square root of `var`.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers; booleans and integers are converted to float32.
    axis : int or tuple of int, optional
        Axes to reduce; all of them if not given.
    correction : float
        Taken off the number of elements by which the sum of squares is divided; 1 for Bessel's correction.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Without the reduced axes, or with size 1 there; NaN unless there are more elements than the correction.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.
    DtypeError
        For complex values.

    Notes
    -----
    Where all elements are equal the derivative does not exist; it is 0 by convention.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.std([1.0, 3.0])
    tensor(1.)
    """
    return _reduce_std(operands("std", "real floating", x)[0], axis, keepdims, correction=_number(correction))
