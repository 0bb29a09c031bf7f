"""Sums of large arrays, laid out so that NumPy's loops run long.

NumPy adds up along the last axis, or row by row, in loops as long as that axis: short rows and narrow columns,
which channels-last images have, cost it many times what reading them does. The order of the additions
here depends on shapes alone, never on the number of threads.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from chainrule.core.aval import Dtype, float32, float64

Array = Any  # NumPy's own stubs would need every dtype spelled out.

LARGE = 8192
_LANES = 2048
_FEW, _LONG = 128, 64
_LONGEST = 4096
"""Longer rows are summed pairwise by NumPy, well and quickly; BLAS would share them out among threads."""

_add: Any = np.add.reduce
_ONES32 = np.ones(LARGE, float32)
_ONES64 = np.ones(LARGE, float64)


@cache
def ones(size: int, dtype: Dtype) -> Array:
    """The ones with which `total` adds up a small array."""
    return (_ONES32 if dtype is float32 else _ONES64)[:size]


def total(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """``np.add.reduce`` of floating-point values, quicker over all axes, or all leading or all trailing ones, of a large array."""
    count = len(axis)
    size = x.size
    if size < LARGE:
        dtype = x.dtype
        ones = _ONES32 if dtype is float32 else _ONES64 if dtype is float64 else None
        if keepdims or ones is None or count != x.ndim:
            return _plain(x, axis, keepdims)
        # A dot product is called at half the price of a reduction.
        return (x if count == 1 else x.reshape(-1)).dot(ones[:size]) if count else x
    if not x.flags.c_contiguous or not axis or x.itemsize == 2:
        return _plain(x, axis, keepdims)
    if count == x.ndim:
        out = _everything(x.reshape(-1))
        return out.reshape((1,) * count) if keepdims else out
    if axis[-1] == count - 1:
        columns = math.prod(x.shape[count:])
        if columns <= _LANES // 2 and not (columns >= _LONG and size <= _FEW * columns):
            return _finish(_columns(x.reshape(-1, columns)), x, axis, keepdims)
    elif axis[0] == x.ndim - count:
        columns = math.prod(x.shape[-count:])
        if columns <= _LONGEST:
            return _finish(np.vecdot(x.reshape(-1, columns), np.ones(columns, x.dtype)), x, axis, keepdims)
    return _add(x, axis, None, None, keepdims)


def few_rows(shape: tuple[int, ...], axis: tuple[int, ...]) -> bool:
    """Whether rows are added up that are long, and few: NumPy's way is the quickest then."""
    count = len(axis)
    return axis == tuple(range(count)) and count < len(shape) and math.prod(shape[count:]) >= _LONG and math.prod(shape[:count]) <= _FEW


def _plain(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """NumPy's own sum; half precision, in which 2048 + 1 is 2048, is added up in single precision."""
    return _add(x, axis, None, None, keepdims) if x.itemsize > 2 else _add(x, axis, float32, None, keepdims).astype(x.dtype)


def _everything(x: Array) -> Array:
    """The sum of all elements: of rows first, then of their sums, pairwise."""
    whole = x.size - x.size % _LONGEST
    out = _add(np.vecdot(x[:whole].reshape(-1, _LONGEST), np.ones(_LONGEST, x.dtype)))
    return out + _add(x[whole:]) if whole < x.size else out


def _columns(x: Array) -> Array:
    """The sum of every column: several rows make one long one, whose parts are added up in the end."""
    rows, columns = x.shape
    together = _LANES // columns
    whole = rows - rows % together
    out = _add(_add(x[:whole].reshape(-1, together * columns), 0).reshape(together, columns), 0)
    return out + _add(x[whole:], 0) if whole < rows else out


def _finish(out: Array, x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    return out.reshape(tuple(1 if i in axis else size for i, size in enumerate(x.shape) if keepdims or i not in axis))
