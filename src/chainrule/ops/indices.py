"""What stands in square brackets, taken apart.

Integers, slices, None and the ellipsis are static: in normal form they make a `Basic` index. Integer arrays and
boolean masks become positions for one gather. `plan_of` splits an index that mixes both kinds; nothing is read here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.ops.gate import concrete, describe, lift
from chainrule.ops.gathering import Axes, in_range, positions
from chainrule.ops.joining import stack
from chainrule.ops.movement import broadcast_arrays
from chainrule.tensor import Tensor

__all__: list[str] = []

_ALL = slice(None)


class Basic:
    """A static index in normal form: integers and slices counted from the front, no ellipsis, no trailing ``:``.

    Attributes
    ----------
    native : tuple
        The index as NumPy takes it.
    """

    __slots__ = ("native",)

    native: tuple[int | slice | None, ...]

    def __init__(self, native: tuple[int | slice | None, ...]) -> None:
        while native and native[-1] is _ALL:
            native = native[:-1]
        self.native = native

    @property
    def key(self) -> tuple[Any, ...]:
        """The index with slices as tuples, which can be hashed."""
        return tuple((item.start, item.stop, item.step) if isinstance(item, slice) else item for item in self.native)

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
                raise AxisError(f"getitem: {self} has more entries than shape {shape} has axes", mend="leave entries out; None adds an axis")
            if isinstance(item, slice):
                result.append(len(range(*item.indices(shape[axis]))))
            elif not 0 <= item < shape[axis]:
                raise AxisError(f"getitem: index {item} is out of range for axis {axis} of size {shape[axis]}", mend=in_range(shape[axis]))
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
        raise AxisError(f"getitem: index {item} is out of range for axis {axis} of size {size}, in shape {shape}", mend=in_range(size))
    return item + size if item < 0 else item


def _slice(item: slice, size: int) -> slice:
    try:
        start, stop, step = item.indices(size)
    except (TypeError, ValueError) as error:
        says = f"slice {item.start}:{item.stop}:{item.step}: {error}"
        raise DtypeError(says, mend="bounds are integers or None, steps are not 0") from None
    length = len(range(start, stop, step))
    if length == size and step == 1:
        return _ALL
    if not length:
        return slice(0, 0, 1)
    return slice(start, None if stop < 0 else stop, step)


def basic_of(index: Any, shape: Shape) -> Basic | None:
    """The index if it is plainly one of integers, slices and None that are in range; else `plan_of` has more to say."""
    native: list[int | slice | None] = []
    axis, rank = 0, len(shape)
    for item in index if index.__class__ is tuple else (index,):
        if item is None:
            native.append(None)
            continue
        if axis == rank:
            return None
        size = shape[axis]
        if item.__class__ is int:
            if not -size <= item < size:
                return None
            native.append(item + size if item < 0 else item)
        elif item.__class__ is slice:
            native.append(_slice(item, size))
        else:
            return None
        axis += 1
    return Basic(tuple(native))


@dataclass(slots=True)
class Plan:
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


def plan_of(index: Any, shape: Shape) -> Plan:
    """Take an index apart.

    Raises
    ------
    AxisError
        If it has more entries than there are axes, a static position is out of range, or a mask does not fit.
    DtypeError
        If an entry is no index.
    ShapeError
        If arrays of positions do not broadcast.
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
        return Plan(basic)
    merged.extend(shape[axis:])
    axes = tuple(place for place, _ in arrays)
    rows = _broadcast([row for _, row in arrays])
    apart = advanced[-1] - advanced[0] != len(advanced) - 1
    return Plan(
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
    try:
        array = lift(item)
    except DtypeError:
        raise DtypeError(f"{item!r} is not an index", mend="use integers, slices, None, ..., or arrays of integers or booleans") from None
    # An empty list has no dtype of its own.
    if array.dtype.kind not in "biu" and not (isinstance(item, list) and 0 in array.shape):
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
        raise AxisError("getitem: an index can have only one ellipsis (...)", mend="write : for the other axes")
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
        # As NumPy and the array API have it, a mask without elements selects nothing from anything.
        if math.prod(item.shape) or any(mask not in (size, 0) for mask, size in zip(item.shape, sizes, strict=True)):
            says = f"a mask of shape {item.shape} does not fit axes of sizes {sizes}, which begin at axis {axis}"
            raise AxisError(says, mend="make the shapes equal")
        return lift(np.zeros(0, np.int64))
    return lift(np.flatnonzero(concrete(item, "masks in an index")))


def _broadcast(rows: list[Any]) -> Sequence[Any]:
    if len(rows) == 1:
        return rows
    try:
        return broadcast_arrays(*rows)
    except ShapeError:
        shapes = " and ".join(str(row.shape) for row in rows)
        says = f"arrays of positions of shapes {shapes} do not broadcast"
        raise ShapeError(says, mend="make sizes equal or 1; masks count the elements that they select") from None
