"""Inverses of square matrices and solutions of linear equations.

A matrix without inverse is refused where the value is asked for; where only a derivative fails to
exist there, that derivative is NaN and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, broadcast, float32, float64, promote
from chainrule.core.errors import DtypeError, LinAlgError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions, public
from chainrule.ops.elimination import inverse_loops, solve_loops
from chainrule.ops.gate import alias, batch_elementwise, describe, gate, operands
from chainrule.ops.movement import broadcast_to, reshape
from chainrule.ops.product import joined, matmul
from chainrule.ops.structure import batch_stack, matrices
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["inv", "matrix_power", "solve"]

if TYPE_CHECKING:
    import numpy.typing as npt

_DTYPES = (float32, float64, np.dtype("complex64"), np.dtype("complex128"))


def factored_aval(name: str, x: Aval) -> Aval:
    """``x``, if it is a stack of matrices of a dtype that LAPACK has routines for."""
    matrices(name, x)
    if x.dtype not in _DTYPES:
        raise DtypeError(f"{name}({x}): takes single or double precision", mend="convert it with astype(cr.float32)")
    return x


def square_aval(name: str, x: Aval) -> Aval:
    """``x``, if moreover the matrices are square."""
    factored_aval(name, x)
    if x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{name}({x}): the last two axes differ", mend="pass square matrices; pinv and svd take any")
    return x


def cubic(times: float) -> Rule:
    """The cost of a factorization of m by n matrices: so many times m n min(m, n)."""
    return lambda x, *others, **how: int(times * x.size * min(x.shape[-2:], default=0))


@contextmanager
def lapack(name: str, *xs: Any, says: str, mend: str) -> Generator[None, None, None]:
    """Turn NumPy's error inside the block into ours."""
    try:
        yield
    except np.linalg.LinAlgError:
        raise LinAlgError(f"{name}({', '.join(map(describe, xs))}): {says}", mend=mend) from None


def square_refusals(*more: Any) -> list[Refusal]:
    """What every gate of square matrices refuses; ``more`` are its further arguments."""
    return [
        Refusal((np.ones((2, 3)), *more), ShapeError, "last two axes differ"),
        Refusal((np.ones(3), *more), ShapeError, "needs a matrix"),
        Refusal((np.ones((2, 2), np.float16), *more), DtypeError, "single or double"),
    ]


def regular(rng: np.random.Generator, *shape: int) -> Any:
    """Well-conditioned square matrices."""
    return rng.normal(size=shape) + 3 * np.eye(shape[-1])


def _inverse(x: Any, check: bool) -> Any:
    try:
        with lapack("inv", x, says="a matrix is singular", mend="use pinv, or add a small multiple of the identity"):
            return np.linalg.inv(x)
    except LinAlgError:
        if check:
            raise
    stack = np.full((prod(x.shape[:-2]), *x.shape[-2:]), np.nan, x.dtype)
    for place, matrix in enumerate(x.reshape(stack.shape)):
        try:
            stack[place] = np.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            continue
    return stack.reshape(x.shape)


INV: Primitive = Primitive(
    name="inv",
    inputs=("x",),
    aval=lambda x, check: square_aval("inv", x),
    cost=cubic(1),
    eval=_inverse,
    vjp=lambda ct, out: -(out.mT @ ct @ out.mT),
    jvp=lambda t, out: -(out @ t @ out),
    batch=batch_stack,
    loops=inverse_loops,
    samples=lambda rng: [Sample((regular(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2), (0, 0))],
    refuses=lambda: [*square_refusals(), Refusal((np.ones((2, 2)),), LinAlgError, "singular")],
)


@gate(INV)
def inv(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """The inverse of each matrix.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    LinAlgError
        If a matrix is singular.
    ShapeError
        If the matrices are not square.

    Notes
    -----
    For C = A^-1 and the cotangent G of C, that of A is -C^T G C^T (Giles 2008, 2.2.3). To multiply by an inverse,
    `solve` is quicker and more accurate.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[2.0, 0.0], [0.0, 4.0]], requires_grad=True)
    >>> y = cr.linalg.inv(x); y
    tensor([[0.5 , 0.  ],
            [0.  , 0.25]], from=inv)
    >>> cr.linalg.trace(y).backward(); x.grad
    tensor([[-0.25  , -0.    ],
            [-0.    , -0.0625]])
    """
    return bind(INV, operands("inv", "floating", x), {"check": True})


def inverse(x: Any) -> Any:
    """For rules: the inverse, NaN where there is none."""
    return bind(INV, (x,), {"check": False})


def _solve_aval(x1: Aval, x2: Aval) -> Aval:
    square_aval("solve", x1)
    if x2.ndim < 2 or x1.shape[-1] != x2.shape[-2]:
        raise ShapeError(
            f"solve({x1}, {x2}): the right-hand sides need {x1.shape[-1]} rows",
            mend="pass one vector of that length, or matrices of that many rows",
        )
    try:
        stack = broadcast(x1.shape[:-2], x2.shape[:-2])
    except ShapeError as error:
        raise ShapeError(f"solve({x1}, {x2}): {error.what}", mend=error.mend) from None
    return Aval((*stack, *x2.shape[-2:]), promote(x1.dtype, x2.dtype))


def _solution(x1: Any, x2: Any) -> Any:
    with lapack("solve", x1, x2, says="a matrix is singular", mend="use pinv(x1) @ x2 for the shortest solution"):
        if x1.ndim > 2 or x2.ndim == 2:
            return np.linalg.solve(x1, x2)
        columns = np.moveaxis(x2, -2, 0)
        rows = columns.shape[0]
        return np.moveaxis(np.linalg.solve(x1, columns.reshape(rows, prod(columns.shape[1:]))).reshape(columns.shape), 0, -2)


def _solve_vjp(ct: Any, to: Sequence[Any], x1: Any, out: Any) -> tuple[Any, Any]:
    right = bind(SOLVE, (x1.mT, ct))
    if to[0] is None:
        return None, right
    left = joined(right) @ joined(out).mT if len(to[0].shape) == 2 < out.ndim else right @ out.mT
    return -left, right if to[1] is not None else None


def _solve_jvp(t: Sequence[Any], x1: Any, out: Any) -> Any:
    moved = None if t[0] is None else -(t[0] @ out)
    return bind(SOLVE, (x1, t[1] if moved is None else moved if t[1] is None else t[1] + moved))


_SOLVE_SHAPES = (
    ((3, 3), (3, 2)),
    ((3, 3), (3,)),
    ((2, 2, 2), (2, 2, 1)),
    ((2, 2), (2, 2, 2)),
    ((2, 1, 2, 2), (3, 2, 1)),
    ((2, 2, 2), (2,)),
    ((2, 2), (2, 0)),
)

SOLVE: Primitive = Primitive(
    name="solve",
    inputs=("x1", "x2"),
    aval=_solve_aval,
    cost=lambda x1, x2: x1.size * x1.shape[-1] // 3 + _solve_aval(x1, x2).size * x1.shape[-1],
    eval=_solution,
    vjp=_solve_vjp,
    jvp=_solve_jvp,
    batch=batch_elementwise,
    loops=solve_loops,
    samples=lambda rng: [Sample((regular(rng, *a), rng.normal(size=b))) for a, b in _SOLVE_SHAPES],
    refuses=lambda: [
        *square_refusals(np.ones(2))[:2],
        Refusal((np.eye(2, dtype=np.float16), np.ones(2, np.float16)), DtypeError, "single or double"),
        Refusal((np.ones((2, 2)), np.ones(2)), LinAlgError, "singular"),
        Refusal((np.eye(2), np.ones(3)), ShapeError, "need 2 rows"),
        Refusal((np.eye(2), 1.0), ShapeError, "need 2 rows"),
        Refusal((np.ones((2, 2, 2)), np.ones((3, 2, 1))), ShapeError, "broadcast"),
    ],
)


@gate(SOLVE)
def solve(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
    """The solutions x of x1 @ x = x2.

    Parameters
    ----------
    x1 : Tensor or array_like
        Floating-point matrices, shape (..., M, M).
    x2 : Tensor or array_like
        One vector, shape (M,), or matrices whose columns are right-hand sides, shape (..., M, K); the stack axes of
        both broadcast.

    Returns
    -------
    Tensor
        Shape (..., M, K), or (..., M) if ``x2`` is a vector.

    Raises
    ------
    LinAlgError
        If a matrix is singular.
    ShapeError
        If the matrices are not square or shapes do not fit.

    Notes
    -----
    For A X = B and the cotangent G of X: that of B is S = A^-T G, that of A is -S X^T (Giles 2008, 2.3.1).

    Examples
    --------
    >>> import chainrule as cr
    >>> b = cr.tensor([2.0, 8.0], requires_grad=True)
    >>> x = cr.linalg.solve([[2.0, 0.0], [0.0, 4.0]], b)
    >>> cr.sum(x).backward(); b.grad
    tensor([0.5 , 0.25])
    """
    a, b = operands("solve", "floating", x1, x2)
    if b.ndim != 1:
        return bind(SOLVE, (a, b))
    out = bind(SOLVE, (a, reshape(b, (b.shape[0], 1))))
    return reshape(out, out.shape[:-1])


@public
def matrix_power(x: Tensor | npt.ArrayLike, n: int, /) -> Tensor:
    """Each matrix multiplied by itself ``n`` times, by repeated squaring.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32.
    n : int
        The exponent; the identity for 0, powers of the inverse below.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    DtypeError
        If ``n`` is not an integer.
    LinAlgError
        If ``n`` is negative and a matrix is singular.
    ShapeError
        If the matrices are not square.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linalg.matrix_power([[1.0, 1.0], [0.0, 1.0]], 5)
    tensor([[1., 5.],
            [0., 1.]])
    """
    (base,) = operands("matrix_power", "floating", x)
    square_aval("matrix_power", Aval(base.shape, base.dtype))
    try:
        left = index(n)
    except TypeError:
        raise DtypeError(f"matrix_power: the exponent is an integer, not {n!r}", mend="use eigh for other powers of symmetric matrices") from None
    if left == 0:
        return broadcast_to(functions.eye(base.shape[-1], dtype=base.dtype), base.shape)
    if left < 0:
        base, left = inv(base), -left
    result: Any = None
    while True:
        if left & 1:
            result = base if result is None else matmul(result, base)
        left >>= 1
        if not left:
            return alias(result)
        base = matmul(base, base)
