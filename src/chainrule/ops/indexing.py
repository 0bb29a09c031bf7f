"""Square brackets: reading ``x[index]`` in every form that NumPy knows, and writing as a new array.

Integers, slices, None and the ellipsis are static: they stand in the gate's parameters as a
`Basic` index, and reading them copies nothing. Integer arrays and boolean masks are inputs; an index that mixes
both kinds is taken apart into a basic index and one gather.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.gate import concrete, describe, gate, lift, operands
from chainrule.ops.gathering import GATHER, Axes, gathered, positions
from chainrule.ops.joining import stack, zeros
from chainrule.ops.movement import broadcast_arrays, broadcast_to, integers, moveaxis, reshape
from chainrule.ops.scattering import batched_value, check_fits, count_of, scatter_add, scatter_update, written_values
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["getitem", "index_add", "index_update", "place"]

if TYPE_CHECKING:
    import numpy.typing as npt

_ALL = slice(None)


class Basic:
    """A static index in normal form: integers and slices counted from the front, no ellipsis, no trailing ``:``.

    Attributes
    ----------
    native : tuple
        The index as NumPy takes it.
    key : tuple
        The same with slices as tuples, which can be hashed.
    """

    __slots__ = ("key", "native")

    native: tuple[int | slice | None, ...]
    key: tuple[Any, ...]

    def __init__(self, native: tuple[int | slice | None, ...]) -> None:
        while native and native[-1] == _ALL:
            native = native[:-1]
        self.native = native
        self.key = tuple((item.start, item.stop, item.step) if isinstance(item, slice) else item for item in native)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Basic) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"[{', '.join(map(_written, self.native)) or '...'}]"

    def behind_batch(self) -> Basic:
        """The same index with an axis in front."""
        return Basic((_ALL, *self.native))

    def shape(self, shape: Shape) -> Shape:
        """The shape of what is read from an array of the given one."""
        result: list[int] = []
        axis = 0
        for item in self.native:
            if item is None:
                result.append(1)
                continue
            if axis >= len(shape):
                raise AxisError(f"getitem: {self} has more entries than shape {shape} has axes")
            if isinstance(item, slice):
                result.append(len(range(*item.indices(shape[axis]))))
            elif not 0 <= item < shape[axis]:
                raise AxisError(f"getitem: index {item} is out of range for axis {axis} of size {shape[axis]}")
            axis += 1
        return (*result, *shape[axis:])


def _written(item: int | slice | None) -> str:
    if not isinstance(item, slice):
        return str(item)
    parts = ["" if part is None else str(part) for part in (item.start, item.stop, item.step)]
    return ":".join(parts[:2] if item.step in (None, 1) else parts)


def _integer(item: int, axis: int, shape: Shape) -> int:
    size = shape[axis]
    if not -size <= item < size:
        raise AxisError(f"index {item} is out of range for axis {axis} of shape {shape}, which has size {size}")
    return item + size if item < 0 else item


def _slice(item: slice, size: int) -> slice:
    try:
        start, stop, step = item.indices(size)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"the slice {item.start}:{item.stop}:{item.step} cannot be read: {error}", mend="bounds are integers or None, steps are not 0") from None
    length = len(range(start, stop, step))
    if length == size and step == 1:
        return _ALL
    if not length:
        return slice(0, 0, 1)
    return slice(start, None if stop < 0 else stop, step)


@dataclass(slots=True)
class _Plan:
    """An index taken apart: first the basic one, then axes merged, then a gather, then its axes moved.

    Attributes
    ----------
    basic : Basic
    merged : tuple of int or None
        Shape to give to what the basic index reads; the axes under a mask become one.
    index : Tensor or None
        Positions for the gather.
    axes : tuple of int
        Axes that the positions mean.
    front : int
        How many axes of the positions move to the front, as NumPy has it where other entries stand between arrays.
    """

    basic: Basic
    merged: Shape | None = None
    index: Any = None
    axes: Axes = ()
    front: int = 0


def _plan(index: Any, shape: Shape) -> _Plan:
    """Take an index apart.

    Raises
    ------
    AxisError
        If it has more entries than there are axes, or a static position is out of range.
    DtypeError
        If an entry is no index.
    ShapeError
        If a mask does not have the shape of what it selects from, or arrays do not broadcast.
    """
    entries = [_entry(item) for item in (index if index.__class__ is tuple else (index,))]
    entries = _without_ellipsis(entries, shape)
    native: list[int | slice | None] = []
    arrays: list[tuple[int, Any]] = []
    merged: list[int] = []
    advanced: list[int] = []
    axis = 0
    for position, item in enumerate(entries):
        if item is ...:
            continue
        if item is None:
            native.append(None)
            merged.append(1)
        elif item.__class__ is int:
            native.append(_integer(item, axis, shape))
            advanced.append(position)
            axis += 1
        elif item.__class__ is slice:
            native.append(_slice(item, shape[axis]))
            merged.append(len(range(*item.indices(shape[axis]))))
            axis += 1
        else:
            advanced.append(position)
            rank = _consumed(item)
            arrays.append((len(merged), _positions(item, shape[axis : axis + rank], axis)))
            native.extend((_ALL,) * rank if rank else (None,))
            merged.append(math.prod(shape[axis : axis + rank]))
            axis += rank
    basic = Basic(tuple(native))
    if not arrays:
        return _Plan(basic)
    merged.extend(shape[axis:])
    axes = tuple(place for place, _ in arrays)
    rows = _broadcast([row for _, row in arrays])
    apart = advanced[-1] - advanced[0] != len(advanced) - 1
    return _Plan(
        basic,
        None if tuple(merged) == basic.shape(shape) else tuple(merged),
        rows[0] if len(rows) == 1 else stack(rows),
        axes,
        len(rows[0].shape) if apart and axes[0] else 0,
    )


def _entry(item: Any) -> Any:
    """An int, a slice, None, the ellipsis, or an array of integers or booleans."""
    if item is None or item is ... or item.__class__ is int or item.__class__ is slice:
        return item
    if isinstance(item, np.integer) or (isinstance(item, int) and not isinstance(item, bool)):
        return int(item)
    if isinstance(item, (list, tuple)) and not np.size(item):
        item = np.zeros(np.shape(item), np.int64)
    try:
        array = lift(item)
    except DtypeError:
        raise DtypeError(f"{item!r} is not an index", mend="use integers, slices, None, ..., or arrays of integers or booleans") from None
    if array.dtype.kind not in "biu":
        raise DtypeError(f"{describe(array)} is not an index", mend="use integers or booleans; astype(cr.int64) converts")
    value = array._value if isinstance(array, Tensor) else array
    return int(value) if array.dtype.kind != "b" and array.shape == () and isinstance(value, (np.ndarray, np.generic)) else array


def _consumed(item: Any) -> int:
    """How many axes an entry uses up."""
    if item is None or item is ...:
        return 0
    return len(item.shape) if item.__class__ not in (int, slice) and item.dtype.kind == "b" else 1


def _without_ellipsis(entries: list[Any], shape: Shape) -> list[Any]:
    """All axes named, as far as arrays or an ellipsis need it."""
    used = sum(map(_consumed, entries))
    if used > len(shape):
        raise AxisError(f"an index for {used} axes is too long for shape {shape}", mend="index at most as many axes as there are")
    dots = [position for position, item in enumerate(entries) if item is ...]
    if len(dots) > 1:
        raise AxisError("an index can have only one ellipsis (...)")
    if not dots:
        return entries
    # Even an ellipsis for no axis at all separates the arrays beside it.
    separates = len(shape) == used and 0 < dots[0] < len(entries) - 1
    fill = [_ALL] * (len(shape) - used)
    return [*entries[: dots[0]], *(fill or [...] * separates), *entries[dots[0] + 1 :]]


def _positions(item: Any, sizes: Shape, axis: int) -> Any:
    """The positions that an array selects on an axis, or a mask on axes merged into one."""
    if item.dtype.kind != "b":
        return positions(item, "getitem")
    if item.shape != sizes:
        raise ShapeError(f"a mask of shape {item.shape} cannot select from axes {axis} to {axis + len(item.shape) - 1}, of sizes {sizes}", mend="make the shapes equal")
    return lift(np.flatnonzero(concrete(item, "masks in an index")))


def _broadcast(rows: list[Any]) -> Sequence[Any]:
    if len(rows) == 1:
        return rows
    try:
        return broadcast_arrays(*rows)
    except ShapeError:
        shapes = " and ".join(str(row.shape) for row in rows)
        raise ShapeError(f"arrays of positions of shapes {shapes} do not broadcast", mend="make sizes equal or 1; masks count the elements that they select") from None


def _batch_getitem(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(GETITEM, inputs, {"index": params["index"].behind_batch()})


GETITEM = Primitive(
    name="getitem",
    inputs=("x",),
    aval=lambda x, index: Aval(index.shape(x.shape), x.dtype),
    eval=lambda x, index: x[index.native],
    transpose=lambda ct, to, index: bind(PLACE, (ct,), {"index": index, "shape": to.shape}),
    batch=_batch_getitem,
    kernel="move",
    onnx="Slice",
    samples=lambda rng: [
        Sample((rng.normal(size=(4, 3)), index))
        for index in (
            0,
            (-1, 2),
            slice(None, None, -2),
            (None, ..., 1),
            (slice(1, 1), slice(None)),
            [0, -1, 0],
            (slice(1, None), np.array([[2, 0]])),
            (np.array([0, 1]), np.array([2, 2])),
            np.array([True, False, True, True]),
            (slice(None, 3), None, [True, False, True]),
            np.eye(4, 3, dtype=bool),
        )
    ]
    + [Sample((rng.normal(size=(2, 3, 2)), (1, slice(None), [1, 0]))), Sample((rng.normal(), ())), Sample((rng.normal(size=(0, 2)), slice(None, None, -1)))],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), 2), AxisError, "index 2 is out of range for axis 0"),
        Refusal((np.ones((2, 3)), (0, 0, 0)), AxisError, "too long"),
        Refusal((np.ones((2, 3)), (..., ...)), AxisError, "one ellipsis"),
        Refusal((np.ones((2, 3)), [0, 2]), AxisError, "index 2 is out of range for axis 0"),
        Refusal((np.ones((2, 3)), [0.5]), DtypeError, "not an index"),
        Refusal((np.ones((2, 3)), "a"), DtypeError, "not an index"),
        Refusal((np.ones((2, 3)), np.ones(3, bool)), ShapeError, "mask of shape (3,)"),
        Refusal((np.ones((2, 3)), ([0, 1], [0, 1, 2])), ShapeError, "do not broadcast"),
    ],
)


@gate(GETITEM)
def getitem(x: Tensor | npt.ArrayLike, index: Any, /) -> Tensor:
    """``x[index]``, with every form of index that NumPy has.

    Parameters
    ----------
    x : Tensor or array_like
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
        Arrays may be Tensors, NumPy arrays or lists. Values of masks must be known: they decide the shape.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    DtypeError
        If an entry is no index.
    ShapeError
        If a mask does not have the shape of what it selects from, or arrays of positions do not broadcast.

    Notes
    -----
    Slices out of range are cut short, as everywhere in Python. Where the same element is read several times, its
    gradient is the sum.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = x[[0, 2, 2]]; y
    tensor([1., 3., 3.], from=gather)
    >>> y.sum().backward(); x.grad
    tensor([1., 0., 2.])
    """
    x = lift(x)
    plan = _plan(index, x.shape)
    if plan.index is None:
        return bind(GETITEM, (x,), {"index": plan.basic})
    out = bind(GATHER, (_selected(x, plan), plan.index), {"axes": plan.axes})
    return _moved_block(out, plan.front, plan.axes[0], 0)


def _selected(x: Any, plan: _Plan) -> Any:
    """What the gather reads from."""
    if plan.basic.key:
        x = bind(GETITEM, (x,), {"index": plan.basic})
    return x if plan.merged is None else reshape(x, plan.merged)


def _moved_block(x: Any, length: int, source: int, target: int) -> Any:
    return moveaxis(x, tuple(range(source, source + length)), tuple(range(target, target + length))) if length else x


def _place_eval(value: Any, index: Basic, shape: Shape) -> Any:
    out = np.zeros(shape, value.dtype)
    out[index.native] = value
    return out


def _place_aval(value: Aval, index: Basic, shape: Shape) -> Aval:
    check_fits("place", value, index.shape(shape))
    return Aval(shape, value.dtype)


def _batch_place(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (value,), index, shape = inputs, params["index"], params["shape"]
    count = value.shape[0]
    value = batched_value(value, True, count, len(index.shape(shape)))
    return bind(PLACE, (value,), {"index": index.behind_batch(), "shape": (count, *shape)})


PLACE = Primitive(
    name="place",
    inputs=("value",),
    aval=_place_aval,
    eval=_place_eval,
    transpose=lambda ct, index: bind(GETITEM, (ct,), {"index": index}),
    batch=_batch_place,
    kernel="move",
    onnx="Pad",
    samples=lambda rng: [
        Sample((rng.normal(size=(3,)), 1), {"shape": (2, 3)}),
        Sample((rng.normal(size=(2,)), (slice(None, None, -2), 0)), {"shape": (4, 3)}),
        Sample((rng.normal(), (slice(1, None), None)), {"shape": (3, 2)}),
        Sample((rng.normal(size=(3, 2)), [0, 1, 0]), {"shape": (4, 2)}),
        Sample((rng.normal(size=(2, 3)), (1, slice(None), [1, 0])), {"shape": (2, 3, 2)}),
        Sample((rng.normal(size=(2,)), np.array([True, False, True])), {"shape": (3,)}),
    ],
    refuses=lambda: [
        Refusal((np.ones(2), 0), ShapeError, "does not fit", {"shape": (2, 3)}),
        Refusal((np.ones(3), 2), AxisError, "out of range", {"shape": (2, 3)}),
    ],
)


@gate(PLACE)
def place(value: Tensor | npt.ArrayLike, index: Any, /, *, shape: int | Sequence[int]) -> Tensor:
    """Zeros with a value at ``index``: the transpose of reading ``x[index]``.

    Parameters
    ----------
    value : Tensor or array_like
        Numbers of the shape that reading at the index gives, or one that broadcasts to it. Where the index names an
        element several times, its values are summed.
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
    shape : tuple of int
        Of the result.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    ShapeError
        If the value does not fit.
    DtypeError
        If an entry is no index, or the value is not numeric.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.place([1.0, 2.0], slice(1, 3), shape=4)
    tensor([0., 1., 2., 0.])
    """
    (value,) = operands("place", "numeric", value)
    whole = integers(shape, "place")
    plan = _plan(index, whole)
    basic = plan.basic
    part = basic.shape(whole)
    if plan.index is not None:
        inner = plan.merged or part
        value = scatter_add(plan.index, _fitted("place", value, plan, inner), shape=inner, axes=plan.axes)
        value = value if inner == part else reshape(value, part)
        if not basic.key:
            return value
    return bind(PLACE, (_trimmed(value, len(part)),), {"index": basic, "shape": whole})


def _trimmed(value: Any, rank: int) -> Any:
    """Without axes of size 1 in front that are too many, which NumPy allows in an assignment."""
    extra = len(value.shape) - rank
    return reshape(value, value.shape[extra:]) if extra > 0 and set(value.shape[:extra]) == {1} else value


def _fitted(name: str, value: Any, plan: _Plan, inner: Shape) -> Any:
    """A value as the scatter takes it, whose index's axes stand in the place of the first indexed axis."""
    target = gathered(inner, plan.index, plan.axes)
    value = _trimmed(value, len(target))
    if not plan.front:
        return value
    first = plan.axes[0]
    numpys = (*target[first : first + plan.front], *target[:first], *target[first + plan.front :])
    check_fits(name, Aval(value.shape, value.dtype), numpys)
    return _moved_block(broadcast_to(value, numpys), plan.front, 0, first)


def _index_update_eval(x: Any, value: Any, index: Basic) -> Any:
    out = np.array(x)
    out[index.native] = value
    return out


def _index_update_aval(x: Aval, value: Aval, index: Basic) -> Aval:
    check_fits("index_update", value, index.shape(x.shape))
    return x


def _batch_index_update(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (x, value), index = inputs, params["index"]
    count = count_of(batched, inputs)
    x = x if batched[0] else broadcast_to(x, (count, *x.shape))
    value = batched_value(value, batched[1], count, len(index.shape(x.shape[1:])))
    return bind(INDEX_UPDATE, (x, value), {"index": index.behind_batch()})


INDEX_UPDATE = Primitive(
    name="index_update",
    inputs=("x", "value"),
    aval=_index_update_aval,
    eval=_index_update_eval,
    transpose=(
        lambda ct, index: bind(INDEX_UPDATE, (ct, zeros((), ct.dtype)), {"index": index}),
        lambda ct, index: bind(GETITEM, (ct,), {"index": index}),
    ),
    batch=_batch_index_update,
    kernel="move",
    onnx="ScatterND",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), 1, rng.normal(size=(3,)))),
        Sample((rng.normal(size=(4, 3)), (slice(None, None, -2), 0), rng.normal(size=(2,)))),
        Sample((rng.normal(size=(3, 2)), (slice(1, None), None), rng.normal())),
        Sample((rng.normal(size=(4, 2)), [0, 1, 0], rng.normal(size=(3, 2)))),
        Sample((rng.normal(size=(2, 3, 2)), (1, slice(None), [1, 0]), rng.normal(size=(2, 3)))),
        Sample((rng.normal(size=(3, 2)), np.array([True, False, True]), rng.normal(size=(2, 1)))),
        Sample((rng.normal(size=(3, 2)), np.array([True, False, True]), rng.normal())),
        Sample((rng.normal(), (), rng.normal())),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), 0, np.ones(2)), ShapeError, "does not fit"),
        Refusal((np.ones((2, 3)), 2, 1.0), AxisError, "out of range"),
        Refusal((np.ones((2, 3), int), 0, 0.5), DtypeError, "without loss"),
    ],
)


@gate(INDEX_UPDATE)
def index_update(x: Tensor | npt.ArrayLike, index: Any, value: Tensor | npt.ArrayLike, /) -> Tensor:
    """A copy of ``x`` in which ``x[index] = value``; gradients flow to both.

    Parameters
    ----------
    x : Tensor or array_like
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
    value : Tensor or array_like
        Of the shape of ``x[index]``, or one that broadcasts to it. Where the index names an element several times, the
        last of its values stays.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    ShapeError
        If the value does not fit.
    DtypeError
        If an entry is no index, or the value is of a higher kind than ``x``.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = cr.index_update(x, slice(1, None), 0.0); y
    tensor([1., 0., 0.], from=index_update)
    >>> y.sum().backward(); x.grad
    tensor([1., 0., 0.])
    """
    x, value = written_values("index_update", x, value)
    mask = _mask(index)
    if mask is not None and len(mask.shape) <= len(x.shape) - len(value.shape) and mask.shape == x.shape[: len(mask.shape)]:
        # A value that is the same for all selected elements needs no positions, so the mask may be traced.
        return functions.where(reshape(mask, (*mask.shape, *(1,) * (len(x.shape) - len(mask.shape)))), value, x)
    plan = _plan(index, x.shape)
    part = plan.basic.shape(x.shape)
    if plan.index is not None:
        inner = _selected(x, plan)
        value = scatter_update(inner, plan.index, _fitted("index_update", value, plan, inner.shape), axes=plan.axes)
        value = value if plan.merged is None else reshape(value, part)
        if not plan.basic.key:
            return value
    return bind(INDEX_UPDATE, (x, _trimmed(value, len(part))), {"index": plan.basic})


def _mask(index: Any) -> Any:
    """The index as a mask, if it is one."""
    if not isinstance(index, (Tensor, np.ndarray, list)):
        return None
    try:
        lifted = lift(index)
    except DtypeError:
        return None
    return lifted if lifted.dtype.kind == "b" and lifted.shape else None


@public
def index_add(x: Tensor | npt.ArrayLike, index: Any, value: Tensor | npt.ArrayLike, /) -> Tensor:
    """A copy of ``x`` in which ``x[index] += value``, once for every time that the index names an element.

    Parameters
    ----------
    x : Tensor or array_like
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
    value : Tensor or array_like
        Of the shape of ``x[index]``, or one that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    ShapeError
        If the value does not fit.
    DtypeError
        If an entry is no index, or the value is of a higher kind than ``x``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.index_add([1.0, 2.0], [0, 0, 1], 10.0)
    tensor([21., 12.])
    """
    x, value = written_values("index_add", x, value)
    return x + place(value, index, shape=x.shape)
