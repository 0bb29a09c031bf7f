"""Making tensors of given shapes: constants, ranges, grids.

They have no history, unless it is the history of a tensor that gives the values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_FLOAT, Shape, promote
from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.core.interp import current
from chainrule.core.primitive import functions, public
from chainrule.ops.creation import asarray
from chainrule.ops.gate import as_dtype, check_device, constant, lift, made
from chainrule.tensor import Tensor

__all__ = ["arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "meshgrid", "ones", "ones_like", "zeros", "zeros_like"]

if TYPE_CHECKING:
    import numpy.typing as npt

Number = bool | int | float | complex


@public
def zeros(shape: int | Sequence[int], *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Zeros of a shape.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : dtype, optional
        float32 if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a size is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.zeros((2, 3))
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    """
    return _filled("zeros", shape, 0, dtype, device)


@public
def ones(shape: int | Sequence[int], *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Ones of a shape.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : dtype, optional
        float32 if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a size is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.ones(3, dtype=cr.int64)
    tensor([1, 1, 1])
    """
    return _filled("ones", shape, 1, dtype, device)


@public
def empty(shape: int | Sequence[int], *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """A tensor whose values do not matter; they are zeros, so that programs are repeatable.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : dtype, optional
        float32 if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a size is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.empty((2, 3)).shape
    (2, 3)
    """
    return _filled("empty", shape, 0, dtype, device)


@public
def full(shape: int | Sequence[int], fill_value: Number | Tensor, *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """One value, repeated; gradients of a Tensor's value are summed.

    Parameters
    ----------
    shape : int or sequence of int
    fill_value : scalar or Tensor
        A Tensor must broadcast to the shape.
    dtype : dtype, optional
        If not given, a Tensor's own, or the default of the number's kind.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a size is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.full((2, 2), 0.5)
    tensor([[0.5, 0.5],
            [0.5, 0.5]])
    """
    if isinstance(fill_value, (bool, int, float, complex)) and not isinstance(fill_value, np.generic):
        return _filled("full", shape, fill_value, promote(fill_value) if dtype is None else dtype, device)
    return functions.broadcast_to(asarray(fill_value, dtype=dtype, device=device), _sizes("full", shape))


@public
def zeros_like(x: Tensor | npt.ArrayLike, /, *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Zeros of the shape and, unless given, the dtype of ``x``.

    Parameters
    ----------
    x : Tensor or array_like
    dtype : dtype, optional
        That of ``x`` if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.zeros_like(cr.tensor([1.0, 2.0]))
    tensor([0., 0.])
    """
    return _filled_like("zeros_like", x, 0, dtype, device)


@public
def ones_like(x: Tensor | npt.ArrayLike, /, *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Ones of the shape and, unless given, the dtype of ``x``.

    Parameters
    ----------
    x : Tensor or array_like
    dtype : dtype, optional
        That of ``x`` if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.ones_like(cr.tensor([1.0, 2.0]))
    tensor([1., 1.])
    """
    return _filled_like("ones_like", x, 1, dtype, device)


@public
def empty_like(x: Tensor | npt.ArrayLike, /, *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """A tensor of the shape and, unless given, the dtype of ``x``, whose values do not matter; see `empty`.

    Parameters
    ----------
    x : Tensor or array_like
    dtype : dtype, optional
        That of ``x`` if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.empty_like(cr.tensor([1.0, 2.0])).dtype
    dtype('float32')
    """
    return _filled_like("empty_like", x, 0, dtype, device)


@public
def full_like(x: Tensor | npt.ArrayLike, /, fill_value: Number | Tensor, *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """One value in the shape and, unless given, the dtype of ``x``; see `full`.

    Parameters
    ----------
    x : Tensor or array_like
    fill_value : scalar or Tensor
        A Tensor must broadcast to the shape of ``x``.
    dtype : dtype, optional
        That of ``x`` if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.full_like(cr.tensor([1.0, 2.0]), 7)
    tensor([7., 7.])
    """
    like = lift(x)
    return full(like.shape, fill_value, dtype=like.dtype if dtype is None else dtype, device=device)


@public
def arange(start: float, /, stop: float | None = None, step: float = 1, *, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Evenly spaced values from ``start`` up to, but without, ``stop``.

    Parameters
    ----------
    start : int or float
        The end, with the start at 0, if ``stop`` is not given.
    stop : int or float, optional
    step : int or float
        Distance of two neighbours; may be negative.
    dtype : dtype, optional
        If not given, int64 for integers, else float32.
    device : "cpu", optional

    Returns
    -------
    Tensor
        Of shape ``(ceil((stop - start) / step),)``, or ``(0,)`` if that is negative.

    Raises
    ------
    ArgumentError
        If the step is 0.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.arange(3), cr.arange(1.0, 0.0, -0.25)
    (tensor([0, 1, 2]), tensor([1.  , 0.75, 0.5 , 0.25]))
    """
    check_device(device)
    first, last, by = (0, start, step) if stop is None else (start, stop, step)
    first, last, by = _number(first), _number(last), _number(by)
    if by == 0:
        raise ArgumentError("arange: the step is 0", mend="pass a positive or negative step, or use linspace")
    target = promote(first, last, by) if dtype is None else as_dtype(dtype, "arange")
    # In double precision first: float32 steps would add up their rounding errors.
    values = np.arange(first, last, by, dtype=None if target.kind in "fc" else target)
    return made(values.astype(target, copy=False))


@public
def linspace(
    start: complex, stop: complex, /, num: int, *, dtype: npt.DTypeLike | None = None, device: str | None = None, endpoint: bool = True
) -> Tensor:
    """``num`` evenly spaced values from ``start`` to ``stop``.

    Parameters
    ----------
    start, stop : int, float or complex
    num : int
        How many values.
    dtype : dtype, optional
        If not given, float32, or complex64 for complex ends.
    device : "cpu", optional
    endpoint : bool
        Whether ``stop`` is the last value; otherwise the interval is half-open.

    Returns
    -------
    Tensor
        Of shape ``(num,)``.

    Raises
    ------
    ArgumentError
        If ``num`` is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linspace(0.0, 1.0, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    check_device(device)
    count = operator.index(num)
    if count < 0:
        raise ArgumentError(f"linspace: a negative number of values, {count}", mend="pass num >= 0")
    first, last = _number(start), _number(stop)
    target = promote(DEFAULT_FLOAT, first, last) if dtype is None else as_dtype(dtype, "linspace")
    return made(np.linspace(first, last, count, endpoint=endpoint, dtype=None if target.kind in "fc" else target).astype(target, copy=False))


@public
def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: npt.DTypeLike | None = None, device: str | None = None) -> Tensor:
    """A matrix with ones on a diagonal and zeros elsewhere.

    Parameters
    ----------
    n_rows : int
    n_cols : int, optional
        As many as rows if not given.
    k : int
        Which diagonal: 0 the main one, positive above it, negative below.
    dtype : dtype, optional
        float32 if not given.
    device : "cpu", optional

    Returns
    -------
    Tensor
        Of shape ``(n_rows, n_cols)``.

    Raises
    ------
    ShapeError
        If a size is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.eye(2, 3, k=1)
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    check_device(device)
    rows, columns = _sizes("eye", (n_rows, n_rows if n_cols is None else n_cols))
    return made(np.eye(rows, columns, k=k, dtype=DEFAULT_FLOAT if dtype is None else as_dtype(dtype, "eye")))


@public
def meshgrid(*arrays: Tensor | npt.ArrayLike, indexing: str = "xy") -> list[Tensor]:
    """Coordinate arrays of a grid, from the coordinates along each axis; gradients flow back to these.

    Parameters
    ----------
    *arrays : Tensor or array_like
        Each of shape ``(n_i,)``.
    indexing : "xy" or "ij"
        With "xy" the first two axes are exchanged, so that the first array runs along axis 1.

    Returns
    -------
    list of Tensor
        One per array, each of shape ``(n_0, n_1, n_2, ...)``, or ``(n_1, n_0, n_2, ...)`` with "xy".

    Raises
    ------
    ArgumentError
        If ``indexing`` is neither.
    ShapeError
        If an array has more than one axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> x, y = cr.meshgrid(cr.arange(2), cr.arange(3)); x
    tensor([[0, 1],
            [0, 1],
            [0, 1]])
    """
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"meshgrid: there is no indexing {indexing!r}", mend='use "xy" or "ij"')
    lifted = [lift(x) for x in arrays]
    for x in lifted:
        if len(x.shape) > 1:
            raise ShapeError(f"meshgrid takes arrays of one axis, not of shape {x.shape}", mend="flatten it first: x.reshape(-1)")
    order = list(range(len(lifted)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = 1, 0
    sizes = [x.size for x in lifted]
    shape = tuple(sizes[i] for i in order)
    return [functions.broadcast_to(functions.reshape(x, tuple(sizes[i] if i == own else 1 for i in order)), shape) for own, x in enumerate(lifted)]


def _filled(operation: str, shape: int | Sequence[int], value: Number, dtype: npt.DTypeLike | None, device: str | None) -> Any:
    check_device(device)
    sizes = _sizes(operation, shape)
    target = DEFAULT_FLOAT if dtype is None else as_dtype(dtype, operation)
    if current().tracer is not None:
        # A graph shall hold the number, not an array of it.
        number = constant(value, target)
        return functions.broadcast_to(number, sizes) if sizes else number
    # 0.0 may be -0.0, so only the integer takes the quick way.
    try:
        return made(np.zeros(sizes, target) if value.__class__ is int and value == 0 else np.full(sizes, value, target))
    except (MemoryError, ValueError):
        says = f"{operation}: there is no memory for {math.prod(sizes) * target.itemsize:,} bytes, a {target} array of shape {sizes}"
        raise ArgumentError(says, mend="make it smaller, or work in parts") from None


def _filled_like(operation: str, x: Any, value: Number, dtype: npt.DTypeLike | None, device: str | None) -> Any:
    x = lift(x)
    return _filled(operation, x.shape, value, x.dtype if dtype is None else dtype, device)


def _sizes(operation: str, shape: int | Sequence[int]) -> Shape:
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (operator.index(shape),)
    except TypeError:
        raise ShapeError(f"{operation}: {shape!r} is no shape", mend="pass an integer, or a sequence of them") from None
    if any(size < 0 for size in sizes):
        raise ShapeError(f"{operation}: negative size in the shape {sizes}", mend="sizes are 0 or more")
    return sizes


def _number(x: Any) -> Any:
    """A Python number for whatever holds one."""
    return x if x.__class__ in (bool, int, float, complex) else x.item() if hasattr(x, "item") else operator.index(x)
