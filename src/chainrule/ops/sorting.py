"""Putting elements in order: sorted values, positions in order, the largest few, and places in a sorted array.

Gradients of sorted values go back to where the values came from. Order among NaN is NumPy's: they count as largest.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chainrule.core.aval import DEFAULT_INT, Aval, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.core.scalar import Value
from chainrule.ops.gate import batch_looped, gate, operands
from chainrule.ops.gathering import TAKE_ALONG_AXIS, take
from chainrule.ops.joining import with_axis, zeros
from chainrule.ops.movement import integers
from chainrule.ops.scattering import scatter_along_axis
from chainrule.ops.shifting import batch_axis
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["TopK", "argsort", "searchsorted", "sort", "top_k"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _order(x: Any, axis: int, descending: bool) -> Any:
    lanes = np.moveaxis(x, axis, -1)
    # Read backwards before and after, so that equal elements keep their order.
    order = lanes.shape[-1] - 1 - _ascending(lanes[..., ::-1])[..., ::-1] if descending else _ascending(lanes)
    return np.moveaxis(order, -1, axis)


_MANY = 2048


def _ascending(lanes: Any) -> Any:
    """Stable order along the last axis. Among floating-point numbers few are equal: only their lanes take the slow way."""
    if lanes.dtype.kind != "f" or lanes.size < _MANY:
        return np.argsort(lanes, -1, kind="stable")
    order = np.argsort(lanes, -1)
    ordered = np.take_along_axis(lanes, order, -1)
    unsure = ~(ordered[..., 1:] > ordered[..., :-1]).all(-1)
    if unsure.any():
        order[unsure] = np.argsort(lanes[unsure], -1, kind="stable")
    return order


def _sort_eval(x: Any, axis: int, descending: bool) -> Any:
    ascending = np.sort(x, axis)
    return np.flip(ascending, axis) if descending else ascending


def _samples(rng: np.random.Generator) -> list[Sample]:
    def draw(*shape: int) -> Any:
        return rng.permutation(np.linspace(-1.0, 1.0, int(np.prod(shape)))).reshape(shape)

    return [
        Sample((draw(2, 5),)),
        Sample((draw(4, 2),), {"axis": 0, "descending": True}),
        Sample((draw(4),), {"stable": False}),
        Sample((draw(2, 0),)),
        Sample((rng.integers(0, 3, (2, 6)),), {"descending": True}),
    ]


def _refuses() -> list[Refusal]:
    return [
        Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}),
        Refusal((np.ones(()),), AxisError, "out of range"),
        Refusal((np.array([1j]),), DtypeError, "takes"),
    ]


def _before(w: Nest, a: Value, b: Value, *, ascending: bool) -> Value:
    """Whether one element comes before another: NaN is the largest."""
    one, two = (a, b) if ascending else (b, a)
    return (one < two) | (w.k.isnan(two) & ~w.k.isnan(one))


@contextmanager
def _ranked(w: Nest, x: Array, axis: int, *, ascending: bool, last: bool = False) -> Generator[tuple[Value, Value, Value, tuple[Value, ...]]]:
    """For every element: itself, its number along the axis, its rank, and the place of that rank; ``last``: of what ties the last comes first."""
    # An element's rank is the number of those before it: no memory, and a stable order, at the price of all pairs.
    w.last_resort(x.size * x.shape[axis])
    with w.share([*x.shape[:axis], *x.shape[axis + 1 :], x.shape[axis]]) as (*at, i):
        element, rank = w.let(w.load(x, (*at[:axis], i, *at[axis:]))), w.variable(0, wanted="rank")
        with w.loop(x.shape[axis]) as j:
            other = w.let(w.load(x, (*at[:axis], j, *at[axis:])))
            tied = ~_before(w, element, other, ascending=ascending) & (j > i if last else j < i)
            with w.when(_before(w, other, element, ascending=ascending) | tied):
                w.assign(rank, rank + 1)
        yield element, i, rank, (*at[:axis], rank, *at[axis:])


def _argsort_loops(w: Nest, out: Array, x: Array, axis: int, descending: bool) -> None:
    with _ranked(w, x, axis, ascending=not descending) as (_, i, _, place):
        w.store(out, place, i)


def _sort_loops(w: Nest, out: Array, x: Array, axis: int, descending: bool) -> None:
    with _ranked(w, x, axis, ascending=not descending, last=descending) as (element, _, _, place):
        w.store(out, place, element)


ARGSORT = Primitive(
    name="argsort",
    inputs=("x",),
    aval=lambda x, axis, descending: Aval(x.shape, DEFAULT_INT),
    eval=_order,
    batch=batch_axis,
    loops=_argsort_loops,
    kernel="sort",
    samples=_samples,
    refuses=_refuses,
)

SORT = Primitive(
    name="sort",
    inputs=("x",),
    aval=lambda x, axis, descending: x,
    eval=_sort_eval,
    vjp=(lambda ct, x, axis, descending: scatter_along_axis(_ordered(ARGSORT, x, axis, descending), ct, axis=axis, size=x.shape[axis]),),
    jvp=(lambda t, x, axis, descending: bind(TAKE_ALONG_AXIS, (t, _ordered(ARGSORT, x, axis, descending)), {"axis": axis}),),
    batch=batch_axis,
    loops=_sort_loops,
    kernel="sort",
    samples=_samples,
    refuses=_refuses,
)


def _ordered(primitive: Primitive, x: Any, axis: int, descending: bool) -> Any:
    (values,) = operands(primitive.name, "real", x)
    return bind(primitive, (values,), {"axis": normalize_axis(axis, len(values.shape), primitive.name), "descending": bool(descending)})


@gate(SORT)
def sort(x: Tensor | npt.ArrayLike, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements in order along an axis.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers.
    axis : int
    descending : bool
        Largest first.
    stable : bool
        Accepted for the array API; equal values cannot be told apart, and their gradients always keep their order.

    Returns
    -------
    Tensor
        Of the same shape.

    Raises
    ------
    AxisError
        If the axis is out of range.
    DtypeError
        For complex or boolean values.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([3.0, 1.0, 2.0], requires_grad=True)
    >>> cr.sort(x).backward([1.0, 10.0, 100.0]); x.grad
    tensor([100.,   1.,  10.])
    """
    return _ordered(SORT, x, axis, descending)


@gate(ARGSORT)
def argsort(x: Tensor | npt.ArrayLike, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The positions of the elements, in the elements' order along an axis.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers.
    axis : int
    descending : bool
        Largest first.
    stable : bool
        Accepted for the array API: equal elements keep their order in any case.

    Returns
    -------
    Tensor
        Of the same shape and dtype int64.

    Raises
    ------
    AxisError
        If the axis is out of range.
    DtypeError
        For complex or boolean values.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.argsort([3, 1, 2, 1], descending=True)
    tensor([0, 2, 1, 3])
    """
    return _ordered(ARGSORT, x, axis, descending)


class TopK(NamedTuple):
    """What `top_k` returns.

    Attributes
    ----------
    values : Tensor
        The chosen elements, the best first.
    indices : Tensor
        Their positions along the axis, of int64.

    Examples
    --------
    >>> import chainrule as cr
    >>> values, indices = cr.top_k([3.0, 1.0, 2.0], 2); indices
    tensor([0, 2])
    """

    values: Tensor
    indices: Tensor


def _top_k_eval(x: Any, k: int, axis: int, largest: bool) -> tuple[Any, Any]:
    lanes = np.moveaxis(x, axis, -1)
    some = _extremes(lanes, k, largest)
    if some is None:
        some = _order(lanes, -1, largest)[..., :k]
        found = np.take_along_axis(lanes, some, -1)
    else:
        found = np.take_along_axis(lanes, some, -1)
        order = _order(found, -1, largest)
        found, some = np.take_along_axis(found, order, -1), np.take_along_axis(some, order, -1)
    return np.moveaxis(found, -1, axis), np.moveaxis(some, -1, axis)


def _extremes(lanes: Any, k: int, largest: bool) -> Any:
    """Positions, ascending, of the k most extreme elements; None if ties or NaN leave open which they are."""
    size = lanes.shape[-1]
    if not 0 < k < size or lanes.size < _MANY:
        return None
    last = size - k if largest else k - 1
    border = np.partition(lanes, last, -1)[..., last : last + 1]
    found = np.flatnonzero(lanes >= border if largest else lanes <= border)
    return found.reshape(*lanes.shape[:-1], k) % size if found.size == lanes.size // size * k else None


def _top_k_aval(x: Aval, k: int, axis: int, largest: bool) -> tuple[Aval, Aval]:
    shape = with_axis(x.shape, axis, k)
    return Aval(shape, x.dtype), Aval(shape, DEFAULT_INT)


def _top_k_vjp(ct: tuple[Any, Any], to: Aval, out: tuple[Any, Any], axis: int) -> Any:
    values = zeros(out[1].shape, to.dtype) if ct[0] is None else ct[0]
    return scatter_along_axis(out[1], values, axis=axis, size=to.shape[axis])


def _top_k_loops(w: Nest, outs: tuple[Array, Array], x: Array, k: int, axis: int, largest: bool) -> None:
    with _ranked(w, x, axis, ascending=not largest) as (element, i, rank, place), w.when(rank < k):
        w.store(outs[0], place, element)
        w.store(outs[1], place, i)


TOP_K = Primitive(
    name="top_k",
    inputs=("x",),
    aval=_top_k_aval,
    eval=_top_k_eval,
    vjp=(_top_k_vjp,),
    jvp=(lambda t, out, axis: (bind(TAKE_ALONG_AXIS, (t, out[1]), {"axis": axis}), None),),
    batch=batch_axis,
    outputs=True,
    loops=_top_k_loops,
    kernel="sort",
    onnx="TopK",
    samples=lambda rng: [
        Sample((rng.permutation(np.linspace(-1.0, 1.0, 10)).reshape(2, 5), 2)),
        Sample((rng.permutation(np.linspace(-1.0, 1.0, 8)).reshape(4, 2), 3), {"axis": 0, "mode": "smallest"}),
        Sample((rng.permutation(np.linspace(-1.0, 1.0, 4)), 4)),
        Sample((rng.normal(size=(2, 3)), 0)),
    ],
    refuses=lambda: [
        Refusal((np.ones(3), 4), ArgumentError, "4 of 3"),
        Refusal((np.ones(3), -1), ArgumentError, "-1 of 3"),
        Refusal((np.ones(3), 1), AxisError, "out of range", {"axis": 1}),
        Refusal((np.ones(3), 1), ArgumentError, "mode", {"mode": "best"}),
        Refusal((np.array([1j]), 1), DtypeError, "takes"),
    ],
)


@gate(TOP_K)
def top_k(x: Tensor | npt.ArrayLike, k: int, /, *, axis: int = -1, mode: str = "largest") -> TopK:
    """The k largest (or smallest) elements along an axis, the most extreme first, and their positions.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers.
    k : int
        How many.
    axis : int
    mode : str
        "largest" or "smallest".

    Returns
    -------
    TopK
        ``values`` and ``indices`` (int64), both with size k along the axis. Of equal elements the first come first.

    Raises
    ------
    AxisError
        If the axis is out of range.
    ArgumentError
        If there are fewer than k elements, or the mode is unknown.
    DtypeError
        For complex or boolean values.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([3.0, 1.0, 2.0], requires_grad=True)
    >>> best = cr.top_k(x, 2); best.indices
    tensor([0, 2])
    >>> best.values.sum().backward(); x.grad
    tensor([1., 0., 1.])
    """
    (values,) = operands("top_k", "real", x)
    place = normalize_axis(axis, len(values.shape), "top_k")
    (count,) = integers(k, "top_k")
    if not 0 <= count <= values.shape[place]:
        raise ArgumentError(f"top_k: cannot take {count} of {values.shape[place]} elements along axis {place}", mend="choose a smaller k, 0 or more")
    if mode not in ("largest", "smallest"):
        raise ArgumentError(f"top_k: there is no mode {mode!r}", mend='use "largest" or "smallest"')
    return TopK(*bind(TOP_K, (values,), {"k": count, "axis": place, "largest": mode == "largest"}))


def _searchsorted_aval(x1: Aval, x2: Aval, side: str) -> Aval:
    if x1.ndim != 1:
        raise ShapeError(f"searchsorted: the sorted array {x1} must have a single axis", mend="search row by row with cr.vmap")
    return Aval(x2.shape, DEFAULT_INT)


_rowwise = batch_looped("every example has a sorted array of its own")


def _batch_searchsorted(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return _rowwise(primitive, batched, inputs, params) if batched[0] else bind(primitive, inputs, params)


def _searchsorted_loops(w: Nest, out: Array, x: Array, values: Array, side: str) -> None:
    with w.share(out.shape) as at:
        value = w.let(w.load(values, at))
        low, high = w.variable(0, wanted="low"), w.variable(x.size, wanted="high")
        # Each round halves what is left, until nothing is.
        with w.loop(x.size.bit_length()), w.when(low < high):
            middle = w.let((low + high) >> 1, "middle")
            element = w.load(x, (middle,))
            with w.when(
                before := w.let(_before(w, element, value, ascending=True) if side == "left" else ~_before(w, value, element, ascending=True))
            ):
                w.assign(low, middle + 1)
            with w.when(~before):
                w.assign(high, middle)
        w.store(out, at, low)


SEARCHSORTED = Primitive(
    name="searchsorted",
    inputs=("x1", "x2"),
    aval=_searchsorted_aval,
    eval=np.searchsorted,
    batch=_batch_searchsorted,
    loops=_searchsorted_loops,
    kernel="sort",
    samples=lambda rng: [
        Sample((np.array([0.0, 1.0, 1.0, 2.0]), np.array([[1.0, -1.0], [3.0, 1.5]]))),
        Sample((np.array([0, 1, 1, 2]), np.array([1, 0])), {"side": "right"}),
        Sample((np.array([2.0, 1.0]), np.array(1.5)), {"sorter": np.array([1, 0])}),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 2)), np.ones(2)), ShapeError, "single axis"),
        Refusal((np.ones(2), np.ones(2)), ArgumentError, "side", {"side": "middle"}),
        Refusal((np.array([1j]), np.ones(2)), DtypeError, "takes"),
    ],
)


@gate(SEARCHSORTED)
def searchsorted(
    x1: Tensor | npt.ArrayLike,
    x2: Tensor | npt.ArrayLike,
    /,
    *,
    side: str = "left",
    sorter: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Where values would have to be inserted in a sorted array to keep it sorted.

    Parameters
    ----------
    x1 : Tensor or array_like
        Real numbers in ascending order, along a single axis.
    x2 : Tensor or array_like
        Values to place, of any shape.
    side : str
        Before ("left") or behind ("right") elements that are equal.
    sorter : Tensor or array_like of int, optional
        Positions that bring ``x1`` into order.

    Returns
    -------
    Tensor
        Of the shape of ``x2`` and dtype int64.

    Raises
    ------
    ShapeError
        If ``x1`` has not a single axis.
    ArgumentError
        If the side is unknown.
    DtypeError
        For complex or boolean values.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.searchsorted([1, 2, 2, 3], [2, 5]), cr.searchsorted([1, 2, 2, 3], [2, 5], side="right")
    (tensor([1, 4]), tensor([3, 4]))
    """
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: there is no side {side!r}", mend='use "left" or "right"')
    ascending, values = operands("searchsorted", "real", x1, x2)
    return bind(SEARCHSORTED, (ascending if sorter is None else take(ascending, sorter), values), {"side": side})
