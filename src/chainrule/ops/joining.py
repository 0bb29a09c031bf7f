"""Joining arrays and cutting them up.

Gates with several inputs or outputs are linear in all of them together; a piece that no cotangent
reaches counts as zeros, which are never written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Dtype, Shape, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, ShapeError
from chainrule.core.nest import Array, Nest, numbered
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.gate import describe, gate, lift, operands
from chainrule.ops.movement import broadcast_to, integers, reshape
from chainrule.ops.shifting import batch_axis
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["concat", "split", "stack", "unstack"]

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


def _arrays(arrays: Any, operation: str) -> list[Any]:
    """The arrays to join, in one dtype."""
    if not (arrays.__class__ is list or isinstance(arrays, (Sequence, Tensor, np.ndarray))) or not len(arrays):
        says = f"{operation} takes at least one array, in a tuple or list, not {describe(arrays)}"
        raise ArgumentError(says, mend=f"write cr.{operation}([x, y])")
    return operands(operation, "any", *arrays)


def with_axis(shape: Shape, axis: int, size: int) -> Shape:
    """``shape`` with another size on one axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _concat_aval(*xs: Aval, axis: int, sizes: tuple[int, ...]) -> Aval:
    first = xs[0]
    for x in xs:
        if x.ndim != first.ndim or with_axis(x.shape, axis, 0) != with_axis(first.shape, axis, 0):
            shapes = " and ".join(str(x.shape) for x in xs)
            raise ShapeError(f"concat along axis {axis}: shapes {shapes} differ on other axes", mend="make the other axes equal")
    return Aval(with_axis(first.shape, axis, sum(sizes)), first.dtype)


def _concat_transpose(ct: Any, to: tuple[Any, ...], axis: int, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    pieces = bind(SPLIT, (ct,), {"axis": axis, "sizes": sizes})
    return tuple(piece if want is not None else None for piece, want in zip(pieces, to, strict=True))


def _concat_loops(w: Nest, out: Array, *xs: Array, axis: int, sizes: tuple[int, ...]) -> None:
    places = np.split(numbered(out.shape), np.cumsum(sizes)[:-1], axis)
    for x, into in zip(xs, places, strict=True):
        w.copy(out, x, into=into)


CONCAT = Primitive(
    name="concat",
    inputs=("*xs",),
    aval=_concat_aval,
    eval=lambda *xs, axis, sizes: np.concatenate(xs, axis),
    numpy=lambda xs, axis, sizes: f"np.concatenate({xs}, {axis})",
    transpose=_concat_transpose,
    batch=_batch_joined,
    loops=_concat_loops,
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
        axis, xs = 0, [reshape(x, (math.prod(x.shape),)) for x in xs]
    place = normalize_axis(axis, len(xs[0].shape), "concat")
    try:
        sizes = tuple([x.shape[place] for x in xs])
    except IndexError:
        ranks = " and ".join(str(len(x.shape)) for x in xs)
        raise ShapeError(f"concat: arrays of {ranks} axes", mend="give all of them the same number of axes") from None
    return bind(CONCAT, xs, {"axis": place, "sizes": sizes})


def _stack_aval(*xs: Aval, axis: int) -> Aval:
    first = xs[0]
    if any(x.shape != first.shape for x in xs):
        shapes = " and ".join(str(x.shape) for x in xs)
        raise ShapeError(f"stack: shapes {shapes} differ", mend="make all shapes equal; concat joins along an axis that is there")
    return Aval((*first.shape[:axis], len(xs), *first.shape[axis:]), first.dtype)


def _stack_loops(w: Nest, out: Array, *xs: Array, axis: int) -> None:
    for x, into in zip(xs, np.moveaxis(numbered(out.shape), axis, 0), strict=True):
        w.copy(out, x, into=into)


STACK = Primitive(
    name="stack",
    inputs=("*xs",),
    aval=_stack_aval,
    eval=lambda *xs, axis: np.stack(xs, axis) if axis else np.array(xs),
    numpy=lambda xs, axis: f"np.stack({xs}, {axis})" if axis else f"np.array({xs})",
    transpose=lambda ct, to, axis: tuple(piece if want is not None else None for piece, want in zip(unstack(ct, axis=axis), to, strict=True)),
    batch=_batch_joined,
    loops=_stack_loops,
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
    batch=batch_axis,
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
    values = lift(x)
    return bind(UNSTACK, (values,), {"axis": normalize_axis(axis, len(values.shape), "unstack")})


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
    batch=batch_axis,
    outputs=True,
    kernel="move",
    onnx="Split",
    samples=lambda rng: [
        Sample((rng.normal(size=(5, 2)), 2)),
        Sample((rng.normal(size=(2, 5)), (1, 1, 4)), {"axis": -1}),
        Sample((rng.normal(size=(2,)), 3)),
    ],
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
    values = lift(x)
    place = normalize_axis(axis, len(values.shape), "split")
    size = values.shape[place]
    if isinstance(parts, Sequence):
        cuts = (0, *integers(parts, "split"), size)
        if sorted(cuts) != list(cuts):
            says = f"split: positions {parts} are not ascending between 0 and {size}"
            raise ArgumentError(says, mend="list where each part but the first begins")
        sizes = tuple(stop - start for start, stop in pairwise(cuts))
    else:
        (count,) = integers(parts, "split")
        if count < 1:
            raise ArgumentError(f"split: {count} parts", mend="there must be at least one")
        sizes = tuple(size // count + (part < size % count) for part in range(count))
    return bind(SPLIT, (values,), {"axis": place, "sizes": sizes})
