"""Reading at positions that are computed: the gathers.

Several axes may be indexed at once; the axes of the index then stand in the place of the first of
them. A position out of range is an error that names it, never a wrapped or clipped access.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_FLOAT, DEFAULT_INT, Aval, Dtype, Shape, broadcast, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest, offset, strides
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.core.scalar import Value
from chainrule.ops.gate import as_dtype, describe, gate, lift, to_dtype
from chainrule.ops.joining import batch_together, concat, with_axis
from chainrule.ops.movement import broadcast_to, expand_dims, integers, moveaxis, reshape
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["gather", "one_hot", "take", "take_along_axis"]

if TYPE_CHECKING:
    import numpy.typing as npt

Axes = tuple[int, ...]


def positions(index: Any, operation: str) -> Any:
    """``index`` as int64 values.

    Raises
    ------
    DtypeError
        If it holds no integers.
    """
    lifted = lift(index)
    if lifted.dtype == DEFAULT_INT:
        return lifted
    if lifted.dtype.kind not in "iu" and math.prod(lifted.shape):
        raise DtypeError(f"{operation}: positions are integers, not {describe(lifted)}", mend="convert them with astype(cr.int64)")
    return to_dtype(lifted, DEFAULT_INT)


def extent(index: Any, axes: Axes) -> Shape:
    """The shape of the positions themselves."""
    return index.shape[1:] if len(axes) > 1 else index.shape


def gathered(shape: Shape, index: Any, axes: Axes) -> Shape:
    rest = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    return (*rest[: axes[0]], *extent(index, axes), *rest[axes[0] :])


def moved(x: Any, length: int, source: int, target: int) -> Any:
    """``x`` with a block of axes moved."""
    return moveaxis(x, tuple(range(source, source + length)), tuple(range(target, target + length))) if length and source != target else x


def neighbours(axes: Axes) -> bool:
    return axes[-1] - axes[0] == len(axes) - 1


def native(index: Any, axes: Axes) -> tuple[Any, ...]:
    """NumPy's own index; unless the axes are neighbours it has the index's axes in front."""
    rows = iter((index,) if len(axes) == 1 else index)
    return tuple(next(rows) if axis in axes else slice(None) for axis in range(axes[-1] + 1))


def in_range(size: int) -> str:
    """What to do about a position outside of an axis of this size."""
    return f"positions go from {-size} to {size - 1}" if size else "an empty axis has no positions"


def out_of_range(operation: str, index: Any, axes: Axes, shape: Shape) -> AxisError:
    for axis, row in zip(axes, (index,) if len(axes) == 1 else index, strict=True):
        wrong = np.extract((row < -shape[axis]) | (row >= shape[axis]), row)
        if wrong.size:
            says = f"{operation}: index {wrong[0]} is out of range for axis {axis} of size {shape[axis]}, in shape {shape}"
            return AxisError(says, mend=in_range(shape[axis]))
    return AxisError(f"{operation}: an index is out of range for shape {shape}", mend="positions go from -size to size - 1 of their axis")


def _gather_eval(x: Any, index: Any, axes: Axes) -> Any:
    try:
        if len(axes) == 1:
            return x.take(index, axes[0])
        out = x[native(index, axes)]
    except IndexError:
        raise out_of_range("gather", index, axes, x.shape) from None
    length = index.ndim - 1
    return out if neighbours(axes) or not axes[0] else np.moveaxis(out, range(length), range(axes[0], axes[0] + length))


def check_axes(name: str, index: Aval, axes: Axes) -> None:
    if index.dtype.kind not in "iu":
        raise DtypeError(f"{name}: positions are integers, not {index}", mend="convert them with astype(cr.int64)")
    if len(axes) > 1 and index.shape[:1] != (len(axes),):
        says = f"{name}: {index} does not hold one row of positions for each of the axes {axes}"
        raise ShapeError(says, mend="stack the positions per axis in front")


def _gather_aval(x: Aval, index: Aval, axes: Axes) -> Aval:
    check_axes("gather", index, axes)
    return Aval(gathered(x.shape, index, axes), x.dtype)


def with_example(index: Any, axes: Axes) -> tuple[Any, Axes]:
    """Batched positions that name their example too, as positions on the whole batch."""
    count, rank = index.shape[0], len(index.shape) - (1 if len(axes) == 1 else 2)
    rows = moveaxis(index, 0, 1) if len(axes) > 1 else expand_dims(index, 0)
    example = broadcast_to(reshape(np.arange(count), (1, count, *(1,) * rank)), (1, *rows.shape[1:]))
    return concat([example, rows]), (0, *behind(axes))


def behind(axes: Axes) -> Axes:
    return tuple(axis + 1 for axis in axes)


def _batch_gather(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (x, index), axes = inputs, params["axes"]
    if not batched[1]:
        return bind(GATHER, (x, index), {"axes": behind(axes)})
    if not batched[0]:
        index = index if len(axes) == 1 else moveaxis(index, 0, 1)
        return moveaxis(bind(GATHER, (x, index), {"axes": axes}), axes[0], 0)
    index, both = with_example(index, axes)
    return moved(bind(GATHER, (x, index), {"axes": both}), len(index.shape) - 2, 1, 1 + axes[0])


def position(w: Nest, index: Array, at: Sequence[Value], size: int) -> Value:
    """A position along an axis of a size, in a loop nest; negative ones count from its end."""
    return placed(w, w.load(index, at), index.dtype, size)


def placed(w: Nest, value: Value, dtype: Dtype, size: int) -> Value:
    """The position that a whole number of this dtype means."""
    place = w.let(w.index(value), "p")
    return w.within(place if dtype.kind == "u" else w.let(w.k.select(place < 0, place + size, place), "p"), size)


def place_of(w: Nest, index: Array, axes: Sequence[int], shape: Shape, at: Sequence[Value]) -> Value:
    """Where the element ``at`` of what is gathered stands in the flat array of the given shape, in a loop nest."""
    many = len(axes) > 1
    block, first = len(index.shape) - many, axes[0]
    own, rest = at[first : first + block], iter((*at[:first], *at[first + block :]))
    rows = iter(range(len(axes)))
    place = [position(w, index, (next(rows), *own) if many else own, size) if axis in axes else next(rest) for axis, size in enumerate(shape)]
    return offset(place, strides(shape))


def _gather_loops(w: Nest, out: Array, x: Array, index: Array, axes: tuple[int, ...]) -> None:
    with w.share(out.shape) as at:
        w.store(out, at, w.at(x, place_of(w, index, axes, x.shape, at)))


GATHER = Primitive(
    name="gather",
    inputs=("x", "index"),
    aval=_gather_aval,
    eval=_gather_eval,
    transpose=(lambda ct, to, index, axes: functions.scatter_add(index, ct, shape=to.shape, axes=axes), None),
    batch=_batch_gather,
    loops=_gather_loops,
    kernel="gather",
    onnx="Gather",
    samples=lambda rng: [
        Sample((rng.normal(size=(4, 3)), np.array([[0, -1], [2, 0]])), {"axes": 0}),
        Sample((rng.normal(size=(2, 3)), np.array(1)), {"axes": -1}),
        Sample((rng.normal(size=(2, 3, 4)), np.array([[0, 1, 1], [2, 0, 0]])), {"axes": (0, 1)}),
        Sample((rng.normal(size=(2, 3, 4)), np.array([[[0], [1]], [[3], [-4]]])), {"axes": (0, 2)}),
        Sample((rng.normal(size=(0, 3)), np.zeros(0, int)), {"axes": 0}),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), np.array([2])), AxisError, "index 2 is out of range for axis 0", {"axes": 0}),
        Refusal((np.ones((2, 3)), np.array([0.5])), DtypeError, "integers", {"axes": 0}),
        Refusal((np.ones((2, 3)), np.array([0])), AxisError, "out of range", {"axes": 2}),
        Refusal((np.ones((2, 3)), np.array([0])), ShapeError, "one row", {"axes": (0, 1)}),
    ],
)


def axes_of(axes: int | Sequence[int], ndim: int, operation: str) -> Axes:
    made = tuple(normalize_axis(axis, ndim, operation) for axis in integers(axes, operation))
    if not made or list(made) != sorted(set(made)):
        raise AxisError(f"{operation}: axes {axes} are not ascending", mend="name every axis once, in ascending order")
    return made


@gate(GATHER)
def gather(x: Tensor | npt.ArrayLike, index: Tensor | npt.ArrayLike, /, *, axes: int | Sequence[int]) -> Tensor:
    """The elements (or whole slices) at computed positions along one axis or several.

    `take` and ``x[...]`` are its everyday forms.

    Parameters
    ----------
    x : Tensor or array_like
    index : Tensor or array_like of int
        Positions, negative ones counted from the end; for several axes a row of positions per axis, in
        front: shape (len(axes), ...).
    axes : int or tuple of int
        Which axes of ``x`` they mean, ascending.

    Returns
    -------
    Tensor
        The axes of the index stand in the place of the first indexed axis.

    Raises
    ------
    AxisError
        If a position or axis is out of range.
    DtypeError
        If positions are not integers.
    ShapeError
        If there is not a row of positions per axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.gather([[1, 2], [3, 4]], [[0, 1], [1, 1]], axes=(0, 1))
    tensor([2, 4])
    """
    values = lift(x)
    return bind(GATHER, (values, positions(index, "gather")), {"axes": axes_of(axes, len(values.shape), "gather")})


@public
def take(x: Tensor | npt.ArrayLike, indices: Tensor | npt.ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """The elements, or whole slices, at positions along one axis: an embedding looks up its table like this.

    Parameters
    ----------
    x : Tensor or array_like
    indices : Tensor or array_like of int
        Positions of any shape, negative ones counted from the end.
    axis : int, optional
        May be left out if ``x`` has a single axis.

    Returns
    -------
    Tensor
        The axes of ``indices`` replace the axis.

    Raises
    ------
    AxisError
        If a position or the axis is out of range.
    DtypeError
        If positions are not integers.
    ArgumentError
        If the axis is left out and ``x`` has not a single one.

    Examples
    --------
    >>> import chainrule as cr
    >>> table = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> cr.take(table, [1, 1, 0], axis=0).sum().backward(); table.grad
    tensor([[1., 1.],
            [2., 2.]])
    """
    values = lift(x)
    if axis is None:
        if len(values.shape) != 1:
            raise ArgumentError(f"take: an array of shape {values.shape} needs an axis", mend="pass axis=")
        axis = 0
    return bind(GATHER, (values, positions(indices, "take")), {"axes": (normalize_axis(axis, len(values.shape), "take"),)})


def numbers_along(operation: str, indices: Any, axis: int, shape: Shape) -> Any:
    """Row-major numbers, in an array of the given shape, of every position's own element along an axis.

    Raises
    ------
    AxisError
        If a position is out of range.
    """
    size = shape[axis]
    low = indices.min()
    if low < -size or indices.max() >= size:
        raise out_of_range(operation, indices, (axis,), shape)
    within = np.where(indices < 0, indices + size, indices) if low < 0 else indices
    if len(shape) == 1:
        return within
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    bases = np.arange(0, outer * size * inner, size * inner).reshape(outer, 1, 1) + np.arange(inner)
    within = within.reshape(outer, indices.shape[axis], inner)
    return (within * inner + bases if inner != 1 else within + bases).reshape(indices.shape)


def _take_along_axis_eval(x: Any, indices: Any, axis: int) -> Any:
    if not indices.size:
        return np.zeros(indices.shape, x.dtype)
    return x.reshape(-1).take(numbers_along("take_along_axis", indices, axis, x.shape))


def _take_along_axis_aval(x: Aval, indices: Aval, axis: int) -> Aval:
    check_axes("take_along_axis", indices, (axis,))
    shape = (*x.shape[:axis], *indices.shape[axis : axis + 1], *x.shape[axis + 1 :])
    if indices.shape != shape:
        raise ShapeError(f"take_along_axis: {x} and positions {indices} differ beside axis {axis}", mend="make their other axes equal")
    return Aval(shape, x.dtype)


def _batch_take_along_axis(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(primitive, batch_together(batched, inputs), {"axis": params["axis"] + 1})


def _take_along_axis_loops(w: Nest, out: Array, x: Array, indices: Array, axis: int) -> None:
    with w.share(out.shape) as at:
        w.store(out, at, w.load(x, (*at[:axis], position(w, indices, at, x.shape[axis]), *at[axis + 1 :])))


TAKE_ALONG_AXIS = Primitive(
    name="take_along_axis",
    inputs=("x", "indices"),
    aval=_take_along_axis_aval,
    eval=_take_along_axis_eval,
    transpose=(lambda ct, to, indices, axis: functions.scatter_along_axis(indices, ct, axis=axis, size=to.shape[axis]), None),
    batch=_batch_take_along_axis,
    loops=_take_along_axis_loops,
    kernel="gather",
    onnx="GatherElements",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), np.array([[0, -1], [2, 2]]))),
        Sample((rng.normal(size=(2, 3)), np.array([[1, 0, 0]])), {"axis": 0}),
        Sample((rng.normal(size=(2, 1, 3)), np.array([[[0], [2]]]))),
        Sample((rng.normal(size=(4,)), np.array([3, 3]))),
        Sample((rng.normal(size=(2, 3)), np.zeros((2, 0), int))),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), np.array([[3], [0]])), AxisError, "index 3 is out of range for axis 1"),
        Refusal((np.ones((2, 3)), np.array([0])), ShapeError, "number of axes"),
        Refusal((np.ones((2, 3)), np.zeros((3, 1), int)), ShapeError, "do not broadcast"),
        Refusal((np.ones(3), np.ones(3)), DtypeError, "integers"),
    ],
)


@gate(TAKE_ALONG_AXIS)
def take_along_axis(x: Tensor | npt.ArrayLike, indices: Tensor | npt.ArrayLike, /, *, axis: int = -1) -> Tensor:
    """For every position beside the axis its own elements along the axis.

    Parameters
    ----------
    x : Tensor or array_like
    indices : Tensor or array_like of int
        Positions along the axis, in an array with as many axes as ``x``; the other axes broadcast.
    axis : int

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If a position or the axis is out of range.
    DtypeError
        If positions are not integers.
    ShapeError
        If the two differ in their number of axes, or the other axes do not broadcast.

    Notes
    -----
    For two axes and the last: ``out[i, j] = x[i, indices[i, j]]``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.take_along_axis([[3, 1], [2, 4]], [[1], [0]])
    tensor([[1],
            [2]])
    """
    values = lift(x)
    index = positions(indices, "take_along_axis")
    place = normalize_axis(axis, len(values.shape), "take_along_axis")
    if len(index.shape) != len(values.shape):
        says = f"take_along_axis: {describe(values)} and positions {describe(index)} differ in their number of axes"
        raise ShapeError(says, mend="expand_dims adds axes")
    ours, theirs = with_axis(values.shape, place, 1), with_axis(index.shape, place, 1)
    if ours != theirs:
        common = broadcast(ours, theirs)
        values = broadcast_to(values, with_axis(common, place, values.shape[place]))
        index = broadcast_to(index, with_axis(common, place, index.shape[place]))
    return bind(TAKE_ALONG_AXIS, (values, index), {"axis": place})


def _one_hot_eval(indices: Any, classes: int, dtype: Dtype) -> Any:
    indices = np.asarray(indices)
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        wrong = np.extract((indices < 0) | (indices >= classes), indices)[0]
        raise AxisError(f"one_hot: index {wrong} is not one of {classes} classes", mend="classes are numbered from 0")
    out = np.zeros((indices.size, classes), dtype)
    out[np.arange(indices.size), indices.reshape(-1)] = 1
    return out.reshape(*indices.shape, classes)


def _one_hot_aval(indices: Aval, classes: int, dtype: Dtype) -> Aval:
    check_axes("one_hot", indices, (0,))
    return Aval((*indices.shape, classes), dtype)


def _one_hot_loops(w: Nest, out: Array, indices: Array, classes: int, dtype: Dtype) -> None:
    with w.runs(indices.size, classes) as (row, columns):
        place = w.let(w.within(w.index(w.at(indices, row)), classes), "class")
        with columns() as column:
            w.put(out, row * classes + column, w.k.convert(column == place, dtype))


ONE_HOT = Primitive(
    name="one_hot",
    inputs=("indices",),
    aval=_one_hot_aval,
    eval=_one_hot_eval,
    batch=lambda primitive, batched, inputs, params: bind(primitive, inputs, params),
    loops=_one_hot_loops,
    kernel="scatter",
    onnx="OneHot",
    samples=lambda rng: [Sample((np.array([[0, 2], [1, 1]]), 3)), Sample((np.array(1), 2)), Sample((np.zeros(0, int), 2))],
    refuses=lambda: [
        Refusal((np.array([3]), 3), AxisError, "index 3 is not one of 3 classes"),
        Refusal((np.array([-1]), 3), AxisError, "numbered from 0"),
        Refusal((np.array([0.5]), 3), DtypeError, "integers"),
    ],
)


@gate(ONE_HOT)
def one_hot(indices: Tensor | npt.ArrayLike, classes: int, /, *, dtype: npt.DTypeLike | None = None) -> Tensor:
    """A row per class number: one at the class, zeros elsewhere.

    Parameters
    ----------
    indices : Tensor or array_like of int
        Class numbers from 0, of any shape.
    classes : int
        How many there are.
    dtype : dtype, optional
        Of the result; float32 if not given.

    Returns
    -------
    Tensor
        Of the indices' shape with an axis of ``classes`` behind.

    Raises
    ------
    AxisError
        If a number is no class.
    DtypeError
        If numbers are not integers.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.one_hot([0, 2], 3)
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    (count,) = integers(classes, "one_hot")
    target = DEFAULT_FLOAT if dtype is None else as_dtype(dtype, "one_hot")
    return bind(ONE_HOT, (positions(indices, "one_hot"),), {"classes": count, "dtype": target})
