"""Products of arrays: gates that are linear in each operand.

The derivative with respect to one operand is a product of the cotangent with the others, so the
backward pass reads only those. Shapes decide which of the equal forms of such a product is
evaluated: one large matrix product where that can be, never a stack of products that is then summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape, broadcast, promote
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Sample, functions
from chainrule.ops.elementwise import binary_function
from chainrule.ops.gate import batch_elementwise, describe, gate, operands
from chainrule.ops.movement import reshape
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["matmul", "vecdot"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _matmul_aval(x1: Aval, x2: Aval) -> Aval:
    if not x1.shape or not x2.shape:
        raise ShapeError(f"matmul({x1}, {x2}): both operands need at least one axis", mend="use x1 * x2 to multiply by a number")
    axis, which = (-2, "second-last") if x2.ndim > 1 else (0, "only")
    if x1.shape[-1] != x2.shape[axis]:
        raise ShapeError(
            f"matmul({x1}, {x2}): the last axis of x1 has {x1.shape[-1]} elements, the {which} axis of x2 has {x2.shape[axis]}",
            mend="make them equal; x.mT exchanges the last two axes",
        )
    dtype = promote(x1.dtype, x2.dtype)
    if dtype.kind == "b":
        raise DtypeError(f"matmul({x1}, {x2}): takes numeric values", mend="convert the operands with astype")
    stack = _stacks("matmul", x1, x2, x1.shape[:-2], x2.shape[:-2])
    return Aval((*stack, *x1.shape[-2:-1], *(x2.shape[-1:] if x2.ndim > 1 else ())), dtype)


def _stacks(name: str, x1: Aval, x2: Aval, shape1: Shape, shape2: Shape) -> Shape:
    try:
        return broadcast(shape1, shape2)
    except ShapeError as error:
        raise ShapeError(f"{name}({x1}, {x2}): {error.what}", mend=error.mend) from None


def _product(x1: Any, x2: Any) -> Any:
    """x1 @ x2; a stack times one matrix is a single product of all its rows."""
    if x2.ndim == 2:
        if x1.ndim == 2:
            return x1.dot(x2)
        if x1.ndim > 2 and x1.shape[-1] == x2.shape[0]:
            lead = x1.shape[:-1]
            return x1.reshape(math.prod(lead), x1.shape[-1]).dot(x2).reshape(*lead, x2.shape[1])
    return x1 * x2 if _is_outer(x1, x2) else x1 @ x2


def _is_outer(x1: Any, x2: Any) -> bool:
    """Whether these are stacks of columns and rows, for which NumPy's products take several times as long as its multiplication."""
    return x1.ndim > 2 < x2.ndim and x1.shape[-1] == 1 == x2.shape[-2]


def _product_source(x1: Any, x2: Any, out: str) -> str | None:
    if x2.ndim == 2 and x1.ndim == 2:
        return f"{x1}.dot({x2}{out})"
    if _is_outer(x1, x2):
        return f"np.multiply({x1}, {x2}{out})" if out else f"{x1} * {x2}"
    if out:
        return f"np.matmul({x1}, {x2}{out})" if x2.ndim > 2 else None
    if x2.ndim == 2 < x1.ndim:
        lead = x1.shape[:-1]
        return f"{x1}.reshape({(math.prod(lead), x1.shape[-1])}).dot({x2}).reshape({(*lead, x2.shape[1])})"
    return f"{x1} @ {x2}"


def _pull_x1(ct: Any, x2: Any, to: Any) -> Any:
    """Cotangent of x1: ct @ x2.mT; where x1 has one axis it is a column, where x2 has one, ct lacks its last axis."""
    rank = len(to.shape)
    if x2.ndim == 1:
        return ct * x2 if rank == 1 else reshape(ct, (*ct.shape, 1)) * x2
    if rank == 1:
        if x2.ndim == 2:
            return x2 @ ct
        return reshape(x2 @ reshape(ct, (*ct.shape, 1)), x2.shape[:-1])
    if x2.ndim == 2 == rank:
        return ct @ x2.mT
    if rank == 2 and _joining_is_smaller(ct.shape, x2.shape):
        return joined(ct) @ joined(x2).mT
    return matmul(ct, x2.mT)


def _joining_is_smaller(a: Shape, b: Shape) -> bool:
    """Whether a copy of two stacks takes less room than the stack of their matrices' products."""
    return b[-1] * (a[-2] + b[-2]) < a[-2] * b[-2]


def joined(x: Any) -> Any:
    """A stack of matrices side by side."""
    last = x.ndim - 1
    return reshape(functions.permute_dims(x, (last - 1, *range(last - 1), last)), (x.shape[-2], math.prod(x.shape[:-2]) * x.shape[-1]))


def _pull_x2(ct: Any, x1: Any, to: Any) -> Any:
    """Cotangent of x2: x1.mT @ ct. Stack axes along which x2 is repeated are rows of one long product."""
    rank = len(to.shape)
    if x1.ndim == 1:
        return ct * x1 if rank == 1 else reshape(x1, (-1, 1)) * reshape(ct, (*ct.shape[:-1], 1, ct.shape[-1]))
    if rank == 1:
        rows = math.prod(x1.shape[:-1])
        return reshape(ct, (rows,)) @ reshape(x1, (rows, x1.shape[-1]))
    if x1.ndim == 2 == rank:
        return x1.mT @ ct
    stack = ct.shape[:-2]
    own = (*(1,) * (len(stack) + 2 - rank), *to.shape[:-2])
    kept = len(stack)
    first = len(stack) + 2 - x1.ndim
    while kept > first and own[kept - 1] == 1:
        kept -= 1
    if kept == len(stack):
        return x1.mT @ ct
    rows = math.prod(stack[kept:]) * ct.shape[-2]
    long1 = reshape(x1, (*x1.shape[: kept - first], rows, x1.shape[-1]))
    share = long1.mT @ reshape(ct, (*stack[:kept], rows, ct.shape[-1]))
    return reshape(share, (*stack[:kept], *(1,) * (len(stack) - kept), *to.shape[-2:])) if kept else reshape(share, to.shape)


def _matmul_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """Give every operand matrices, line the stacks up behind the batch axis, and take the added axes away again."""
    ranks = [x.ndim - b for x, b in zip(inputs, batched, strict=True)]
    rank = max(2, *ranks)
    aligned: list[Any] = []
    for place, (x, b, own) in enumerate(zip(inputs, batched, ranks, strict=True)):
        shape = x.shape[b:]
        matrix = shape if own > 1 else (1, *shape) if place == 0 else (*shape, 1)
        if b:
            matrix = (x.shape[0], *(1,) * (rank - len(matrix)), *matrix)
        aligned.append(x if matrix == x.shape else reshape(x, matrix))
    out = matmul(*aligned)
    shape = (*out.shape[:-2], *((out.shape[-2],) if ranks[0] > 1 else ()), *((out.shape[-1],) if ranks[1] > 1 else ()))
    return out if shape == out.shape else reshape(out, shape)


_MATMUL_SHAPES = (
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((3,), (2, 3, 2)),
    ((2, 2, 3), (3,)),
    ((2, 2, 3), (3, 2)),
    ((2, 3), (2, 3, 2)),
    ((3, 2), (2, 2, 1)),
    ((2, 1, 2, 3), (3, 3, 1)),
    ((2, 2, 1, 2), (2, 1, 2, 2)),
    ((2, 3, 1), (2, 1, 2)),
    ((2, 0), (0, 3)),
    ((0, 2), (2, 3)),
    ((2, 0, 2), (2, 2)),
)


def _matmul_loops(w: Nest, out: Array, a: Array, b: Array) -> None:
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    with w.share(out.shape) as at:
        stack = at[: len(at) - rows - columns]
        row, column = at[len(stack) : len(stack) + rows], at[len(at) - columns :] if columns else ()
        total = w.variable(0, out.dtype)
        with w.loop(a.shape[-1]) as k:
            w.assign(total, total + w.load(a, (*stack, *row, k)) * w.load(b, (*stack, k, *column)))
        w.store(out, at, total)


MATMUL = Primitive(
    name="matmul",
    inputs=("x1", "x2"),
    aval=_matmul_aval,
    cost=lambda x1, x2: _matmul_aval(x1, x2).size * x1.shape[-1],
    eval=_product,
    operator="@",
    multilinear=True,
    vjp=(_pull_x1, _pull_x2),
    batch=_matmul_batch,
    loops=_matmul_loops,
    kernel="gemm",
    numpy=_product_source,
    onnx="MatMul",
    samples=lambda rng: [Sample((rng.normal(size=a), rng.normal(size=b))) for a, b in _MATMUL_SHAPES],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), np.ones((2, 3))), ShapeError, "second-last axis of x2 has 2"),
        Refusal((np.ones(3), np.ones(2)), ShapeError, "only axis of x2 has 2"),
        Refusal((np.ones((2, 2, 3)), np.ones((3, 3, 2))), ShapeError, "broadcast"),
        Refusal((np.ones(3), 2.0), ShapeError, "at least one axis"),
        Refusal((np.ones((2, 2), bool), np.ones((2, 2), bool)), DtypeError, "takes numeric"),
    ],
)
_matmul = binary_function(MATMUL, "numeric", tracked=True)


@gate(MATMUL)
def matmul(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
    """Matrix product; also ``x1 @ x2``.

    Parameters
    ----------
    x1 : Tensor or array_like
        Numeric matrices, shape (..., N, K); or one vector, shape (K,).
    x2 : Tensor or array_like
        Numeric matrices, shape (..., K, M), whose stack axes broadcast with those of ``x1``; or one vector,
        shape (K,).

    Returns
    -------
    Tensor
        Shape (..., N, M), without N where ``x1`` is a vector and without M where ``x2`` is one; the promoted dtype.

    Raises
    ------
    ShapeError
        If K differs, the stacks do not broadcast, or an operand has no axis.
    DtypeError
        If both operands are boolean.

    Notes
    -----
    For C = A B and the cotangent G of C: that of A is G B^T, that of B is A^T G (Giles 2008, "An extended
    collection of matrix derivative results for forward and reverse mode algorithmic differentiation", 2.2.1).
    Where B is one matrix under a stack of A, the rows of all of A make one product.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> y = cr.matmul(w, [1.0, -1.0]); y
    tensor([-1., -1.], from=matmul)
    >>> y.backward([1.0, 10.0]); w.grad
    tensor([[  1.,  -1.],
            [ 10., -10.]])
    """
    return _matmul(x1, x2)


def _negative(name: str, axis: int, x1: Any, x2: Any) -> int:
    """``axis`` counted from the back, where broadcasting keeps it in place."""
    least = min(x1.ndim, x2.ndim)
    position = index(axis)
    if position >= 0 and x1.ndim == x2.ndim:
        position -= least
    if not -least <= position < 0:
        raise AxisError(
            f"{name}({describe(x1)}, {describe(x2)}): axis {axis} is not an axis of both operands", mend=f"count from the back: -{least} to -1"
        )
    return position


def _vecdot_aval(x1: Aval, x2: Aval, axis: int) -> Aval:
    if x1.shape[axis] != x2.shape[axis]:
        raise ShapeError(f"vecdot({x1}, {x2}): axis {axis} has {x1.shape[axis]} and {x2.shape[axis]} elements", mend="make the vectors equally long")
    shape = _stacks("vecdot", x1, x2, x1.shape, x2.shape)
    return Aval(shape[:axis] + shape[len(shape) + axis + 1 :], promote(x1.dtype, x2.dtype))


def _vecdot_pull(ct: Any, x: Any, axis: int) -> Any:
    """The cotangent of scalar products times the other vectors."""
    shape = list(ct.shape)
    shape.insert(len(shape) + axis + 1, 1)
    return reshape(ct, tuple(shape)) * x


def _vecdot_loops(w: Nest, out: Array, a: Array, b: Array, axis: int) -> None:
    with w.share(out.shape) as at:
        total = w.variable(0, out.dtype)
        before = len(at) + 1 + axis if axis < 0 else axis
        with w.loop(a.shape[axis]) as i:
            place = (*at[:before], i, *at[before:])
            w.assign(total, total + w.load(a, place) * w.load(b, place))
        w.store(out, at, total)


VECDOT = Primitive(
    name="vecdot",
    inputs=("x1", "x2"),
    aval=_vecdot_aval,
    cost=lambda x1, x2, axis: _vecdot_aval(x1, x2, axis).size * x1.shape[axis],
    eval=np.vecdot,
    multilinear=True,
    vjp=(lambda ct, x2, axis: _vecdot_pull(ct, x2, axis), lambda ct, x1, axis: _vecdot_pull(ct, x1, axis)),
    batch=batch_elementwise,
    loops=_vecdot_loops,
    samples=lambda rng: [
        Sample((rng.normal(size=3), rng.normal(size=3))),
        Sample((rng.normal(size=(2, 3)), rng.normal(size=3))),
        Sample((rng.normal(size=(2, 1, 3)), rng.normal(size=(4, 3)))),
        Sample((rng.normal(size=(2, 3)), rng.normal(size=(4, 2, 1))), {"axis": -2}),
        Sample((rng.normal(size=(2, 3)), rng.normal(size=(2, 3))), {"axis": 0}),
        Sample((rng.normal(size=(2, 0)), rng.normal(size=0))),
    ],
    refuses=lambda: [
        Refusal((np.ones(3), np.ones(2)), ShapeError, "3 and 2 elements"),
        Refusal((np.ones((2, 3)), np.ones((4, 3))), ShapeError, "broadcast"),
        Refusal((np.ones((2, 3)), np.ones(3)), AxisError, "not an axis of both", {"axis": 1}),
        Refusal((2.0, np.ones(3)), AxisError, "not an axis of both"),
        Refusal((np.ones(2, bool), np.ones(2, bool)), DtypeError, "takes numeric"),
    ],
)


@gate(VECDOT)
def vecdot(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Scalar products of vectors along an axis; complex ``x1`` is conjugated.

    Parameters
    ----------
    x1, x2 : Tensor or array_like
        Numeric values whose shapes broadcast and that are equally long along ``axis``.
    axis : int
        The vectors' axis, counted from the back where the operands differ in their number of axes.

    Returns
    -------
    Tensor
        Of the broadcast shape without that axis and of the promoted dtype.

    Raises
    ------
    ShapeError
        If the vectors differ in length or the other axes do not broadcast.
    AxisError
        If ``axis`` is not an axis of both.
    DtypeError
        If both operands are boolean.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> y = cr.vecdot(x, [10.0, 1.0]); y
    tensor([12., 34.], from=vecdot)
    >>> y.backward([1.0, 2.0]); x.grad
    tensor([[10.,  1.],
            [20.,  2.]])
    """
    a, b = operands("vecdot", "numeric", x1, x2)
    return bind(VECDOT, (a, b), {"axis": _negative("vecdot", axis, a, b)})


def _cross_aval(x1: Aval, x2: Aval, axis: int) -> Aval:
    if x1.shape[axis] != 3 or x2.shape[axis] != 3:
        raise ShapeError(f"cross({x1}, {x2}): axis {axis} must have 3 elements in both", mend="choose the axis that holds the three components")
    return Aval(_stacks("cross", x1, x2, x1.shape, x2.shape), promote(x1.dtype, x2.dtype))


def _cross_loops(w: Nest, out: Array, a: Array, b: Array, axis: int) -> None:
    axis += len(out.shape)
    with w.share([*out.shape[:axis], *out.shape[axis + 1 :]]) as at:
        for i in range(3):
            here, one, two = ((*at[:axis], (i + j) % 3, *at[axis:]) for j in range(3))
            w.store(out, here, w.load(a, one) * w.load(b, two) - w.load(a, two) * w.load(b, one))


CROSS = Primitive(
    name="cross",
    inputs=("x1", "x2"),
    aval=_cross_aval,
    cost=lambda x1, x2, axis: 2 * _cross_aval(x1, x2, axis).size,
    eval=np.cross,
    multilinear=True,
    vjp=(lambda ct, x2, axis: cross(x2, ct, axis=axis), lambda ct, x1, axis: cross(ct, x1, axis=axis)),
    batch=batch_elementwise,
    loops=_cross_loops,
    samples=lambda rng: [
        Sample((rng.normal(size=3), rng.normal(size=3))),
        Sample((rng.normal(size=(2, 3)), rng.normal(size=3))),
        Sample((rng.normal(size=(2, 3, 1)), rng.normal(size=(3, 4))), {"axis": -2}),
        Sample((rng.normal(size=(3, 2)), rng.normal(size=(3, 2))), {"axis": 0}),
        Sample((rng.normal(size=(0, 3)), rng.normal(size=3))),
    ],
    refuses=lambda: [
        Refusal((np.ones(2), np.ones(2)), ShapeError, "3 elements"),
        Refusal((np.ones((2, 3)), np.ones((4, 3))), ShapeError, "broadcast"),
        Refusal((np.ones((3, 2)), np.ones(3)), AxisError, "not an axis of both", {"axis": 0}),
        Refusal((np.ones(3, bool), np.ones(3, bool)), DtypeError, "takes numeric"),
    ],
)


@gate(CROSS)
def cross(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Vector products in three dimensions.

    Parameters
    ----------
    x1, x2 : Tensor or array_like
        Numeric values whose shapes broadcast, with 3 elements along ``axis``.
    axis : int
        The vectors' axis, counted from the back where the operands differ in their number of axes.

    Returns
    -------
    Tensor
        Of the broadcast shape and the promoted dtype.

    Raises
    ------
    ShapeError
        If the vectors have not three components or the shapes do not broadcast.
    AxisError
        If ``axis`` is not an axis of both.
    DtypeError
        If both operands are boolean.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 0.0, 0.0], requires_grad=True)
    >>> y = cr.linalg.cross(x, [0.0, 1.0, 0.0]); y
    tensor([0., 0., 1.], from=cross)
    >>> y.backward([1.0, 2.0, 3.0]); x.grad
    tensor([ 3.,  0., -1.])
    """
    a, b = operands("cross", "numeric", x1, x2)
    params = {"axis": _negative("cross", axis, a, b)}
    _cross_aval(Aval(a.shape, a.dtype), Aval(b.shape, b.dtype), **params)
    return bind(CROSS, (a, b), params)
