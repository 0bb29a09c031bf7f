"""Writing at positions that are computed: the scatters, transposes of the gathers.

Adding to positions that occur several times adds every time; writing to them keeps the last
value, and only that one gets a cotangent.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape, broadcast, normalize_axis, promote
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest, offset, strides
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions
from chainrule.core.scalar import Value
from chainrule.ops.gate import describe, gate, lift, operands, to_dtype
from chainrule.ops.gathering import (
    GATHER,
    TAKE_ALONG_AXIS,
    Axes,
    axes_of,
    behind,
    check_axes,
    extent,
    gathered,
    moved,
    native,
    neighbours,
    numbers_along,
    out_of_range,
    place_of,
    placed,
    positions,
    with_example,
)
from chainrule.ops.joining import batch_together
from chainrule.ops.movement import broadcast_to, integers, inverse, reshape, sizes_of
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["scatter_add", "scatter_along_axis", "scatter_update"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _linear(operation: str, index: Any, axes: Axes, shape: Shape) -> Any:
    """Row-major numbers of the positions among the indexed axes."""
    rows = (index,) if len(axes) == 1 else index
    linear: Any = 0
    for axis, row in zip(axes, rows, strict=True):
        low, high = (row.min(), row.max()) if row.size else (0, -1)
        if low < -shape[axis] or high >= shape[axis]:
            raise out_of_range(operation, index, axes, shape)
        linear = linear * shape[axis] + (np.where(row < 0, row + shape[axis], row) if low < 0 else row)
    return np.asarray(linear).reshape(-1)


# Measured: from how many elements on a row is added as a whole, up to how many rows at one position are added one by one, and
# how many elements are worked on at a time, so that they stay in the cache.
_WIDE = 128
_FEW = 8
_BLOCK = 1 << 18


def _add_rows(out: Any, index: Any, rows: Any) -> None:
    """``out[index[i]] += rows[i]`` for every i."""
    width = rows.shape[1]
    step = max(1, _BLOCK // width)
    add = _add_wide if width >= _WIDE else _add_narrow
    for start in range(0, len(index), step):
        add(out, index[start : start + step], rows[start : start + step])


def _add_narrow(out: Any, index: Any, rows: Any) -> None:
    width = rows.shape[1]
    numbers = index if width == 1 else (index[:, None] * width + np.arange(width)).reshape(-1)
    np.add.at(out.reshape(-1), numbers, rows.reshape(-1))


def _add_wide(out: Any, index: Any, rows: Any) -> None:
    order = np.argsort(index, kind="stable")
    ascending = index[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    counts = np.diff(starts, append=len(index))
    many = counts > _FEW
    few, times = starts[~many], counts[~many]
    turn = 0
    while few.size:
        out[ascending[few]] += rows[order[few + turn]]
        turn += 1
        few, times = few[times > turn], times[times > turn]
    if many.any():
        sizes = counts[many]
        members = order[np.repeat(many, counts)]
        out[ascending[starts[many]]] += np.add.reduceat(rows[members], np.cumsum(sizes) - sizes, axis=0)


def _scatter_add_eval(index: Any, values: Any, shape: Shape, axes: Axes) -> Any:
    linear = _linear("scatter_add", index, axes, shape)
    rest = tuple(axis for axis in range(len(shape)) if axis not in axes)
    sizes, widths = tuple(shape[axis] for axis in axes), tuple(shape[axis] for axis in rest)
    block, first = extent(index, axes), axes[0]
    values = np.broadcast_to(values, (*widths[:first], *block, *widths[first:]))
    if first and block:
        values = np.moveaxis(values, range(first, first + len(block)), range(len(block)))
    out = np.zeros((math.prod(sizes), math.prod(widths)), values.dtype)
    if linear.size and out.size:
        _add_rows(out, linear, values.reshape(linear.size, out.shape[1]))
    out = out.reshape(sizes + widths)
    return out if axes[-1] < len(axes) else out.transpose(inverse((*axes, *rest)))


def _scatter_add_aval(index: Aval, values: Aval, shape: Shape, axes: Axes) -> Aval:
    check_axes("scatter_add", index, axes)
    check_fits("scatter_add", values, gathered(shape, index, axes))
    return Aval(shape, values.dtype)


def check_fits(name: str, value: Aval, target: Shape) -> None:
    """Refuse a value that does not broadcast to ``target``."""
    try:
        fits = broadcast(value.shape, target) == target
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(f"{name}: {value} does not fit into positions of shape {target}", mend="make the value broadcast to that shape")


def batched_value(value: Any, batched: bool, count: int, rank: int) -> Any:
    """A value with a batch axis in front of ``rank`` axes of its own."""
    if not batched:
        return broadcast_to(value, (count, *(1,) * (rank - len(value.shape)), *value.shape))
    return reshape(value, (count, *(1,) * (rank - len(value.shape) + 1), *value.shape[1:]))


def _batch_scatter(index: Any, value: Any, batched: Sequence[bool], axes: Axes, rank: int) -> tuple[Any, Any, Axes]:
    """Positions and values for writing into a whole batch of arrays of ``rank`` axes."""
    count = index.shape[0] if batched[0] else value.shape[0]
    length = len(extent(index, axes)) - batched[0]
    value = batched_value(value, batched[1], count, rank - len(axes) + length)
    if not batched[0]:
        return index, value, behind(axes)
    index, both = with_example(index, axes)
    return index, moved(value, length, 1 + axes[0], 1), both


def _batch_scatter_add(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (index, values), shape = inputs, params["shape"]
    index, values, axes = _batch_scatter(index, values, batched, params["axes"], len(shape))
    return bind(SCATTER_ADD, (index, values), {"axes": axes, "shape": (count_of(batched, inputs), *shape)})


def count_of(batched: Sequence[bool], inputs: Sequence[Any]) -> int:
    """The size of the batch axis."""
    return next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)


@contextmanager
def _scattered(w: Nest, out: Array, index: Array, axes: Sequence[int]) -> Generator[tuple[Sequence[Value], Value]]:
    """For every element of what is scattered: its place, and where it goes to."""
    rest = [size for axis, size in enumerate(out.shape) if axis not in axes]
    block = index.shape[1:] if len(axes) > 1 else index.shape
    with w.each((*rest[: axes[0]], *block, *rest[axes[0] :])) as at:
        yield at, w.let(place_of(w, index, axes, out.shape, at), "at")


def _scatter_loops(w: Nest, out: Array, index: Array, values: Array, axes: Axes, begin: Rule, change: Rule) -> None:
    """Let every element be what ``begin(place)`` says, and then those at the positions ``change(old, value)``, one after the other."""
    block = extent(index, axes)
    if not neighbours(axes) or values.shape != gathered(out.shape, index, axes):
        with w.loop(out.size) as i:
            w.put(out, i, begin(i))
        with _scattered(w, out, index, axes) as (at, place):
            w.put(out, place, change(w.at(out, place), w.load(values, at)))
        return
    sizes, width = out.shape[axes[0] : axes[-1] + 1], math.prod(out.shape[axes[-1] + 1 :])
    count, length = math.prod(sizes), math.prod(block)
    with w.runs(math.prod(out.shape[: axes[0]]), width) as (row, columns):
        with w.loop(count) as i, columns() as column:
            here = w.let((row * count + i) * width + column, "at")
            w.put(out, here, begin(here))
        with w.each(block) as own:
            place = w.let(place_of(w, index, tuple(range(len(axes))), sizes, own), "to")
            with columns() as column:
                here = w.let((row * count + place) * width + column, "at")
                w.put(out, here, change(w.at(out, here), w.at(values, (row * length + offset(own, strides(block))) * width + column)))


def _scatter_add_loops(w: Nest, out: Array, index: Array, values: Array, shape: Shape, axes: Axes) -> None:
    _scatter_loops(w, out, index, values, axes, lambda place: 0, lambda old, value: old + value)


SCATTER_ADD = Primitive(
    name="scatter_add",
    inputs=("index", "values"),
    aval=_scatter_add_aval,
    eval=_scatter_add_eval,
    transpose=(None, lambda ct, index, axes: bind(GATHER, (ct, index), {"axes": axes})),
    batch=_batch_scatter_add,
    loops=_scatter_add_loops,
    kernel="scatter",
    onnx="ScatterElements",
    samples=lambda rng: [
        Sample((np.array([0, -1, 0]), rng.normal(size=(3, 2))), {"shape": (4, 2), "axes": 0}),
        Sample((np.array([[1, 1], [0, 2]]), rng.normal(size=(2, 2, 2))), {"shape": (2, 3), "axes": 1}),
        Sample((np.array([[0, 1, 1], [2, 0, 0]]), rng.normal(size=(3, 4))), {"shape": (2, 3, 4), "axes": (0, 1)}),
        Sample((np.array([[0, 1, 1], [1, 0, 0]]), rng.normal(size=(2, 1))), {"shape": (2, 2, 3), "axes": (1, 2)}),
        Sample((np.array([[0, 1], [3, -4]]), rng.normal(size=(2, 3))), {"shape": (2, 3, 4), "axes": (0, 2)}),
        Sample((np.array(1), rng.normal()), {"shape": (3,), "axes": 0}),
        Sample((np.zeros(0, int), rng.normal(size=(0, 2))), {"shape": (3, 2), "axes": 0}),
    ],
    refuses=lambda: [
        Refusal((np.array([4]), np.ones(1)), AxisError, "index 4 is out of range", {"shape": (4,), "axes": 0}),
        Refusal((np.array([0, 1]), np.ones(3)), ShapeError, "does not fit", {"shape": (4,), "axes": 0}),
        Refusal((np.array([0.5]), np.ones(1)), DtypeError, "integers", {"shape": (4,), "axes": 0}),
    ],
)


@gate(SCATTER_ADD)
def scatter_add(index: Tensor | npt.ArrayLike, values: Tensor | npt.ArrayLike, /, *, shape: int | Sequence[int], axes: int | Sequence[int]) -> Tensor:
    """Zeros with values added at computed positions: the transpose of `gather`.

    Parameters
    ----------
    index : Tensor or array_like of int
        Positions as for `gather`; where one occurs several times, its values are summed.
    values : Tensor or array_like
        Of the shape that `gather` would give, or one that broadcasts to it.
    shape : tuple of int
        Of the result.
    axes : int or tuple of int
        Which axes of the result the positions mean, ascending.

    Returns
    -------
    Tensor
        Of the values' dtype.

    Raises
    ------
    AxisError
        If a position or axis is out of range.
    DtypeError
        If positions are not integers.
    ShapeError
        If the values do not fit the positions.

    Notes
    -----
    The same call always gives the same bits.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.scatter_add([0, 2, 0], [1.0, 2.0, 3.0], shape=(3,), axes=0)
    tensor([4., 0., 2.])
    """
    sizes = sizes_of(shape, "scatter_add")
    (added,) = operands("scatter_add", "numeric", values)
    return bind(SCATTER_ADD, (positions(index, "scatter_add"), added), {"shape": sizes, "axes": axes_of(axes, len(sizes), "scatter_add")})


def _scatter_update_eval(x: Any, index: Any, value: Any, axes: Axes) -> Any:
    out = np.array(x)
    # Non-neighbouring axes have the index's axes in front in NumPy, in the place of the first axis here.
    view = out if neighbours(axes) else np.moveaxis(out, axes, range(axes[0], axes[0] + len(axes)))
    places = axes if neighbours(axes) else tuple(range(axes[0], axes[0] + len(axes)))
    try:
        view[native(index, places)] = value
    except IndexError:
        raise out_of_range("scatter_update", index, axes, x.shape) from None
    return out


def _scatter_update_aval(x: Aval, index: Aval, value: Aval, axes: Axes) -> Aval:
    check_axes("scatter_update", index, axes)
    check_fits("scatter_update", value, gathered(x.shape, index, axes))
    return x


def _batch_scatter_update(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    x, index, value = inputs
    rank = len(x.shape) - batched[0]
    count = count_of(batched, inputs)
    x = x if batched[0] else broadcast_to(x, (count, *x.shape))
    value = value if batched[2] or batched[1] else broadcast_to(value, (count, *value.shape))
    index, value, axes = _batch_scatter(index, value, (batched[1], batched[2] or not batched[1]), params["axes"], rank)
    return bind(SCATTER_UPDATE, (x, index, value), {"axes": axes})


def _kept(ct: Any, index: Any, axes: Axes) -> Any:
    """The cotangent of written values: zero for those that a later one at the same position replaced."""
    block = extent(index, axes)
    order = np.arange(math.prod(block)).reshape(block)
    sizes = tuple(ct.shape[axis] for axis in axes)
    own = tuple(range(len(axes)))
    written = scatter_update(np.zeros(sizes, np.int64), index, order, axes=own)
    last = bind(GATHER, (written, index), {"axes": own}) == order
    rest = len(ct.shape) - len(axes) - axes[0]
    return functions.where(reshape(last, (*block, *(1,) * rest)), bind(GATHER, (ct, index), {"axes": axes}), 0.0)


def _scatter_update_loops(w: Nest, out: Array, x: Array, index: Array, value: Array, axes: Axes) -> None:
    _scatter_loops(w, out, index, value, axes, lambda place: w.at(x, place), lambda old, new: new)


SCATTER_UPDATE = Primitive(
    name="scatter_update",
    inputs=("x", "index", "value"),
    aval=_scatter_update_aval,
    eval=_scatter_update_eval,
    transpose=(lambda ct, index, axes: scatter_update(ct, index, 0.0, axes=axes), None, _kept),
    batch=_batch_scatter_update,
    loops=_scatter_update_loops,
    kernel="scatter",
    onnx="ScatterND",
    samples=lambda rng: [
        Sample((rng.normal(size=(4, 2)), np.array([0, -1]), rng.normal(size=(2, 2))), {"axes": 0}),
        Sample((rng.normal(size=(4,)), np.array([1, 2, 1]), rng.normal(size=(3,))), {"axes": 0}),
        Sample((rng.normal(size=(2, 3)), np.array([[1, 1], [0, 2]]), rng.normal()), {"axes": 1}),
        Sample((rng.normal(size=(2, 3, 4)), np.array([[0, 1, 1], [2, 0, 0]]), rng.normal(size=(3, 1))), {"axes": (0, 1)}),
        Sample((rng.normal(size=(2, 3, 4)), np.array([[0, 1], [3, -4]]), rng.normal(size=(2, 3))), {"axes": (0, 2)}),
    ],
    refuses=lambda: [
        Refusal((np.ones(4), np.array([4]), 1.0), AxisError, "index 4 is out of range", {"axes": 0}),
        Refusal((np.ones(4), np.array([0, 1]), np.ones(3)), ShapeError, "does not fit", {"axes": 0}),
        Refusal((np.ones(4), np.array([0.5]), 1.0), DtypeError, "integers", {"axes": 0}),
        Refusal((np.ones(4, int), np.array([0]), 0.5), DtypeError, "without loss", {"axes": 0}),
    ],
)


def written_values(name: str, x: Any, value: Any) -> tuple[Any, Any]:
    """An array and what is written into it, in the array's dtype.

    Raises
    ------
    DtypeError
        If the value is of a higher kind than the array.
    """
    x = lift(x)
    weak = value.__class__ in (bool, int, float, complex)
    value = value if weak else lift(value)
    dtype = promote(x.dtype, value if weak else value.dtype)
    if dtype.kind != x.dtype.kind:
        raise DtypeError(f"{name}: a {x.dtype} tensor cannot take the value {describe(value)} without loss", mend="convert one of them with astype")
    return x, to_dtype(value, x.dtype)


@gate(SCATTER_UPDATE)
def scatter_update(
    x: Tensor | npt.ArrayLike, index: Tensor | npt.ArrayLike, value: Tensor | npt.ArrayLike, /, *, axes: int | Sequence[int]
) -> Tensor:
    """A copy of an array with values written at computed positions.

    `index_update` is its everyday form.

    Parameters
    ----------
    x : Tensor or array_like
    index : Tensor or array_like of int
        Positions as for `gather`; where one occurs several times, the last value stays.
    value : Tensor or array_like
        Of the shape that `gather` would give, or one that broadcasts to it.
    axes : int or tuple of int
        Which axes of ``x`` the positions mean, ascending.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    AxisError
        If a position or axis is out of range.
    DtypeError
        If positions are not integers, or the value is of a higher kind than ``x``.
    ShapeError
        If the value does not fit the positions.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.scatter_update([1.0, 2.0, 3.0], [0, 2, 0], [7.0, 8.0, 9.0], axes=0)
    tensor([9., 2., 8.])
    """
    old, new = written_values("scatter_update", x, value)
    return bind(SCATTER_UPDATE, (old, positions(index, "scatter_update"), new), {"axes": axes_of(axes, len(old.shape), "scatter_update")})


def _scatter_along_axis_eval(indices: Any, values: Any, axis: int, size: int) -> Any:
    shape = (*indices.shape[:axis], size, *indices.shape[axis + 1 :])
    out = np.zeros(shape, values.dtype)
    if not indices.size:
        return out
    numbers = numbers_along("scatter_along_axis", indices, axis, shape)
    np.add.at(out.reshape(-1), numbers.reshape(-1), values.reshape(-1))
    return out


def _scatter_along_axis_aval(indices: Aval, values: Aval, axis: int, size: int) -> Aval:
    check_axes("scatter_along_axis", indices, (axis,))
    if indices.shape != values.shape:
        raise ShapeError(f"scatter_along_axis: positions {indices} and values {values} differ in shape", mend="make the shapes equal")
    return Aval((*indices.shape[:axis], size, *indices.shape[axis + 1 :]), values.dtype)


def _batch_scatter_along_axis(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(SCATTER_ALONG_AXIS, batch_together(batched, inputs), {**params, "axis": params["axis"] + 1})


def _scatter_along_axis_loops(w: Nest, out: Array, indices: Array, values: Array, axis: int, size: int) -> None:
    length, width = values.shape[axis], math.prod(values.shape[axis + 1 :])
    with w.runs(math.prod(values.shape[:axis]), width) as (row, columns):
        with w.loop(size) as i, columns() as column:
            w.put(out, (row * size + i) * width + column, 0)
        with w.loop(length) as i, columns() as column:
            source = w.let((row * length + i) * width + column, "from")
            here = w.let((row * size + placed(w, w.at(indices, source), indices.dtype, size)) * width + column, "at")
            w.put(out, here, w.at(out, here) + w.at(values, source))


SCATTER_ALONG_AXIS = Primitive(
    name="scatter_along_axis",
    inputs=("indices", "values"),
    aval=_scatter_along_axis_aval,
    eval=_scatter_along_axis_eval,
    transpose=(None, lambda ct, indices, axis: bind(TAKE_ALONG_AXIS, (ct, indices), {"axis": axis})),
    batch=_batch_scatter_along_axis,
    loops=_scatter_along_axis_loops,
    kernel="scatter",
    onnx="ScatterElements",
    samples=lambda rng: [
        Sample((np.array([[0, -1], [2, 2]]), rng.normal(size=(2, 2))), {"axis": 1, "size": 3}),
        Sample((np.array([[0, -1], [2, 2]]), rng.normal(size=(2, 2))), {"axis": 0, "size": 3}),
        Sample((np.array([1, 1, 0]), rng.normal(size=(3,))), {"size": 2}),
        Sample((np.zeros((2, 0), int), np.zeros((2, 0))), {"size": 2}),
    ],
    refuses=lambda: [
        Refusal((np.array([3]), np.ones(1)), AxisError, "index 3 is out of range", {"size": 3}),
        Refusal((np.array([0, 1]), np.ones(3)), ShapeError, "differ in shape", {"size": 3}),
        Refusal((np.array([0.5]), np.ones(1)), DtypeError, "integers", {"size": 3}),
        Refusal((np.array([0]), np.ones(1)), ArgumentError, "negative", {"size": -1}),
    ],
)


@gate(SCATTER_ALONG_AXIS)
def scatter_along_axis(indices: Tensor | npt.ArrayLike, values: Tensor | npt.ArrayLike, /, *, size: int, axis: int = -1) -> Tensor:
    """Zeros with every value added at its own position along an axis: the transpose of `take_along_axis`.

    Parameters
    ----------
    indices : Tensor or array_like of int
        Positions along the axis, negative ones counted from the end.
    values : Tensor or array_like
        Of the same shape.
    size : int
        Of the result along the axis.
    axis : int

    Returns
    -------
    Tensor
        Of the values' dtype, and their shape but for the axis.

    Raises
    ------
    AxisError
        If a position or the axis is out of range.
    DtypeError
        If positions are not integers.
    ShapeError
        If the two shapes differ.
    ArgumentError
        If the size is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.scatter_along_axis([[0, 2], [1, 1]], [[1.0, 2.0], [3.0, 4.0]], size=3)
    tensor([[1., 0., 2.],
            [0., 7., 0.]])
    """
    (added,) = operands("scatter_along_axis", "numeric", values)
    (count,) = integers(size, "scatter_along_axis")
    if count < 0:
        raise ArgumentError(f"scatter_along_axis: a negative size, {size}", mend="the size is 0 or more, above every position")
    place = normalize_axis(axis, len(added.shape), "scatter_along_axis")
    return bind(SCATTER_ALONG_AXIS, (positions(indices, "scatter_along_axis"), added), {"axis": place, "size": count})
