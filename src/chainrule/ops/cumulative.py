"""Running sums and products, the recurrence that both are cases of, and differences of neighbours.

The derivative of a running product is a linear recurrence, and that of a recurrence is one again, run backwards. So
nothing is divided: zeros are as good as any other number, in every order of differentiation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions, public
from chainrule.ops.gate import alias, gate, operands
from chainrule.ops.joining import batch_together, concat
from chainrule.ops.movement import broadcast_arrays
from chainrule.ops.reduction import accumulated, own_dtype
from chainrule.ops.repetition import PAD
from chainrule.ops.shifting import batch_axis, flip, roll
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["cumulative_prod", "cumulative_sum", "diff", "linear_recurrence"]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt


def _shifted(x: Any, axis: int, first: float) -> Any:
    """``x`` one place later along the axis, with ``first`` in front."""
    return _begun(functions.getitem(x, (*(slice(None),) * axis, slice(None, -1))), axis, first) if x.shape[axis] else x


def _begun(x: Any, axis: int, first: float) -> Any:
    return bind(PAD, (x,), {"widths": tuple((int(i == axis), 0) for i in range(len(x.shape))), "value": first})


def _run(primitive: Primitive, x: Any, axis: int | None, dtype: Any, include_initial: bool, first: int) -> Any:
    name = primitive.name
    values = accumulated(x, dtype, name)
    if axis is None:
        if len(values.shape) != 1:
            raise ArgumentError(f"{name}: an array of shape {values.shape} needs an axis", mend="pass axis=")
        axis = 0
    place = normalize_axis(axis, len(values.shape), name)
    out = bind(primitive, (values,), {"axis": place})
    return _begun(out, place, first) if include_initial else out


def _samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.normal(size=(2, 3)),), {"axis": 1}),
        Sample((rng.normal(size=(3, 2)),), {"axis": 0, "include_initial": True}),
        Sample((rng.normal(size=(4,)),)),
        Sample((np.array([[0.0, 1.5, -2.0, 0.5], [2.0, 0.0, 0.0, 3.0]]),), {"axis": -1}),
        Sample((rng.normal(size=(2, 0)),), {"axis": 1, "include_initial": True}),
        Sample((rng.integers(0, 5, (3,)),), {"dtype": "int8"}),
    ]


def _refuses() -> list[Refusal]:
    return [
        Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}),
        Refusal((np.ones((2, 3)),), ArgumentError, "needs an axis"),
    ]


def _along(w: Nest, out: Array, xs: Sequence[Array], axis: int, combine: Rule) -> None:
    """The last input's first element, and then ``combine(element before, *elements of the inputs)``."""
    length, width = out.shape[axis], math.prod(out.shape[axis + 1 :])
    with w.runs(math.prod(out.shape[:axis]), width) as (row, columns):
        with w.loop(min(length, 1)) as i, columns() as column:
            here = (row * length + i) * width + column
            w.put(out, here, w.at(xs[-1], here))
        with w.loop(length, 1) as i, columns() as column:
            here = w.let((row * length + i) * width + column, "at")
            w.put(out, here, combine(w.at(out, here - width), *(w.at(x, here) for x in xs)))


CUMULATIVE_SUM = Primitive(
    name="cumulative_sum",
    inputs=("x",),
    aval=lambda x, axis: x,
    eval=lambda x, axis: np.add.accumulate(x, axis, own_dtype(x)),
    transpose=lambda ct, axis: flip(bind(CUMULATIVE_SUM, (flip(ct, axis=axis),), {"axis": axis}), axis=axis),
    batch=batch_axis,
    loops=lambda w, out, x, axis: _along(w, out, (x,), axis, lambda total, e: total + e),
    kernel="scan",
    onnx="CumSum",
    samples=_samples,
    refuses=_refuses,
)


@gate(CUMULATIVE_SUM)
def cumulative_sum(
    x: Tensor | npt.ArrayLike, /, *, axis: int | None = None, dtype: npt.DTypeLike | None = None, include_initial: bool = False
) -> Tensor:
    """Running sums along an axis; booleans and integers are summed as int64 (uint64 if unsigned).

    Parameters
    ----------
    x : Tensor or array_like
    axis : int, optional
        May be left out if there is a single axis.
    dtype : dtype, optional
        Convert to it before summing.
    include_initial : bool
        Begin with 0, so that the result is longer by one.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If the axis is out of range.
    ArgumentError
        If the axis is left out and there is not a single one.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> sums = cr.cumulative_sum(x); sums
    tensor([1., 3., 6.], from=cumulative_sum)
    >>> sums.sum().backward(); x.grad
    tensor([3., 2., 1.])
    """
    return _run(CUMULATIVE_SUM, x, axis, dtype, include_initial, 0)


def _backwards(ct: Any, decay: Any, axis: int) -> Any:
    """Cotangents of what is added at every step: ``g[k] = ct[k] + decay[k + 1] * g[k + 1]``."""
    later = flip(roll(decay, -1, axis=axis), axis=axis)
    return flip(linear_recurrence(later, flip(ct, axis=axis), axis=axis), axis=axis)


CUMULATIVE_PROD = Primitive(
    name="cumulative_prod",
    inputs=("x",),
    aval=lambda x, axis: x,
    eval=lambda x, axis: np.multiply.accumulate(x, axis, own_dtype(x)),
    vjp=(lambda ct, x, out, axis: _backwards(ct, x, axis) * _shifted(out, axis, 1),),
    jvp=(lambda t, x, out, axis: linear_recurrence(x, t * _shifted(out, axis, 1), axis=axis),),
    batch=batch_axis,
    loops=lambda w, out, x, axis: _along(w, out, (x,), axis, lambda total, e: total * e),
    kernel="scan",
    samples=_samples,
    refuses=_refuses,
)


@gate(CUMULATIVE_PROD)
def cumulative_prod(
    x: Tensor | npt.ArrayLike, /, *, axis: int | None = None, dtype: npt.DTypeLike | None = None, include_initial: bool = False
) -> Tensor:
    """Running products along an axis; booleans and integers are multiplied as int64 (uint64 if unsigned).

    Parameters
    ----------
    x : Tensor or array_like
    axis : int, optional
        May be left out if there is a single axis.
    dtype : dtype, optional
        Convert to it before multiplying.
    include_initial : bool
        Begin with 1, so that the result is longer by one.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If the axis is out of range.
    ArgumentError
        If the axis is left out and there is not a single one.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([2.0, 0.0, 3.0], requires_grad=True)
    >>> cr.cumulative_prod(x).sum().backward(); x.grad
    tensor([1., 8., 0.])
    """
    return _run(CUMULATIVE_PROD, x, axis, dtype, include_initial, 1)


# Up to how many sequences Python's own arithmetic is faster than NumPy step by step: measured.
_LANES = 16


def _recurrence_eval(decay: Any, drive: Any, axis: int) -> Any:
    if not drive.size:
        return np.zeros_like(drive)
    a, b = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (decay, drive))
    out = np.empty_like(b)
    steps, lanes = out.shape
    if lanes <= _LANES:
        for lane in range(lanes):
            out[:, lane] = _recur(a[:, lane].tolist(), b[:, lane].tolist())
    else:
        out[0] = b[0]
        for k in range(1, steps):
            np.multiply(a[k], out[k - 1], out=out[k])
            out[k] += b[k]
    return np.moveaxis(out.reshape(np.moveaxis(drive, axis, 0).shape), 0, axis)


def _recur(decay: list[Any], drive: list[Any]) -> list[Any]:
    state = None
    states: list[Any] = []
    for a, b in zip(decay, drive, strict=True):
        state = b if state is None else a * state + b
        states.append(state)
    return states


def _recurrence_aval(decay: Aval, drive: Aval, axis: int) -> Aval:
    if decay.shape != drive.shape:
        raise ShapeError(f"linear_recurrence: {decay} and {drive} differ in shape", mend="broadcast_arrays makes them equal")
    return drive


def _recurrence_vjp(ct: Any, to: tuple[Any, Any], decay: Any, out: Any, axis: int) -> tuple[Any, Any]:
    added = _backwards(ct, decay, axis)
    return None if to[0] is None else added * _shifted(out, axis, 0), None if to[1] is None else added


def _recurrence_jvp(t: tuple[Any, Any], decay: Any, out: Any, axis: int) -> Any:
    terms = [term for term in (None if t[0] is None else t[0] * _shifted(out, axis, 0), t[1]) if term is not None]
    return linear_recurrence(decay, terms[0] + terms[1] if len(terms) == 2 else terms[0], axis=axis)


def _batch_recurrence(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(primitive, batch_together(batched, inputs), {"axis": params["axis"] + 1})


LINEAR_RECURRENCE = Primitive(
    name="linear_recurrence",
    inputs=("decay", "drive"),
    aval=_recurrence_aval,
    eval=_recurrence_eval,
    vjp=_recurrence_vjp,
    jvp=_recurrence_jvp,
    batch=_batch_recurrence,
    loops=lambda w, out, decay, drive, axis: _along(w, out, (decay, drive), axis, lambda state, a, b: a * state + b),
    kernel="scan",
    samples=lambda rng: [
        Sample((rng.normal(size=(4,)), rng.normal(size=(4,)))),
        Sample((rng.normal(size=(3, 1)), rng.normal(size=(3, 2))), {"axis": 0}),
        Sample((rng.normal(size=(3, 20)), rng.normal(size=(3, 20))), {"axis": 0}),
        Sample((0.5, rng.normal(size=(2, 3)))),
        Sample((rng.normal(size=(2, 0)), rng.normal(size=(2, 0)))),
    ],
    refuses=lambda: [
        Refusal((np.ones(3), np.ones(2)), ShapeError, "broadcast"),
        Refusal((np.ones(3), np.ones(3)), AxisError, "out of range", {"axis": 1}),
        Refusal((np.array(["a"]), np.ones(3)), DtypeError, "numbers"),
    ],
)


@gate(LINEAR_RECURRENCE)
def linear_recurrence(decay: Tensor | npt.ArrayLike, drive: Tensor | npt.ArrayLike, /, *, axis: int = -1) -> Tensor:
    """States of ``y[k] = decay[k] * y[k - 1] + drive[k]`` along an axis, begun with ``y[0] = drive[0]``.

    Parameters
    ----------
    decay, drive : Tensor or array_like
        Floating point, of shapes that broadcast. The first decay along the axis has nothing to act on.
    axis : int

    Returns
    -------
    Tensor
        All states, of the broadcast shape.

    Raises
    ------
    AxisError
        If the axis is out of range.
    ShapeError
        If the shapes do not broadcast.

    Notes
    -----
    Discounted returns, exponential averages and linear state spaces are of this form.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linear_recurrence(0.5, [1.0, 1.0, 1.0])
    tensor([1.  , 1.5 , 1.75])
    """
    a, b = broadcast_arrays(*operands("linear_recurrence", "floating", decay, drive))
    return bind(LINEAR_RECURRENCE, (a, b), {"axis": normalize_axis(axis, len(b.shape), "linear_recurrence")})


@public
def diff(
    x: Tensor | npt.ArrayLike,
    /,
    *,
    axis: int = -1,
    n: int = 1,
    prepend: Tensor | npt.ArrayLike | None = None,
    append: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Differences of neighbours along an axis: ``x[i + 1] - x[i]``, n times over.

    Parameters
    ----------
    x : Tensor or array_like
        Numbers.
    axis : int
    n : int
        How many times.
    prepend, append : Tensor or array_like, optional
        Joined to ``x`` before.

    Returns
    -------
    Tensor
        Shorter by ``n`` along the axis.

    Raises
    ------
    AxisError
        If the axis is out of range.
    ArgumentError
        If ``n`` is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.diff([1, 4, 9])
    tensor([3, 5])
    """
    parts = [part for part in (prepend, x, append) if part is not None]
    whole = concat(parts, axis=axis) if len(parts) > 1 else operands("diff", "numeric", x)[0]
    place = normalize_axis(axis, len(whole.shape), "diff")
    if n < 0:
        raise ArgumentError(f"diff: cannot take differences {n} times", mend="n counts from 0")
    before = (slice(None),) * place
    for _ in range(n):
        whole = functions.getitem(whole, (*before, slice(1, None))) - functions.getitem(whole, (*before, slice(None, -1)))
    return whole if n else alias(whole)
