"""Abstract values: what is known of an array before it is computed, its shape and dtype.

The rules of promotion and broadcasting live here and nowhere else. Promotion is the array API
standard's within a kind; across kinds, where the standard leaves it open, the higher kind's dtype
wins (an integer array and a float32 array give float32). Python scalars are weak: they take the
array's dtype, or the default dtype of their kind when the array's kind is lower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np

from chainrule.core.errors import AxisError, DtypeError, ShapeError

Shape = tuple[int, ...]
Dtype = np.dtype[Any]

bool_ = np.dtype("bool")
int64 = np.dtype("int64")
float32 = np.dtype("float32")
float64 = np.dtype("float64")
complex64 = np.dtype("complex64")

DEFAULT_INT = int64
DEFAULT_FLOAT = float32
DEFAULT_COMPLEX = complex64

_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}
_DEFAULTS = (bool_, DEFAULT_INT, DEFAULT_FLOAT, DEFAULT_COMPLEX)


class Aval(NamedTuple):
    """Shape and dtype of an array."""

    shape: Shape
    dtype: Dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}({', '.join(map(str, self.shape))})"


def promote(*operands: Dtype | bool | int | float | complex) -> Dtype:
    """The dtype in which operands meet; Python scalars among them are weak.

    Examples
    --------
    >>> promote(np.dtype("int64"), np.dtype("float32")), promote(np.dtype("int8"), 2.5)
    (dtype('float32'), dtype('float32'))
    """
    first = operands[0] if operands else None
    if isinstance(first, np.dtype) and first.kind in _KINDS and all(operand is first for operand in operands):
        return first
    dtypes = [operand for operand in operands if isinstance(operand, np.dtype)]
    level = max((_kind(dtype) for dtype in dtypes), default=-1)
    weak = max((_scalar_kind(x) for x in operands if not isinstance(x, np.dtype)), default=-1)
    highest = [dtype for dtype in dtypes if _kind(dtype) == level or (level == 3 and _kind(dtype) == 2)]
    result = highest[0] if highest else None
    for dtype in highest:
        result = dtype if result is None else np.promote_types(result, dtype)
        if _kind(result) > level:
            raise DtypeError(f"no common integer dtype of {highest[0]} and {dtype}", mend="convert one with astype")
    if result is None or weak > level:
        if weak == 3 and result is not None and level == 2:
            return np.promote_types(result, complex64)
        return _DEFAULTS[weak]
    return result


def _kind(dtype: Dtype) -> int:
    try:
        return _KINDS[dtype.kind]
    except KeyError:
        raise DtypeError(f"arrays of dtype {dtype} are not supported", mend="use booleans, integers, floating point or complex numbers") from None


def _scalar_kind(value: bool | int | float | complex) -> int:
    return 0 if isinstance(value, bool) else 1 if isinstance(value, int) else 2 if isinstance(value, float) else 3


def broadcast(*shapes: Shape) -> Shape:
    """The shape that arrays of these shapes broadcast to.

    Raises
    ------
    ShapeError
        If two sizes on one axis differ and neither is 1.
    """
    if shapes and all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    rank = max(map(len, shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for position, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if result[position] not in (1, size):
                    raise ShapeError(
                        f"shapes {' and '.join(map(str, shapes))} do not broadcast: axis {position - rank} has sizes {result[position]} and {size}",
                        mend="make the sizes equal or 1; expand_dims adds an axis",
                    )
                result[position] = size
    return tuple(result)


def normalize_axis(axis: int, ndim: int, operation: str) -> int:
    """``axis`` counted from the front.

    Raises
    ------
    AxisError
        If it is not in ``[-ndim, ndim)``.
    DtypeError
        If it is not an integer.
    """
    try:
        position = index(axis)
    except TypeError:
        raise DtypeError(f"{operation}: an axis is an integer, not {axis!r}", mend="pass an int; operator.index must take it") from None
    if not -ndim <= position < ndim:
        mend = f"axes go from {-ndim} to {ndim - 1}" if ndim else "an array without axes takes axis=() or none; reshape gives it one"
        raise AxisError(f"{operation}: axis {axis} is out of range for an array with {ndim} axes", mend=mend)
    return position % ndim


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, operation: str) -> tuple[int, ...]:
    """``axis`` as a sorted tuple counted from the front; None means all axes."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(normalize_axis(a, ndim, operation) for a in ((axis,) if not isinstance(axis, Sequence) else axis))
    if len(set(axes)) != len(axes):
        raise AxisError(f"{operation}: an axis stands twice in {axis}", mend="name every axis once; -1 is the last one")
    return tuple(sorted(axes))


def reduced(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    """``shape`` with the axes summed away, or kept as 1."""
    if keepdims:
        return tuple(1 if position in axes else size for position, size in enumerate(shape))
    return tuple(size for position, size in enumerate(shape) if position not in axes)
