"""Movement gates: elements change place, or are repeated, and nothing is computed.

All are linear: backward moves the cotangent to where the elements came from, summing where
one element went to several places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape, broadcast, normalize_axes, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.gate import gate, lift
from chainrule.ops.short import short
from chainrule.tensor import Tensor

__all__ = [
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "expand_dims",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "reshape",
    "squeeze",
]

if TYPE_CHECKING:
    import numpy.typing as npt


def integers(value: Any, operation: str) -> tuple[int, ...]:
    """One integer or several, of whatever integer type, as a tuple.

    Raises
    ------
    DtypeError
        If they are not integers.
    """
    try:
        if value.__class__ is tuple or value.__class__ is list:
            return tuple(map(index, value))
        return tuple(map(index, value)) if hasattr(value, "__len__") and np.ndim(value) else (index(value),)
    except TypeError:
        raise DtypeError(f"{operation}: sizes, axes and counts are integers, not {value!r}", mend="pass an int, or a tuple of ints") from None


def sizes_of(shape: Any, operation: str, least: int = 0) -> Shape:
    """A shape as a tuple.

    Raises
    ------
    ShapeError
        If a size is smaller than ``least``.
    """
    sizes = integers(shape, operation)
    if sizes and min(sizes) < least:
        raise ShapeError(f"{operation}: {sizes} is no shape", mend="sizes cannot be negative")
    return sizes


def _reshape_aval(x: Aval, shape: Shape) -> Aval:
    if math.prod(shape) != x.size:
        says = f"reshape: {x} has {x.size} elements, shape {shape} has {math.prod(shape)}"
        raise ShapeError(says, mend="choose sizes whose product is the same; -1 stands for one size")
    return Aval(shape, x.dtype)


RESHAPE = Primitive(
    name="reshape",
    inputs=("x",),
    aval=_reshape_aval,
    eval=lambda x, shape: x.reshape(shape),
    transpose=lambda ct, to: reshape(ct, to.shape),
    numpy=lambda x, shape: f"{x}.reshape({shape})" if shape else f"{x}[{', '.join('0' * x.ndim)}]",
    batch=lambda primitive, batched, inputs, params: reshape(inputs[0], (inputs[0].shape[0], *params["shape"])),
    kernel="move",
    onnx="Reshape",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 6)), (3, 4))),
        Sample((rng.normal(size=(2, 3)), (-1,))),
        Sample((rng.normal(size=(0, 2)), (0,))),
        Sample((rng.normal(), (1, 1))),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), (4,)), ShapeError, "6 elements"),
        Refusal((np.ones(6), (-1, -1)), ShapeError, "one size"),
        Refusal((np.ones(6), (-2, -3)), ShapeError, "negative"),
        Refusal((np.ones(6), (2.0, 3)), DtypeError, "integers"),
    ],
)


to_shape = short(RESHAPE)


@gate(RESHAPE)
def reshape(x: Tensor | npt.ArrayLike, /, shape: int | Sequence[int], *, copy: bool | None = None) -> Tensor:
    """The same elements in row-major order, in another shape.

    Parameters
    ----------
    x : Tensor or array_like
    shape : int or sequence of int
        Sizes whose product is ``x.size``; one of them may be -1 and is worked out.
    copy : bool, optional
        Accepted for the array API; tensors never change, so it makes no difference.

    Returns
    -------
    Tensor
        Of the given shape.

    Raises
    ------
    ShapeError
        If the number of elements differs or more than one size is -1.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.reshape(cr.arange(4), (2, -1))
    tensor([[0, 1],
            [2, 3]])
    """
    values = lift(x)
    sizes = sizes_of(shape, "reshape", -1)
    if -1 in sizes:
        known = -math.prod(sizes)
        total = math.prod(values.shape)
        if sizes.count(-1) > 1 or known <= 0 or total % known:
            says = f"reshape: cannot work out -1 in {sizes} for {total} elements"
            raise ShapeError(says, mend="only one size may be -1, and the others must divide the number of elements")
        sizes = tuple([total // known if size == -1 else size for size in sizes])
    return to_shape(values, {"shape": sizes})


def _broadcast_aval(x: Aval, shape: Shape) -> Aval:
    if broadcast(x.shape, shape) != shape:
        says = f"broadcast_to: {x} does not broadcast to {shape}"
        raise ShapeError(says, mend="sizes of x must be 1 or equal to those of the shape, from the last axis on")
    return Aval(shape, x.dtype)


def _broadcast_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Tensor:
    (x,), shape = inputs, params["shape"]
    count, rest = x.shape[0], x.shape[1:]
    return broadcast_to(reshape(x, (count, *(1,) * (len(shape) - len(rest)), *rest)), (count, *shape))


def _broadcast_eval(x: Any, shape: Shape) -> Any:
    """What np.broadcast_to does, without its detour through an iterator."""
    own = x.shape
    extra = len(shape) - len(own)
    if extra < 0 or not x.size or not x.flags.c_contiguous:
        return np.broadcast_to(x, shape)
    strides = [0] * extra
    for size, target, stride in zip(own, shape[extra:], x.strides, strict=True):
        if size == target:
            strides.append(stride)
        elif size == 1:
            strides.append(0)
        else:
            return np.broadcast_to(x, shape)
    out = np.ndarray(shape, x.dtype, x, 0, tuple(strides))
    out.flags.writeable = False
    return out


BROADCAST_TO = Primitive(
    name="broadcast_to",
    inputs=("x",),
    aval=_broadcast_aval,
    eval=_broadcast_eval,
    transpose=lambda ct: ct,
    batch=_broadcast_batch,
    kernel="move",
    onnx="Expand",
    samples=lambda rng: [Sample((rng.normal(size=(3,)), (2, 3))), Sample((rng.normal(size=(2, 1)), (4, 2, 3))), Sample((rng.normal(), (2, 2)))],
    refuses=lambda: [Refusal((np.ones(3), (2,)), ShapeError, "broadcast"), Refusal((np.ones((2, 3)), (3,)), ShapeError, "broadcast")],
)


repeated_to = short(BROADCAST_TO)


@gate(BROADCAST_TO)
def broadcast_to(x: Tensor | npt.ArrayLike, /, shape: int | Sequence[int]) -> Tensor:
    """Repeat along axes of size 1, and along new axes in front, without copying.

    Backward sums over the repeated axes.

    Parameters
    ----------
    x : Tensor or array_like
    shape : int or sequence of int
        Shape to which ``x`` broadcasts.

    Returns
    -------
    Tensor
        Of the given shape.

    Raises
    ------
    ShapeError
        If ``x`` does not broadcast to it.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.broadcast_to([1.0, 2.0], (2, 2))
    tensor([[1., 2.],
            [1., 2.]])
    """
    return repeated_to(lift(x), {"shape": sizes_of(shape, "broadcast_to")})


@public
def broadcast_shapes(*shapes: Sequence[int]) -> Shape:
    """The shape that arrays of these shapes have in common.

    Parameters
    ----------
    *shapes : tuple of int

    Returns
    -------
    tuple of int

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.broadcast_shapes((2, 1), (3,))
    (2, 3)
    """
    return broadcast(*(sizes_of(shape, "broadcast_shapes") for shape in shapes))


@public
def broadcast_arrays(*arrays: Tensor | npt.ArrayLike) -> tuple[Tensor, ...]:
    """All arrays repeated to the shape that they have in common.

    Parameters
    ----------
    *arrays : Tensor or array_like
        Of shapes that broadcast.

    Returns
    -------
    tuple of Tensor
        As many, of one shape, each of its own dtype.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.broadcast_arrays([1, 2], 3)[1]
    tensor([3, 3])
    """
    lifted = [lift(x) for x in arrays]
    shape = broadcast(*(x.shape for x in lifted))
    return tuple(repeated_to(x, {"shape": shape}) for x in lifted)


def _permute_aval(x: Aval, axes: tuple[int, ...]) -> Aval:
    if sorted(axes) != list(range(x.ndim)):
        raise AxisError(f"permute_dims: {axes} is not an order of the {x.ndim} axes of {x}", mend="name every axis once")
    return Aval(tuple(x.shape[axis] for axis in axes), x.dtype)


PERMUTE_DIMS = Primitive(
    name="permute_dims",
    inputs=("x",),
    aval=_permute_aval,
    eval=lambda x, axes: x.transpose(axes),
    transpose=lambda ct, axes: permute_dims(ct, inverse(axes)),
    numpy=lambda x, axes: f"{x}.T" if axes == tuple(range(x.ndim))[::-1] else f"{x}.transpose({axes})",
    batch=lambda primitive, batched, inputs, params: permute_dims(inputs[0], (0, *(axis + 1 for axis in params["axes"]))),
    kernel="move",
    onnx="Transpose",
    samples=lambda rng: [Sample((rng.normal(size=(2, 3, 4)), (2, 0, 1))), Sample((rng.normal(size=(2, 0)), (-1, 0))), Sample((rng.normal(), ()))],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), (0, 0)), AxisError, "every axis once"),
        Refusal((np.ones((2, 3)), (0,)), AxisError, "every axis once"),
        Refusal((np.ones((2, 3)), (0, 2)), AxisError, "out of range"),
    ],
)


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The order of axes that undoes another one."""
    back = [0] * len(axes)
    for position, axis in enumerate(axes):
        back[axis] = position
    return tuple(back)


reordered = short(PERMUTE_DIMS)


@gate(PERMUTE_DIMS)
def permute_dims(x: Tensor | npt.ArrayLike, /, axes: Sequence[int]) -> Tensor:
    """The axes in another order, without copying.

    Parameters
    ----------
    x : Tensor or array_like
    axes : sequence of int
        For each axis of the result, the axis of ``x`` that it is.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If an axis is out of range, missing or named twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.permute_dims([[1, 2, 3]], (1, 0)).shape
    (3, 1)
    """
    values = lift(x)
    rank = len(values.shape)
    order = integers(axes, "permute_dims")
    for axis in order:
        if not 0 <= axis < rank:
            order = tuple(normalize_axis(axis, rank, "permute_dims") for axis in order)
            break
    return reordered(values, {"axes": order})


@public
def matrix_transpose(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """The last two axes exchanged.

    Parameters
    ----------
    x : Tensor or array_like
        Of shape (..., m, n).

    Returns
    -------
    Tensor
        Of shape (..., n, m).

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.matrix_transpose([[1, 2], [3, 4]])
    tensor([[1, 3],
            [2, 4]])
    """
    values = lift(x)
    rank = len(values.shape)
    if rank < 2:
        raise ShapeError(f"matrix_transpose: shape {values.shape} has fewer than two axes", mend="expand_dims adds an axis")
    return reordered(values, {"axes": (*range(rank - 2), rank - 1, rank - 2)})


@public
def moveaxis(x: Tensor | npt.ArrayLike, source: int | Sequence[int], destination: int | Sequence[int], /) -> Tensor:
    """Axes moved to other places; the rest keep their order.

    Parameters
    ----------
    x : Tensor or array_like
    source, destination : int or sequence of int
        Where each axis stands, and where it goes.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If an axis is out of range or named twice.
    ArgumentError
        If the two differ in number.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.moveaxis(cr.zeros((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    values = lift(x)
    rank = len(values.shape)
    start, end = ([normalize_axis(axis, rank, "moveaxis") for axis in integers(axes, "moveaxis")] for axes in (source, destination))
    if len(start) != len(end):
        raise ArgumentError(f"moveaxis: {len(start)} axes cannot go to {len(end)} places", mend="name as many destinations as sources")
    if len(set(start)) < len(start) or len(set(end)) < len(end):
        raise AxisError(f"moveaxis: an axis stands twice in {source} or {destination}", mend="name every axis once")
    order = [axis for axis in range(rank) if axis not in start]
    for place, axis in sorted(zip(end, start, strict=True)):
        order.insert(place, axis)
    return reordered(values, {"axes": tuple(order)})


@public
def expand_dims(x: Tensor | npt.ArrayLike, /, axis: int | Sequence[int] = 0) -> Tensor:
    """New axes of size 1.

    Parameters
    ----------
    x : Tensor or array_like
    axis : int or tuple of int
        Where the new axes stand in the result.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If an axis is out of range for the result or named twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.expand_dims([1, 2], (0, -1)).shape
    (1, 2, 1)
    """
    values = lift(x)
    shape = values.shape
    if isinstance(axis, int) and 0 <= axis <= len(shape):
        return to_shape(values, {"shape": (*shape[:axis], 1, *shape[axis:])})
    places = integers(axis, "expand_dims")
    rank = len(shape) + len(places)
    new_axes = normalize_axes(places, rank, "expand_dims")
    old = iter(shape)
    return to_shape(values, {"shape": tuple(1 if place in new_axes else next(old) for place in range(rank))})


@public
def squeeze(x: Tensor | npt.ArrayLike, /, axis: int | Sequence[int]) -> Tensor:
    """Without the given axes, which must be of size 1.

    Parameters
    ----------
    x : Tensor or array_like
    axis : int or tuple of int

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If an axis is out of range or named twice.
    ShapeError
        If an axis is not of size 1.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.squeeze([[1, 2]], axis=0)
    tensor([1, 2])
    """
    values = lift(x)
    axes = normalize_axes(integers(axis, "squeeze"), len(values.shape), "squeeze")
    if wide := [place for place in axes if values.shape[place] != 1]:
        says = f"squeeze: axis {wide[0]} of shape {values.shape} has size {values.shape[wide[0]]}, not 1"
        raise ShapeError(says, mend="only axes of size 1 can go; reshape merges others")
    return to_shape(values, {"shape": tuple(size for place, size in enumerate(values.shape) if place not in axes)})
