"""Arrays that repeat their own elements: tiles, repetitions, and borders around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape, normalize_axis, promote
from chainrule.core.errors import ArgumentError, DtypeError
from chainrule.core.nest import Array, Nest, numbered
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.gate import concrete, describe, gate, lift
from chainrule.ops.joining import with_axis
from chainrule.ops.movement import integers, repeated_to, to_shape
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["pad", "repeat", "tile"]

if TYPE_CHECKING:
    import numpy.typing as npt


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
    values = lift(x)
    counts = _counts(repetitions, "tile")
    rank = max(len(counts), len(values.shape))
    counts = (1,) * (rank - len(counts)) + counts
    sizes = (1,) * (rank - len(values.shape)) + tuple(values.shape)
    blocks = to_shape(values, {"shape": tuple(part for size in sizes for part in (1, size))})
    repeated = repeated_to(blocks, {"shape": tuple(part for pair in zip(counts, sizes, strict=True) for part in pair)})
    return to_shape(repeated, {"shape": tuple(count * size for count, size in zip(counts, sizes, strict=True))})


def _counts(repetitions: Any, operation: str) -> tuple[int, ...]:
    counts = integers(repetitions, operation)
    if min(counts, default=0) < 0:
        raise ArgumentError(
            f"{operation}: a negative number of repetitions in {repetitions}", mend="numbers are 0 or more; 1 leaves an axis as it is"
        )
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
    values = lift(x)
    if axis is None:
        axis, values = 0, functions.reshape(values, (math.prod(values.shape),))
    place = normalize_axis(axis, len(values.shape), "repeat")
    size = values.shape[place]
    counts = _counts(repeats if isinstance(repeats, int) else concrete(repeats, "the counts of repeat").tolist(), "repeat")
    if len(counts) == 1:
        spaced = to_shape(values, {"shape": (*values.shape[: place + 1], 1, *values.shape[place + 1 :])})
        repeated = repeated_to(spaced, {"shape": with_axis(spaced.shape, place + 1, counts[0])})
        return to_shape(repeated, {"shape": with_axis(values.shape, place, size * counts[0])})
    if len(counts) != size:
        raise ArgumentError(f"repeat: {len(counts)} counts for {size} positions along axis {place}", mend="give one count, or one per position")
    return functions.take(values, np.repeat(np.arange(size), counts), axis=place)


Widths = tuple[tuple[int, int], ...]


def _pad_eval(x: Any, widths: Widths, value: complex) -> Any:
    shape = tuple(before + size + after for size, (before, after) in zip(x.shape, widths, strict=True))
    padded = np.zeros(shape, x.dtype) if value.__class__ is int and value == 0 else np.full(shape, value, x.dtype)
    padded[_interior(x.shape, widths)] = x
    return padded


def _interior(shape: Shape, widths: Widths) -> tuple[slice, ...]:
    return tuple(slice(before, before + size) for size, (before, _) in zip(shape, widths, strict=True))


def _batch_pad(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(primitive, inputs, {**params, "widths": ((0, 0), *params["widths"])})


def _pad_loops(w: Nest, out: Array, x: Array, widths: Widths, value: Any) -> None:
    if out.size > x.size:
        w.fill(out, value)
    w.copy(out, x, into=numbered(out.shape)[tuple(slice(before, before + size) for size, (before, _) in zip(x.shape, widths, strict=True))])


PAD = Primitive(
    name="pad",
    inputs=("x",),
    aval=lambda x, widths, value: Aval(tuple(before + size + after for size, (before, after) in zip(x.shape, widths, strict=True)), x.dtype),
    eval=_pad_eval,
    vjp=(lambda ct, to, widths: functions.getitem(ct, _interior(to.shape, widths)),),
    jvp=(lambda t, widths: bind(PAD, (t,), {"widths": widths, "value": 0}),),
    batch=_batch_pad,
    loops=_pad_loops,
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
    values = lift(x)
    widths = _widths(pad_width, len(values.shape))
    if mode == "constant":
        if promote(values.dtype, constant_values) != values.dtype:
            raise DtypeError(f"pad: {describe(values)} cannot hold the value {constant_values!r}", mend="convert one of them with astype")
        return bind(PAD, (values,), {"widths": widths, "value": constant_values})
    if mode not in _MODES:
        raise ArgumentError(f"pad: there is no mode {mode!r}", mend=f"use one of constant, {', '.join(_MODES)}")
    for axis, width in enumerate(widths):
        if any(width):
            if not values.shape[axis]:
                raise ArgumentError(f"pad: axis {axis} of shape {values.shape} is empty, so there is nothing to continue", mend='use mode "constant"')
            # What NumPy does with the positions, done to the elements, so that one gather serves every mode.
            values = functions.take(values, np.pad(np.arange(values.shape[axis]), width, mode), axis=axis)  # type: ignore[call-overload] - the stubs want literals
    return values


def _widths(pad_width: Any, rank: int) -> Widths:
    try:
        pairs = np.broadcast_to(np.asarray(pad_width, dtype=np.int64) if np.size(pad_width) else np.zeros((rank, 2), np.int64), (rank, 2))
    except (ValueError, TypeError):
        raise ArgumentError(f"pad: no widths for {rank} axes: {pad_width!r}", mend="give a pair (before, after) of integers for each axis") from None
    if (pairs < 0).any():
        raise ArgumentError(f"pad: widths cannot be negative: {pad_width!r}", mend="slice with x[...] to cut elements off")
    return tuple((before, after) for before, after in pairs.tolist())
