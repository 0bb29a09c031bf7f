"""Movement gates: elements change place, or are repeated, and nothing is computed.

All are linear: backward moves the cotangent to where the elements came from, summing where
one element went to several places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape, broadcast, normalize_axes, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.gate import gate, lift
from chainrule.tape import bind
from chainrule.tensor import Axis, Tensor

__all__ = ["broadcast_to", "reshape"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _sizes(shape: int | Sequence[int]) -> Shape:
    return tuple(size.__index__() for size in ((shape,) if not isinstance(shape, Sequence) else shape))


def _reshape_aval(x: Aval, shape: Shape) -> Aval:
    if math.prod(shape) != x.size:
        raise ShapeError(f"reshape: {x} has {x.size} elements, shape {shape} has {math.prod(shape)}", mend="choose sizes whose product is the same; -1 stands for one size")
    return Aval(shape, x.dtype)


RESHAPE = Primitive(
    name="reshape",
    inputs=("x",),
    aval=_reshape_aval,
    eval=lambda xp, x, shape: xp.reshape(x, shape),
    transpose=lambda ct, to: reshape(ct, to.shape),
    batch=lambda primitive, batched, inputs, params: reshape(inputs[0], (inputs[0].shape[0], *params["shape"])),
    onnx="Reshape",
    samples=lambda rng: [Sample((rng.normal(size=(2, 6)), (3, 4))), Sample((rng.normal(size=(2, 3)), (-1,))), Sample((rng.normal(size=(0, 2)), (0,)))],
    refuses=lambda: [Refusal((np.ones((2, 3)), (4,)), ShapeError, "6 elements"), Refusal((np.ones(6), (-1, -1)), ShapeError, "one size")],
)


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
    x = lift(x)
    sizes = _sizes(shape)
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        total = math.prod(x.shape)
        if sizes.count(-1) > 1 or known == 0 or total % known:
            raise ShapeError(f"reshape: cannot work out -1 in {sizes} for {total} elements", mend="only one size may be -1, and the others must divide the number of elements")
        sizes = tuple(total // known if size == -1 else size for size in sizes)
    return bind(RESHAPE, (x,), {"shape": sizes})


def _broadcast_aval(x: Aval, shape: Shape) -> Aval:
    if broadcast(x.shape, shape) != shape:
        raise ShapeError(f"broadcast_to: {x} does not broadcast to {shape}", mend="sizes of x must be 1 or equal to those of the shape, from the last axis on")
    return Aval(shape, x.dtype)


def _broadcast_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Tensor:
    (x,), shape = inputs, params["shape"]
    count, rest = x.shape[0], x.shape[1:]
    return broadcast_to(reshape(x, (count, *(1,) * (len(shape) - len(rest)), *rest)), (count, *shape))


BROADCAST_TO = Primitive(
    name="broadcast_to",
    inputs=("x",),
    aval=_broadcast_aval,
    eval=lambda xp, x, shape: xp.broadcast_to(x, shape),
    transpose=lambda ct: ct,
    batch=_broadcast_batch,
    onnx="Expand",
    samples=lambda rng: [Sample((rng.normal(size=(3,)), (2, 3))), Sample((rng.normal(size=(2, 1)), (4, 2, 3))), Sample((rng.normal(), (2, 2)))],
    refuses=lambda: [Refusal((np.ones(3), (2,)), ShapeError, "broadcast"), Refusal((np.ones((2, 3)), (3,)), ShapeError, "broadcast")],
)


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
    return bind(BROADCAST_TO, (lift(x),), {"shape": _sizes(shape)})
