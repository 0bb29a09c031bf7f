"""Joining arrays, cutting them up, and repeating their parts.

Gates with several inputs or outputs are linear in all of them together; a piece that no cotangent
reaches counts as zeros, which are never written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Dtype, Shape, normalize_axis, promote
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.gate import concrete, describe, gate, lift, operands
from chainrule.ops.movement import BROADCAST_TO, RESHAPE, broadcast_to, integers
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["concat", "diff", "pad", "repeat", "split", "stack", "tile", "unstack"]

if TYPE_CHECKING:
    import numpy.typing as npt


def zeros(shape: Shape, dtype: Dtype) -> Any:
    """A constant of zeros that takes no memory."""
    return lift(np.broadcast_to(np.zeros((), dtype), shape))


def _filled(pieces: Sequence[Any], shapes: Iterable[Shape], dtype: Dtype) -> list[Any]:
    """Zeros for the pieces that are absent."""
    return [zeros(shape, dtype) if piece is None else piece for piece, shape in zip(pieces, shapes, strict=True)]


def batch_together(batched: Sequence[bool], inputs: Sequence[Any]) -> list[Any]:
    """All inputs with the batch axis in front."""
    count = next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
    return [x if b else broadcast_to(x, (count, *x.shape)) for x, b in zip(inputs, batched, strict=True)]


def _batch_joined(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(primitive, batch_together(batched, inputs), {**params, "axis": params["axis"] + 1})


def _batch_cut(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(primitive, inputs, {**params, "axis": params["axis"] + 1})


def _arrays(arrays: Any, operation: str) -> list[Any]:
    """The arrays to join, in one dtype."""
    if not isinstance(arrays, (Sequence, Tensor, np.ndarray)) or not len(arrays):
        raise ArgumentError(f"{operation} takes at least one array, in a tuple or list, not {describe(arrays)}", mend=f"write cr.{operation}([x, y])")
    return operands(operation, "any", *arrays)


def with_axis(shape: Shape, axis: int, size: int) -> Shape:
    """``shape`` with another size on one axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _concat_aval(*xs: Aval, axis: int, sizes: tuple[int, ...]) -> Aval:
    first = xs[0]
    for x in xs:
        if x.ndim != first.ndim or with_axis(x.shape, axis, 0) != with_axis(first.shape, axis, 0):
            raise ShapeError(f"concat along axis {axis}: shapes {' and '.join(str(x.shape) for x in xs)} differ on other axes", mend="make the other axes equal")
    return Aval(with_axis(first.shape, axis, sum(sizes)), first.dtype)


def _concat_transpose(ct: Any, to: tuple[Any, ...], axis: int, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    pieces = bind(SPLIT, (ct,), {"axis": axis, "sizes": sizes})
    return tuple(piece if want is not None else None for piece, want in zip(pieces, to, strict=True))


CONCAT = Primitive(
    name="concat",
    inputs=("*xs",),
    aval=_concat_aval,
    eval=lambda *xs, axis, sizes: np.concatenate(xs, axis),
    transpose=_concat_transpose,
    batch=_batch_joined,
    kernel="move",
    onnx="Concat",
    samples=lambda rng: [
        Sample(([rng.normal(size=(2, 3)), rng.normal(size=(1, 3))],)),
        Sample(([rng.normal(size=(2, 3)), rng.normal(size=(2, 0)), rng.normal(size=(2, 1))],), {"axis": -1}),
        Sample(([rng.normal(size=(2, 3)), rng.normal()],), {"axis": None}),
    ],
    refuses=lambda: [
        Refusal(([np.ones((2, 3)), np.ones((2, 2))],), ShapeError, "differ on other axes"),
        Refusal(([],), ArgumentError, "at least one"),
        Refusal(([np.ones(2), np.ones(2)],), AxisError, "out of range", {"axis": 1}),
    ],
)


@gate(CONCAT)
def concat(arrays: Sequence[Tensor | npt.ArrayLike], /, *, axis: int | None = 0) -> Tensor:
    """Arrays joined along an axis that they have.

    Parameters
    ----------
    arrays : sequence of Tensor or array_like
        Of shapes that are equal but for that axis.
    axis : int, optional
        None joins the elements of all arrays in one axis.

    Returns
    -------
    Tensor
        Of the arrays' promoted dtype.

    Raises
    ------
    ShapeError
        If the shapes differ on another axis.
    AxisError
        If the axis is out of range.
    ArgumentError
        If there is no array.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.concat([[1, 2], [3]])
    tensor([1, 2, 3])
    """
    xs = _arrays(arrays, "concat")
    if axis is None:
        axis, xs = 0, [functions.reshape(x, (-1,)) if x.shape else functions.reshape(x, (1,)) for x in xs]
    place = normalize_axis(axis, len(xs[0].shape), "concat")
    if any(len(x.shape) <= place for x in xs):
        raise ShapeError(f"concat: arrays of {' and '.join(str(len(x.shape)) for x in xs)} axes", mend="give all of them the same number of axes")
    return bind(CONCAT, xs, {"axis": place, "sizes": tuple(x.shape[place] for x in xs)})


def _stack_aval(*xs: Aval, axis: int) -> Aval:
    first = xs[0]
    if any(x.shape != first.shape for x in xs):
        raise ShapeError(f"stack: shapes {' and '.join(str(x.shape) for x in xs)} differ", mend="make all shapes equal; concat joins along an axis that is there")
    return Aval((*first.shape[:axis], len(xs), *first.shape[axis:]), first.dtype)


STACK = Primitive(
    name="stack",
    inputs=("*xs",),
    aval=_stack_aval,
    eval=lambda *xs, axis: np.stack(xs, axis),
    transpose=lambda ct, to, axis: tuple(piece if want is not None else None for piece, want in zip(unstack(ct, axis=axis), to, strict=True)),
    batch=_batch_joined,
    kernel="move",
    onnx="ConcatFromSequence",
    samples=lambda rng: [
        Sample(([rng.normal(size=(2, 3)), rng.normal(size=(2, 3))],)),
        Sample(([rng.normal(size=(2,)), rng.normal(size=(2,))],), {"axis": -1}),
        Sample(([rng.normal(), rng.normal(), rng.normal()],)),
    ],
    refuses=lambda: [Refusal(([np.ones(3), np.ones(2)],), ShapeError, "differ"), Refusal(([np.ones(2)],), AxisError, "out of range", {"axis": 2})],
)


@gate(STACK)
def stack(arrays: Sequence[Tensor | npt.ArrayLike], /, *, axis: int = 0) -> Tensor:
    """Arrays of one shape joined along a new axis.

    Parameters
    ----------
    arrays : sequence of Tensor or array_like
    axis : int
        Where the new axis stands in the result.

    Returns
    -------
    Tensor
        Of the arrays' promoted dtype.

    Raises
    ------
    ShapeError
        If the shapes differ.
    AxisError
        If the axis is out of range.
    ArgumentError
        If there is no array.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.stack([[1, 2], [3, 4]], axis=1)
    tensor([[1, 3],
            [2, 4]])
    """
    xs = _arrays(arrays, "stack")
    return bind(STACK, xs, {"axis": normalize_axis(axis, len(xs[0].shape) + 1, "stack")})


UNSTACK = Primitive(
    name="unstack",
    inputs=("x",),
    aval=lambda x, axis: (Aval(x.shape[:axis] + x.shape[axis + 1 :], x.dtype),) * x.shape[axis],
    eval=lambda x, axis: tuple(np.moveaxis(x, axis, 0) if axis else x),
    transpose=lambda ct, to, axis: stack(_filled(ct, [to.shape[:axis] + to.shape[axis + 1 :]] * to.shape[axis], to.dtype), axis=axis),
    batch=_batch_cut,
    outputs=True,
    kernel="move",
    onnx="SplitToSequence",
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)),)), Sample((rng.normal(size=(2, 3)),), {"axis": -1}), Sample((rng.normal(size=(3,)),))],
    refuses=lambda: [Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}), Refusal((np.ones(()),), AxisError, "out of range")],
)


@gate(UNSTACK)
def unstack(x: Tensor | npt.ArrayLike, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The parts along an axis, one by one, without that axis.

    Parameters
    ----------
    x : Tensor or array_like
    axis : int

    Returns
    -------
    tuple of Tensor
        As many as the axis is long.

    Raises
    ------
    AxisError
        If the axis is out of range.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.unstack([[1, 2], [3, 4]], axis=1)
    (tensor([1, 3]), tensor([2, 4]))
    """
    x = lift(x)
    return bind(UNSTACK, (x,), {"axis": normalize_axis(axis, len(x.shape), "unstack")})


def _split_eval(x: Any, axis: int, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    before = (slice(None),) * axis
    return tuple(x[(*before, slice(start, stop))] for start, stop in pairwise(accumulate(sizes, initial=0)))


def _split_aval(x: Aval, axis: int, sizes: tuple[int, ...]) -> tuple[Aval, ...]:
    return tuple(Aval(with_axis(x.shape, axis, size), x.dtype) for size in sizes)


SPLIT = Primitive(
    name="split",
    inputs=("x",),
    aval=_split_aval,
    eval=_split_eval,
    transpose=lambda ct, to, axis, sizes: concat(_filled(ct, [with_axis(to.shape, axis, size) for size in sizes], to.dtype), axis=axis),
    batch=_batch_cut,
    outputs=True,
    kernel="move",
    onnx="Split",
    samples=lambda rng: [Sample((rng.normal(size=(5, 2)), 2)), Sample((rng.normal(size=(2, 5)), (1, 1, 4)), {"axis": -1}), Sample((rng.normal(size=(2,)), 3))],
    refuses=lambda: [
        Refusal((np.ones(3), 0), ArgumentError, "at least one"),
        Refusal((np.ones(3), (2, 1)), ArgumentError, "ascending"),
        Refusal((np.ones(3), 2), AxisError, "out of range", {"axis": 1}),
    ],
)


@gate(SPLIT)
def split(x: Tensor | npt.ArrayLike, parts: int | Sequence[int], /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """An array cut into consecutive parts along an axis.

    Parameters
    ----------
    x : Tensor or array_like
    parts : int or sequence of int
        How many parts, the first of them longer by one where the size does not divide; or the ascending
        positions at which to cut.
    axis : int

    Returns
    -------
    tuple of Tensor

    Raises
    ------
    AxisError
        If the axis is out of range.
    ArgumentError
        If there would be no part, or the positions are not ascending within the axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.split([1, 2, 3], 2)
    (tensor([1, 2]), tensor([3]))
    >>> cr.split([1, 2, 3], (1,))
    (tensor([1]), tensor([2, 3]))
    """
    x = lift(x)
    place = normalize_axis(axis, len(x.shape), "split")
    size = x.shape[place]
    if isinstance(parts, Sequence):
        cuts = (0, *integers(parts, "split"), size)
        if sorted(cuts) != list(cuts):
            raise ArgumentError(f"split: positions {parts} are not ascending between 0 and {size}", mend="list where each part but the first begins")
        sizes = tuple(stop - start for start, stop in pairwise(cuts))
    else:
        (count,) = integers(parts, "split")
        if count < 1:
            raise ArgumentError(f"split: {count} parts; there must be at least one")
        sizes = tuple(size // count + (part < size % count) for part in range(count))
    return bind(SPLIT, (x,), {"axis": place, "sizes": sizes})


@public
def tile(x: Tensor | npt.ArrayLike, repetitions: Sequence[int], /) -> Tensor:
    """The whole array repeated along its axes.

    Parameters
    ----------
    x : Tensor or array_like
    repetitions : tuple of int
        How often along each axis; the shorter of it and the shape is filled up with 1 in front.

    Returns
    -------
    Tensor

    Raises
    ------
    ArgumentError
        If a number of repetitions is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.tile([1, 2], (2, 2))
    tensor([[1, 2, 1, 2],
            [1, 2, 1, 2]])
    """
    x = lift(x)
    counts = _counts(repetitions, "tile")
    rank = max(len(counts), len(x.shape))
    counts = (1,) * (rank - len(counts)) + counts
    sizes = (1,) * (rank - len(x.shape)) + tuple(x.shape)
    blocks = bind(RESHAPE, (x,), {"shape": tuple(part for size in sizes for part in (1, size))})
    repeated = bind(BROADCAST_TO, (blocks,), {"shape": tuple(part for pair in zip(counts, sizes, strict=True) for part in pair)})
    return bind(RESHAPE, (repeated,), {"shape": tuple(count * size for count, size in zip(counts, sizes, strict=True))})


def _counts(repetitions: Any, operation: str) -> tuple[int, ...]:
    counts = integers(repetitions, operation)
    if min(counts, default=0) < 0:
        raise ArgumentError(f"{operation}: numbers of repetitions cannot be negative: {repetitions}")
    return counts


@public
def repeat(x: Tensor | npt.ArrayLike, repeats: int | Sequence[int] | Tensor | npt.ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """Every element repeated in place.

    Parameters
    ----------
    x : Tensor or array_like
    repeats : int or integer array
        How often; an array has one count per position along the axis.
    axis : int, optional
        If not given, the elements are repeated in row-major order.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If the axis is out of range.
    ArgumentError
        If a count is negative, or there are not as many counts as positions.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.repeat([1, 2], 2), cr.repeat([1, 2], [2, 1])
    (tensor([1, 1, 2, 2]), tensor([1, 1, 2]))
    """
    x = lift(x)
    if axis is None:
        axis, x = 0, functions.reshape(x, (math.prod(x.shape),))
    place = normalize_axis(axis, len(x.shape), "repeat")
    size = x.shape[place]
    counts = _counts(repeats if isinstance(repeats, int) else concrete(repeats, "the counts of repeat").tolist(), "repeat")
    if len(counts) == 1:
        spaced = bind(RESHAPE, (x,), {"shape": (*x.shape[: place + 1], 1, *x.shape[place + 1 :])})
        repeated = bind(BROADCAST_TO, (spaced,), {"shape": with_axis(spaced.shape, place + 1, counts[0])})
        return bind(RESHAPE, (repeated,), {"shape": with_axis(x.shape, place, size * counts[0])})
    if len(counts) != size:
        raise ArgumentError(f"repeat: {len(counts)} counts for {size} positions along axis {place}", mend="give one count, or one per position")
    return functions.take(x, np.repeat(np.arange(size), counts), axis=place)


Widths = tuple[tuple[int, int], ...]


def _pad_eval(x: Any, widths: Widths, value: complex) -> Any:
    shape = tuple(before + size + after for size, (before, after) in zip(x.shape, widths, strict=True))
    padded = np.full(shape, value, x.dtype) if value else np.zeros(shape, x.dtype)
    padded[_interior(x.shape, widths)] = x
    return padded


def _interior(shape: Shape, widths: Widths) -> tuple[slice, ...]:
    return tuple(slice(before, before + size) for size, (before, _) in zip(shape, widths, strict=True))


def _batch_pad(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(primitive, inputs, {**params, "widths": ((0, 0), *params["widths"])})


PAD = Primitive(
    name="pad",
    inputs=("x",),
    aval=lambda x, widths, value: Aval(tuple(before + size + after for size, (before, after) in zip(x.shape, widths, strict=True)), x.dtype),
    eval=_pad_eval,
    vjp=(lambda ct, to, widths: functions.getitem(ct, _interior(to.shape, widths)),),
    jvp=(lambda t, widths: bind(PAD, (t,), {"widths": widths, "value": 0}),),
    batch=_batch_pad,
    kernel="move",
    onnx="Pad",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), 1)),
        Sample((rng.normal(size=(2, 3)), ((0, 1), (2, 0))), {"constant_values": 1.5}),
        Sample((rng.normal(size=(4,)), (2, 3), "edge")),
        Sample((rng.normal(size=(2, 4)), (2, 3), "reflect")),
        Sample((rng.normal(size=(2, 4)), (2, 3), "symmetric")),
        Sample((rng.normal(size=(2, 4)), (1, 5), "wrap")),
        Sample((rng.normal(size=(0, 2)), 1)),
        Sample((rng.normal(), ())),
    ],
    refuses=lambda: [
        Refusal((np.ones(3), -1), ArgumentError, "negative"),
        Refusal((np.ones(3), ((1, 1), (2, 2))), ArgumentError, "pair"),
        Refusal((np.ones(3), 1, "mirror"), ArgumentError, "mode"),
        Refusal((np.ones(0), 1, "edge"), ArgumentError, "empty"),
    ],
)

_MODES = ("edge", "reflect", "symmetric", "wrap")


@gate(PAD)
def pad(
    x: Tensor | npt.ArrayLike,
    pad_width: int | Sequence[int] | Sequence[Sequence[int]],
    mode: str = "constant",
    *,
    constant_values: complex = 0,
) -> Tensor:
    """An array with a border around it.

    Parameters
    ----------
    x : Tensor or array_like
    pad_width : int, (before, after), or one such pair per axis
        How many elements to add in front and behind.
    mode : str
        What they are: "constant", "edge" (the outermost element), "reflect" (mirrored at the outermost
        element), "symmetric" (mirrored at the edge, which it repeats) or "wrap" (the opposite side).
    constant_values : number
        For mode "constant".

    Returns
    -------
    Tensor

    Raises
    ------
    ArgumentError
        If a width is negative, there is not a pair for every axis, the mode is unknown, or an empty axis would have
        to be continued.
    DtypeError
        If the array cannot hold the constant.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.pad([1, 2, 3], (1, 2)), cr.pad([1, 2, 3], 1, "reflect")
    (tensor([0, 1, 2, 3, 0, 0]), tensor([2, 1, 2, 3, 2]))
    """
    x = lift(x)
    widths = _widths(pad_width, len(x.shape))
    if mode == "constant":
        if promote(x.dtype, constant_values) != x.dtype:
            raise DtypeError(f"pad: {describe(x)} cannot hold the value {constant_values!r}", mend="convert one of them with astype")
        return bind(PAD, (x,), {"widths": widths, "value": constant_values})
    if mode not in _MODES:
        raise ArgumentError(f"pad: there is no mode {mode!r}", mend=f"use one of constant, {', '.join(_MODES)}")
    for axis, width in enumerate(widths):
        if any(width):
            if not x.shape[axis]:
                raise ArgumentError(f"pad: axis {axis} of shape {x.shape} is empty, so there is nothing to continue", mend='use mode "constant"')
            # What NumPy does with the positions, done to the elements, so that one gather serves every mode.
            x = functions.take(x, np.pad(np.arange(x.shape[axis]), width, mode), axis=axis)  # type: ignore[call-overload]
    return x


def _widths(pad_width: Any, rank: int) -> Widths:
    try:
        pairs = np.broadcast_to(np.asarray(pad_width, dtype=np.int64) if np.size(pad_width) else np.zeros((rank, 2), np.int64), (rank, 2))
    except (ValueError, TypeError):
        raise ArgumentError(f"pad: {pad_width!r} is not a pair (before, after) of integers for each of {rank} axes") from None
    if (pairs < 0).any():
        raise ArgumentError(f"pad: widths cannot be negative: {pad_width!r}", mend="slice with x[...] to cut elements off")
    return tuple((before, after) for before, after in pairs.tolist())


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
    return whole
