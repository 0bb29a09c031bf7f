"""Reductions to positions, counts and truth values, which have no derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_INT, Aval, bool_, normalize_axis, reduced
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest, strides
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample
from chainrule.ops.gate import gate, gate_of, lift, operands
from chainrule.ops.groups import Groups, reduced_loops
from chainrule.ops.movement import reshape
from chainrule.ops.reduction import add, reduced_source, reducer, refusals
from chainrule.ops.shifting import batch_axes, batch_axis
from chainrule.tape import bind
from chainrule.tensor import Axis, Tensor

__all__ = ["all", "any", "argmax", "argmin", "count_nonzero"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _samples(rng: np.random.Generator) -> list[Sample]:
    def draw(*shape: int) -> Any:
        return rng.integers(0, 2, shape) * rng.normal(size=shape)

    some = [Sample((draw(2, 3, 2),), {"axis": axis, "keepdims": axis == 1}) for axis in (None, 1, (0, -1), ())]
    return [*some, Sample((draw(),)), Sample((draw(0, 3),), {"axis": 0}), Sample((draw(3, 2) > 0,), {"axis": -1})]


def _aval(dtype: np.dtype[Any]) -> Rule:
    return lambda x, axis, keepdims: Aval(reduced(x.shape, axis, keepdims), dtype)


def _some(w: Nest, group: Groups) -> Any:
    return group.fold(False, lambda found, e: found | (e != 0), dtype=bool_, wanted="found")


def _every(w: Nest, group: Groups) -> Any:
    return group.fold(True, lambda found, e: found & (e != 0), dtype=bool_, wanted="found")


def _truth(name: str, combined: Callable[..., Any], which: str, are: str, empty: str, prints: str):
    primitive = Primitive(
        name=name,
        inputs=("x",),
        aval=_aval(bool_),
        eval=lambda x, axis, keepdims: combined(x, axis, None, None, keepdims),
        numpy=lambda x, axis, keepdims: reduced_source(f"np.logical_{'or' if name == 'any' else 'and'}.reduce", x, axis, keepdims) if axis else None,
        batch=batch_axes,
        loops=reduced_loops(_some if name == "any" else _every),
        kernel="reduce",
        samples=_samples,
        refuses=refusals,
    )
    reduce = reducer(primitive)

    def truth(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether {which} along axes {are} true, or not zero.

        Parameters
        ----------
        x : Tensor or array_like
        axis : int or tuple of int, optional
            Axes to reduce; all of them if not given.
        keepdims : bool
            Keep reduced axes with size 1.

        Returns
        -------
        Tensor
            Of dtype bool; {empty} for no elements.

        Raises
        ------
        AxisError
            If an axis is out of range or stands twice.

        Examples
        --------
        >>> import chainrule as cr
        >>> cr.{name}([[0, 1], [0, 0], [1, 1]], axis=1)
        tensor({prints})
        """
        return reduce(lift(x), axis, keepdims)

    return gate_of(primitive, truth, which=which, are=are, empty=empty, prints=prints)


any = _truth("any", np.logical_or.reduce, "any element", "is", "False", "[ True, False,  True]")
all = _truth("all", np.logical_and.reduce, "all elements", "are", "True", "[False, False,  True]")


COUNT_NONZERO = Primitive(
    name="count_nonzero",
    inputs=("x",),
    aval=_aval(DEFAULT_INT),
    eval=lambda x, axis, keepdims: add(x != 0, axis, DEFAULT_INT, None, keepdims),
    batch=batch_axes,
    loops=reduced_loops(lambda w, group: group.fold(0, lambda n, e: n + w.k.convert(e != 0, DEFAULT_INT), dtype=DEFAULT_INT, wanted="count")),
    kernel="reduce",
    samples=_samples,
    refuses=refusals,
)


_count_nonzero = reducer(COUNT_NONZERO)


@gate(COUNT_NONZERO)
def count_nonzero(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements along axes are true, or not zero.

    Parameters
    ----------
    x : Tensor or array_like
    axis : int or tuple of int, optional
        Axes to reduce; all of them if not given.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Of dtype int64.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.count_nonzero([[0, 1], [2, 3]], axis=1)
    tensor([1, 2])
    """
    return _count_nonzero(lift(x), axis, keepdims)


def _search_loops(w: Nest, out: Array, x: Array, axis: int, *, more: bool) -> None:
    step = strides(x.shape)[axis]
    with Groups(w, x, (axis,)).each() as group:
        best, where = w.variable(w.at(x, group.at), x.dtype, "best"), w.variable(0, wanted="where")
        with w.loop(x.shape[axis], 1) as i:
            element = w.let(w.at(x, i * step + group.at))
            with w.when((element > best if more else element < best) | (w.k.isnan(element) & ~w.k.isnan(best))):
                w.assign(best, element)
                w.assign(where, i)
        w.put(out, group.out, where)


def _search(name: str, onnx: str, which: str, prints: str):
    function = getattr(np, name)

    def aval(x: Aval, axis: int, keepdims: bool) -> Aval:
        if not x.shape[axis]:
            raise ShapeError(f"{name} of no elements: {x} along axis {axis}", mend="search axes that are not empty")
        return Aval(reduced(x.shape, (axis,), keepdims), DEFAULT_INT)

    primitive = Primitive(
        name=name,
        inputs=("x",),
        aval=aval,
        eval=lambda x, axis, keepdims: function(x, axis, keepdims=keepdims),
        batch=batch_axis,
        loops=lambda w, out, x, axis, keepdims: _search_loops(w, out, x, axis, more=name == "argmax"),
        kernel="reduce",
        onnx=onnx,
        samples=lambda rng: [
            Sample((rng.normal(size=(2, 3)),), {"axis": 1}),
            Sample((rng.normal(size=(2, 3)),), {"axis": 0, "keepdims": True}),
            Sample((rng.normal(size=(2, 3)),), {"keepdims": True}),
            Sample((np.array([1, 3, 3, 1]),)),
            Sample((rng.normal(),)),
            Sample((np.zeros((0, 2)),), {"axis": 1}),
        ],
        refuses=lambda: [
            Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}),
            Refusal((np.ones((2, 0)),), ShapeError, "no elements", {"axis": 1}),
            Refusal((np.array([1j]),), DtypeError, "takes"),
        ],
    )

    def search(x: Tensor | npt.ArrayLike, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Position of the {which} element, the first of them if several tie; that of the first NaN if there is one.

        Parameters
        ----------
        x : Tensor or array_like
            Real numbers.
        axis : int, optional
            Along which to search; if not given, among all elements in row-major order.
        keepdims : bool
            Keep reduced axes with size 1.

        Returns
        -------
        Tensor
            Of dtype int64.

        Raises
        ------
        AxisError
            If the axis is out of range.
        DtypeError
            For complex or boolean values.
        ShapeError
            If there are no elements to choose from.

        Examples
        --------
        >>> import chainrule as cr
        >>> cr.{name}([[1, 3], [4, 2]], axis=1)
        tensor({prints})
        """
        (values,) = operands(name, "real", x)
        shape = values.shape
        if axis is not None:
            return bind(primitive, (values,), {"axis": normalize_axis(axis, len(shape), name), "keepdims": bool(keepdims)})
        found = bind(primitive, (reshape(values, (math.prod(shape),)),), {"axis": 0, "keepdims": False})
        return reshape(found, (1,) * len(shape)) if keepdims else found

    return gate_of(primitive, search, which=which, prints=prints)


argmax = _search("argmax", "ArgMax", "largest", "[1, 0]")
argmin = _search("argmin", "ArgMin", "smallest", "[0, 1]")
