"""Singular values and what is made of them: pseudoinverse, rank, norms of matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chainrule.core.aval import Aval, broadcast
from chainrule.core.errors import ArgumentError, GradientError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.decomposition import FIND_NAN, NO_CONVERGENCE, as_column, as_row, reciprocal_off_diagonal
from chainrule.ops.determinant import spread_over
from chainrule.ops.gate import describe, gate, operands
from chainrule.ops.inverse import cubic, factored_aval, lapack, square_refusals
from chainrule.ops.movement import reshape
from chainrule.ops.product import vecdot
from chainrule.ops.structure import batch_stack, diag_embed, diagonal, matrices
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["SVDResult", "matrix_norm", "matrix_rank", "pinv", "svd", "svdvals"]

if TYPE_CHECKING:
    import numpy.typing as npt


class SVDResult(NamedTuple):
    """Left singular vectors as columns, singular values in descending order, right singular vectors as rows.

    Attributes
    ----------
    U : Tensor
        Orthonormal columns.
    S : Tensor
        Singular values, in descending order.
    Vh : Tensor
        Orthonormal rows.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linalg.svd([[0.0, 2.0], [1.0, 0.0]]).S
    tensor([2., 1.])
    """

    U: Tensor
    S: Tensor
    Vh: Tensor


def _svd_aval(x: Aval, full_matrices: bool) -> tuple[Aval, Aval, Aval]:
    *stack, m, n = factored_aval("svd", x).shape
    k = min(m, n)
    left, right = (m, n) if full_matrices else (k, k)
    return Aval((*stack, m, left), x.dtype), Aval((*stack, k), np.finfo(x.dtype).dtype), Aval((*stack, right, n), x.dtype)


def _refuse_completion(u: Any, vh: Any) -> None:
    if u.shape[-1] != vh.shape[-2]:
        raise GradientError(
            "svd: the vectors that complete U or Vh to a square matrix have no derivative",
            mend="use full_matrices=False; singular values are differentiable",
        )


def _gaps(s: Any) -> Any:
    """1 / (s_j**2 - s_i**2) off the diagonal."""
    row, column = as_row(s), as_column(s)
    return reciprocal_off_diagonal((row - column) * (row + column))


def _factors(name: str, x: Any, **options: Any) -> Any:
    with lapack(name, x, says=NO_CONVERGENCE, mend=FIND_NAN):
        return np.linalg.svd(x, **options)


def _svd_vjp(ct: Sequence[Any], out: Sequence[Any]) -> Any:
    (u_ct, s_ct, vh_ct), (u, s, vh) = ct, out
    k = s.shape[-1]
    if u_ct is None and vh_ct is None:
        return (u[..., :k] * as_row(s_ct)) @ vh[..., :k, :]
    _refuse_completion(u, vh)
    gaps = _gaps(s)
    inner = None if s_ct is None else diag_embed(s_ct)
    beyond = None
    if u_ct is not None:
        inside = u.mT @ u_ct
        part = gaps * (inside - inside.mT) * as_row(s)
        inner = part if inner is None else inner + part
        if u.shape[-2] > k:
            beyond = ((u_ct - u @ inside) / as_row(s)) @ vh
    if vh_ct is not None:
        inside = vh_ct @ vh.mT
        part = as_column(s) * (gaps * (inside.mT - inside))
        inner = part if inner is None else inner + part
        if vh.shape[-1] > k:
            beyond_vh = (u / as_row(s)) @ (vh_ct - inside @ vh)
            beyond = beyond_vh if beyond is None else beyond + beyond_vh
    share = u @ inner @ vh
    return share if beyond is None else share + beyond


def _svd_jvp(t: Any, out: Sequence[Any]) -> tuple[Any, Any, Any]:
    u, s, vh = out
    _refuse_completion(u, vh)
    k, gaps, row, column = s.shape[-1], _gaps(s), as_row(s), as_column(s)
    inside = u.mT @ t @ vh.mT
    u_t = u @ (gaps * (inside * row + column * inside.mT))
    vh_t = (gaps * (column * inside + inside.mT * row)).mT @ vh
    if u.shape[-2] > k:
        u_t = u_t + (t @ vh.mT - u @ inside) / row
    if vh.shape[-1] > k:
        vh_t = vh_t + (u.mT @ t - inside @ vh) / column
    return u_t, diagonal(inside), vh_t


def _apart(rng: np.random.Generator, *shape: int) -> Any:
    """Matrices whose singular values lie well apart."""
    return rng.uniform(-0.5, 0.5, shape) + 3 * np.eye(shape[-2], shape[-1]) * np.arange(1, shape[-1] + 1)


SVD: Primitive = Primitive(
    name="svd",
    inputs=("x",),
    aval=_svd_aval,
    cost=cubic(11),
    eval=lambda x, full_matrices: tuple(_factors("svd", x, full_matrices=full_matrices)),
    vjp=_svd_vjp,
    jvp=_svd_jvp,
    batch=batch_stack,
    outputs=True,
    samples=lambda rng: [
        *(Sample((_apart(rng, *shape),), {"full_matrices": False}) for shape in ((3, 3), (4, 2), (2, 3), (2, 3, 2), (1, 1), (0, 2, 2))),
        Sample((_apart(rng, 2, 2),)),
    ],
    refuses=lambda: square_refusals()[1:],
)


@gate(SVD)
def svd(x: Tensor | npt.ArrayLike, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition: x = U @ diag(S) @ Vh with orthonormal U and Vh.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, N); integers are converted to float32.
    full_matrices : bool
        Complete U and Vh to square matrices. Only the singular values are differentiable then, unless M = N.

    Returns
    -------
    SVDResult
        ``U`` of shape (..., M, K), ``S`` of shape (..., min(M, N)) in descending order, ``Vh`` of shape (..., K, N), with
        K = min(M, N) or, for full matrices, M in U and N in Vh. Signs are LAPACK's.

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.
    GradientError
        On the way back, if U or Vh was completed by vectors that ``x`` does not determine.

    Notes
    -----
    With F_ij = 1 / (s_j^2 - s_i^2) and cotangents G, g, H of U, S, V, that of A is
    U [(F * (U^T G - G^T U)) S + S (F * (V^T H - H^T V)) + diag(g)] V^T + (I - U U^T) G S^-1 V^T + U S^-1 H^T (I - V V^T)
    (Townsend 2016, "Differentiating the singular value decomposition"). Vectors of equal singular values, and of zero ones
    of a rectangular matrix, are not determined and have no derivative: a gradient through them is infinite or NaN, one
    through the singular values alone is not.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[2.0, 0.0], [0.0, 5.0]], requires_grad=True)
    >>> u, s, vh = cr.linalg.svd(x); s
    tensor([5., 2.], from=svd)
    >>> s[0].backward(); x.grad
    tensor([[0., 0.],
            [0., 1.]])
    """
    return SVDResult(*bind(SVD, operands("svd", "floating", x), {"full_matrices": bool(full_matrices)}))


def _svdvals_aval(x: Aval) -> Aval:
    *stack, m, n = factored_aval("svdvals", x).shape
    return Aval((*stack, min(m, n)), np.finfo(x.dtype).dtype)


def _svdvals_vjp(ct: Any, x: Any) -> Any:
    u, _, vh = svd(x, full_matrices=False)
    return (u * as_row(ct)) @ vh


def _svdvals_jvp(t: Any, x: Any) -> Any:
    u, _, vh = svd(x, full_matrices=False)
    return vecdot(u, t @ vh.mT, axis=-2)


SVDVALS: Primitive = Primitive(
    name="svdvals",
    inputs=("x",),
    aval=_svdvals_aval,
    cost=cubic(2),
    eval=lambda x: _factors("svdvals", x, compute_uv=False),
    vjp=_svdvals_vjp,
    jvp=_svdvals_jvp,
    batch=batch_stack,
    samples=lambda rng: [Sample((_apart(rng, *shape),)) for shape in ((3, 3), (4, 2), (2, 3), (2, 2, 2), (0, 2, 2))],
    refuses=lambda: square_refusals()[1:],
)


@gate(SVDVALS)
def svdvals(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Singular values, in descending order; quicker than `svd` where no gradient is needed.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, N); integers are converted to float32.

    Returns
    -------
    Tensor
        Shape (..., min(M, N)).

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Notes
    -----
    The cotangent g of S gives A the cotangent U diag(g) V^T; the backward pass calls `svd`.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[2.0, 0.0], [0.0, 5.0]], requires_grad=True)
    >>> s = cr.linalg.svdvals(x); s
    tensor([5., 2.], from=svdvals)
    >>> s[1].backward(); x.grad
    tensor([[1., 0.],
            [0., 0.]])
    """
    return bind(SVDVALS, operands("svdvals", "floating", x))


def _pinv_aval(x: Aval, rtol: Aval) -> Aval:
    *stack, m, n = factored_aval("pinv", x).shape
    try:
        return Aval((*broadcast(tuple(stack), rtol.shape), n, m), x.dtype)
    except ShapeError as error:
        raise ShapeError(f"pinv({x}) with rtol {rtol}: {error.what}", mend="pass one rtol, or one per matrix") from None


def _pinv(x: Any, rtol: Any) -> Any:
    u, s, vh = _factors("pinv", x, full_matrices=False)
    kept = s > rtol[..., None] * s[..., :1]
    inverted = np.divide(1, s, out=np.zeros(kept.shape, s.dtype), where=kept)
    if x.dtype.kind == "c":
        u, vh = u.conj(), vh.conj()
    return (vh.mT * inverted[..., None, :]) @ u.mT


def _pinv_vjp(ct: Any, x: Any, out: Any) -> Any:
    back = out.mT
    left = ct.mT @ out @ back
    right = back @ out @ ct.mT
    return left - x @ (out @ left) + right - right @ out @ x - back @ ct @ back


def _pinv_jvp(t: Any, x: Any, out: Any) -> Any:
    left = out @ out.mT @ t.mT
    right = t.mT @ out.mT @ out
    return left - left @ x @ out + right - out @ (x @ right) - out @ t @ out


def _pinv_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (x, rtol), (x_has, rtol_has) = inputs, batched
    rank = max(x.ndim - x_has - 2, rtol.ndim - rtol_has)
    if x_has:
        x = reshape(x, (x.shape[0], *(1,) * (rank - x.ndim + 3), *x.shape[1:]))
    if rtol_has:
        rtol = reshape(rtol, (rtol.shape[0], *(1,) * (rank - rtol.ndim + 1), *rtol.shape[1:]))
    return bind(primitive, (x, rtol), params)


PINV: Primitive = Primitive(
    name="pinv",
    inputs=("x", "rtol"),
    aval=_pinv_aval,
    cost=cubic(12),
    eval=_pinv,
    vjp=(_pinv_vjp, None),
    jvp=(_pinv_jvp, None),
    batch=_pinv_batch,
    samples=lambda rng: [
        *(Sample((_apart(rng, *shape),)) for shape in ((3, 3), (4, 2), (2, 3), (2, 2, 2), (0, 2, 2))),
        Sample((_apart(rng, 2, 2),), {"rtol": np.array([1e-6, 1e-3])}),
    ],
    refuses=lambda: [*square_refusals()[1:], Refusal((np.ones((2, 2, 2)),), ShapeError, "rtol", {"rtol": np.ones(3)})],
)


@gate(PINV)
def pinv(x: Tensor | npt.ArrayLike, /, *, rtol: float | Tensor | npt.ArrayLike | None = None) -> Tensor:
    """The Moore-Penrose pseudoinverse: the inverse on what a matrix maps to, zero on what it does not reach.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, N); integers are converted to float32.
    rtol : float or array_like, optional
        Singular values up to ``rtol`` times the largest count as 0; max(M, N) times the dtype's epsilon if not given.
        An array has one per matrix.

    Returns
    -------
    Tensor
        Shape (..., N, M).

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes, or ``rtol`` does not fit the stack.

    Notes
    -----
    dP = -P dA P + P P^T dA^T (I - A P) + (I - P A) dA^T P^T P (Golub and Pereyra 1973, eq. 4.12), for changes that keep
    the rank; where the rank changes, the pseudoinverse jumps.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[2.0], [0.0]], requires_grad=True)
    >>> p = cr.linalg.pinv(x); p
    tensor([[0.5, 0. ]], from=pinv)
    >>> p[0, 0].backward(); x.grad
    tensor([[-0.25],
            [ 0.  ]])
    """
    (matrix,) = operands("pinv", "floating", x)
    return bind(PINV, (matrix, _tolerance("pinv", matrix, rtol)))


def _tolerance(name: str, x: Any, rtol: Any) -> Any:
    factored_aval(name, Aval(x.shape, x.dtype))
    real = np.finfo(x.dtype)
    given = max(x.shape[-2:]) * float(real.eps) if rtol is None else rtol
    return functions.astype(functions.asarray(given), real.dtype, copy=False)


@public
def matrix_rank(x: Tensor | npt.ArrayLike, /, *, rtol: float | Tensor | npt.ArrayLike | None = None) -> Tensor:
    """How many singular values of each matrix are not zero.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, N); integers are converted to float32.
    rtol : float or array_like, optional
        Singular values up to ``rtol`` times the largest count as 0, as in `pinv`.

    Returns
    -------
    Tensor
        int64, shape (...); without a gradient.

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linalg.matrix_rank([[1.0, 2.0], [2.0, 4.0]])
    tensor(1)
    """
    (matrix,) = operands("matrix_rank", "floating", x)
    tolerance = _tolerance("matrix_rank", matrix, rtol)
    s = svdvals(matrix)
    return functions.sum(s > reshape(tolerance, (*tolerance.shape, 1)) * s[..., :1], axis=-1)


_NORMS: Mapping[Any, Callable[[Any], Any]] = {
    "fro": lambda x: functions.vector_norm(x, axis=(-2, -1)),
    "nuc": lambda x: functions.sum(svdvals(x), axis=-1),
    2: lambda x: functions.max(svdvals(x), axis=-1),
    -2: lambda x: functions.min(svdvals(x), axis=-1),
    1: lambda x: functions.max(functions.sum(functions.abs(x), axis=-2), axis=-1),
    -1: lambda x: functions.min(functions.sum(functions.abs(x), axis=-2), axis=-1),
    inf: lambda x: functions.max(functions.sum(functions.abs(x), axis=-1), axis=-1),
    -inf: lambda x: functions.min(functions.sum(functions.abs(x), axis=-1), axis=-1),
}


@public
def matrix_norm(x: Tensor | npt.ArrayLike, /, *, keepdims: bool = False, ord: float | str | None = "fro") -> Tensor:
    """A norm of each matrix.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, N); integers are converted to float32.
    keepdims : bool
        Keep the last two axes with size 1.
    ord : "fro", "nuc", 1, -1, 2, -2, inf or -inf
        "fro" (also None): root of the sum of squares; "nuc": sum of the singular values; 2 and -2: the largest and the
        smallest of them; 1 and -1: the largest and the smallest sum of absolute values in a column; inf and -inf: in a row.

    Returns
    -------
    Tensor
        Shape (...), or (..., 1, 1); real.

    Raises
    ------
    ArgumentError
        For another ``ord``.
    ShapeError
        If ``x`` has fewer than two axes.

    Notes
    -----
    Where several columns, rows or singular values attain a maximum or minimum, they share the gradient equally.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[3.0, 0.0], [0.0, 4.0]], requires_grad=True)
    >>> norm = cr.linalg.matrix_norm(x)
    >>> norm.backward(); norm.item(), x.grad
    (5.0, tensor([[0.6, 0. ],
            [0. , 0.8]]))
    """
    (matrix,) = operands("matrix_norm", "floating", x)
    matrices("matrix_norm", matrix)
    norm = _NORMS.get("fro" if ord is None else ord)
    if norm is None:
        raise ArgumentError(f"matrix_norm({describe(matrix)}): there is no norm {ord!r}", mend='choose "fro", "nuc", 1, -1, 2, -2, inf or -inf')
    out = norm(matrix)
    return spread_over(out) if keepdims else out
