"""Reductions: gates that summarise an array along axes.

The derivative of most of them is one weight per element: the output changes by the sum of
weight times tangent, and the cotangent, spread over the reduced axes, is multiplied by the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_INT, Aval, Dtype, Shape, normalize_axes, reduced
from chainrule.core.errors import AxisError, DtypeError
from chainrule.core.primitive import Primitive, Refusal, Sample, functions
from chainrule.ops.gate import gate, lift, to_dtype
from chainrule.tape import bind
from chainrule.tensor import Axis, Tensor

__all__ = ["sum"]

if TYPE_CHECKING:
    import numpy.typing as npt

Axes = tuple[int, ...]


def spread(out: Any, axis: Axes, keepdims: bool, shape: Shape) -> Any:
    """A reduction's output (or cotangent) in the shape of its input, by repetition."""
    if not keepdims and axis:
        out = functions.reshape(out, tuple(1 if i in axis else size for i, size in enumerate(shape)))
    return functions.broadcast_to(out, shape)


def batch_reduction(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """Reduce the same axes, each one place further back."""
    return bind(primitive, inputs, {**params, "axis": tuple(axis + 1 for axis in params["axis"])})


SUM = Primitive(
    name="sum",
    inputs=("x",),
    aval=lambda x, axis, keepdims: Aval(reduced(x.shape, axis, keepdims), x.dtype),
    eval=lambda x, axis, keepdims: np.add.reduce(x, axis=axis, keepdims=keepdims),
    transpose=lambda ct, to, axis, keepdims: spread(ct, axis, keepdims, to.shape),
    batch=batch_reduction,
    onnx="ReduceSum",
    samples=lambda rng: [Sample((rng.normal(size=(2, 3, 4)),), {"axis": axis, "keepdims": keepdims}) for axis in (None, 1, (0, -1), ()) for keepdims in (False, True)]
    + [Sample((rng.normal(),)), Sample((rng.normal(size=(0, 3)),), {"axis": 0})],
    refuses=lambda: [Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2}), Refusal((np.ones((2, 3)),), AxisError, "twice", {"axis": (1, -1)})],
)


@gate(SUM)
def sum(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, dtype: npt.DTypeLike = None, keepdims: bool = False) -> Tensor:
    """Sum along axes; integers are summed as int64 (uint64 if unsigned).

    Parameters
    ----------
    x : Tensor or array_like
        Numeric values of any shape.
    axis : int or tuple of int, optional
        Axes to sum away; all of them if not given.
    dtype : dtype, optional
        Convert to it before summing.
    keepdims : bool
        Keep summed axes with size 1.

    Returns
    -------
    Tensor
        Without the summed axes, or with size 1 there.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> total = cr.sum(x, axis=0); total
    tensor([4., 6.], from=sum)
    >>> total.backward([1.0, 10.0]); x.grad
    tensor([[ 1., 10.],
            [ 1., 10.]])
    """
    x = _accumulated(lift(x), dtype)
    return bind(SUM, (x,), {"axis": normalize_axes(axis, len(x.shape), "sum"), "keepdims": bool(keepdims)})


def _accumulated(x: Any, dtype: npt.DTypeLike) -> Any:
    """``x`` in the dtype that sums and products of it have by default, or in the given one."""
    if dtype is not None:
        return to_dtype(x, np.dtype(dtype))
    if x.dtype.kind in "bi":
        return to_dtype(x, DEFAULT_INT)
    return to_dtype(x, np.dtype("uint64")) if x.dtype.kind == "u" else x
