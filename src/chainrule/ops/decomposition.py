"""Decompositions of matrices into factors: Cholesky, QR, eigenvalues of symmetric matrices.

The derivatives are triangular or antisymmetric parts of products of the factors, so the backward
pass reads the factors alone. Signs, which are LAPACK's choice, are differentiated as if they were kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, GradientError, LinAlgError
from chainrule.core.primitive import Primitive, Refusal, Sample, functions
from chainrule.ops.elimination import cholesky_loops
from chainrule.ops.gate import gate, operands
from chainrule.ops.inverse import cubic, factored_aval, inverse, lapack, square_aval, square_refusals
from chainrule.ops.movement import matrix_transpose, reshape
from chainrule.ops.product import vecdot
from chainrule.ops.structure import batch_stack, diag_embed, diagonal
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["EighResult", "QRResult", "cholesky", "eigh", "eigvalsh", "qr"]

if TYPE_CHECKING:
    import numpy.typing as npt


NO_CONVERGENCE = "the iteration does not converge"
FIND_NAN = "look for NaN or infinity in the matrix with cr.isfinite"


def _hermitian(x: Any) -> Any:
    return (x + (x.conj() if x.dtype.kind == "c" else x).mT) * 0.5


def _symmetric(x: Any) -> Any:
    return (x + x.mT) * 0.5


def _lower(x: Any, on_diagonal: float) -> Any:
    """The part of matrices below the diagonal, and the diagonal times a number."""
    n = x.shape[-1]
    weights = np.tri(n, k=-1, dtype=x.dtype) + np.diag(np.full(n, on_diagonal, x.dtype))
    weights.flags.writeable = False
    return x * weights


def _cholesky(x: Any) -> Any:
    with lapack("cholesky", x, says="a matrix is not positive definite", mend="add a small multiple of the identity, or use eigh"):
        return np.linalg.cholesky(_hermitian(x))


def _cholesky_vjp(ct: Any, out: Any) -> Any:
    inverted = inverse(out)
    return _symmetric(inverted.mT @ _lower(out.mT @ ct, 0.5) @ inverted)


def _cholesky_jvp(t: Any, out: Any) -> Any:
    inverted = inverse(out)
    return out @ _lower(inverted @ _symmetric(t) @ inverted.mT, 0.5)


def _definite(rng: np.random.Generator, *shape: int) -> Any:
    root = rng.normal(size=shape)
    return root @ root.swapaxes(-1, -2) + shape[-1] * np.eye(shape[-1])


CHOLESKY: Primitive = Primitive(
    name="cholesky",
    inputs=("x",),
    aval=lambda x: square_aval("cholesky", x),
    cost=cubic(1 / 6),
    eval=_cholesky,
    vjp=_cholesky_vjp,
    jvp=_cholesky_jvp,
    batch=batch_stack,
    loops=cholesky_loops,
    samples=lambda rng: [
        *(Sample((_definite(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2))),
        Sample((_definite(rng, 3, 3) + np.triu(rng.uniform(-0.1, 0.1, (3, 3)), 1),)),
        Sample((_definite(rng, 2, 2),), {"upper": True}),
    ],
    refuses=lambda: [*square_refusals(), Refusal((-np.eye(2),), LinAlgError, "not positive definite")],
)


@gate(CHOLESKY)
def cholesky(x: Tensor | npt.ArrayLike, /, *, upper: bool = False) -> Tensor:
    """The triangular L with positive diagonal and L @ L.mT = x, for symmetric positive definite matrices.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32. The symmetric part
        (x + x.mT) / 2 is decomposed (the Hermitian part, if complex).
    upper : bool
        Give the upper triangular U = L.mT with U.mT @ U = x (conjugated, if complex).

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    LinAlgError
        If a matrix is not positive definite.
    ShapeError
        If the matrices are not square.

    Notes
    -----
    With P the lower triangle whose diagonal is halved, dL = L P(L^-1 dA L^-T), and the cotangent G of L gives A the
    symmetric part of L^-T P(L^T G) L^-1 (Murray 2016, "Differentiation of the Cholesky decomposition", eqs. 8
    and 10). As the symmetric part is decomposed, the gradient is symmetric.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[4.0, 2.0], [2.0, 5.0]], requires_grad=True)
    >>> y = cr.linalg.cholesky(x); y
    tensor([[2., 0.],
            [1., 2.]], from=cholesky)
    >>> y[0, 0].backward(); x.grad
    tensor([[0.25, 0.  ],
            [0.  , 0.  ]])
    """
    lower = bind(CHOLESKY, operands("cholesky", "floating", x))
    if not upper:
        return lower
    return matrix_transpose(functions.conj(lower) if lower.dtype.kind == "c" else lower)


class QRResult(NamedTuple):
    """Orthonormal columns and an upper triangular factor.

    Attributes
    ----------
    Q : Tensor
        Orthonormal columns.
    R : Tensor
        Upper triangular matrices.

    Examples
    --------
    >>> import chainrule as cr
    >>> q, r = cr.linalg.qr([[1.0, 2.0], [0.0, 3.0]]); q.shape
    (2, 2)
    """

    Q: Tensor
    R: Tensor


def _qr_aval(x: Aval, mode: str) -> tuple[Aval, Aval]:
    *stack, m, n = factored_aval("qr", x).shape
    k = m if mode == "complete" else min(m, n)
    return Aval((*stack, m, k), x.dtype), Aval((*stack, k, n), x.dtype)


def _refuse_completion(q: Any, r: Any) -> None:
    if q.shape[-1] > r.shape[-1]:
        raise GradientError(
            "qr: the columns that complete Q to a square matrix have no derivative", mend='use mode="reduced", or detach what is returned'
        )


def _qr_vjp(ct: Sequence[Any], out: Sequence[Any]) -> Any:
    (q_ct, r_ct), (q, r) = ct, out
    _refuse_completion(q, r)
    m, n = r.shape[-2:]
    if m == n:
        return _tall_qr_vjp(q_ct, r_ct, q, r)
    # R = [U, V]: the left square of x has the factors Q and U, and V = Q.mT @ (the rest of x).
    u, v = r[..., :m], r[..., m:]
    if r_ct is None:
        return functions.concat((_tall_qr_vjp(q_ct, None, q, u), functions.zeros_like(v)), axis=-1)
    v_ct = r_ct[..., m:]
    through_v = q @ v @ v_ct.mT
    left = _tall_qr_vjp(through_v if q_ct is None else q_ct + through_v, r_ct[..., :m], q, u)
    return functions.concat((left, q @ v_ct), axis=-1)


def _tall_qr_vjp(q_ct: Any, r_ct: Any, q: Any, r: Any) -> Any:
    m = -(q_ct.mT @ q) if r_ct is None else r @ r_ct.mT if q_ct is None else r @ r_ct.mT - q_ct.mT @ q
    inner = q @ (_lower(m, 1.0) + _lower(m, 0.0).mT)
    return (inner if q_ct is None else q_ct + inner) @ inverse(r).mT


def _qr_jvp(t: Any, out: Sequence[Any]) -> tuple[Any, Any]:
    q, r = out
    _refuse_completion(q, r)
    m, n = r.shape[-2:]
    if m == n:
        return _tall_qr_jvp(t, q, r)
    u, v = r[..., :m], r[..., m:]
    q_t, u_t = _tall_qr_jvp(t[..., :m], q, u)
    return q_t, functions.concat((u_t, q_t.mT @ q @ v + q.mT @ t[..., m:]), axis=-1)


def _tall_qr_jvp(t: Any, q: Any, r: Any) -> tuple[Any, Any]:
    scaled = t @ inverse(r)
    inside = q.mT @ scaled
    below = _lower(inside, 0.0)
    upper = inside - below + below.mT
    return scaled - q @ upper, upper @ r


QR: Primitive = Primitive(
    name="qr",
    inputs=("x",),
    aval=_qr_aval,
    cost=cubic(2),
    eval=lambda x, mode: tuple(np.linalg.qr(x, mode)),
    vjp=_qr_vjp,
    jvp=_qr_jvp,
    batch=batch_stack,
    outputs=True,
    samples=lambda rng: [
        *(Sample((rng.normal(size=shape),)) for shape in ((3, 3), (4, 2), (2, 4), (2, 3, 2), (1, 1), (0, 2, 2))),
        Sample((rng.normal(size=(3, 3)),), {"mode": "complete"}),
        Sample((rng.normal(size=(2, 3)),), {"mode": "complete"}),
    ],
    refuses=lambda: [square_refusals()[1], square_refusals()[2], Refusal((np.eye(2),), ArgumentError, "mode", {"mode": "raw"})],
)


@gate(QR)
def qr(x: Tensor | npt.ArrayLike, /, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """Orthonormal Q and upper triangular R with Q @ R = x.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, N); integers are converted to float32.
    mode : str
        "reduced": Q has K = min(M, N) columns; "complete": K = M.

    Returns
    -------
    QRResult
        ``Q`` of shape (..., M, K), ``R`` of shape (..., K, N). The signs are LAPACK's.

    Raises
    ------
    ArgumentError
        For another mode.
    ShapeError
        If ``x`` has fewer than two axes.
    GradientError
        On the way back, if Q was completed by columns that ``x`` does not determine.

    Notes
    -----
    For M >= N, cotangents G of Q and H of R, and K = R H^T - G^T Q whose lower triangle is copied to the upper one,
    that of A is (G + Q K) R^-T (Walter and Lehmann 2018, "Algorithmic differentiation of linear algebra functions", 3.2); for M < N
    the left square of A is decomposed and the rest multiplied by Q^T (Roberts and Roberts 2020, "QR and LQ decomposition
    matrix backpropagation algorithms"). NaN where the first min(M, N) columns depend on each other.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[3.0, 1.0], [4.0, 2.0]], requires_grad=True)
    >>> q, r = cr.linalg.qr(x)
    >>> cr.abs(cr.linalg.diagonal(r))[0].backward(); x.grad
    tensor([[0.6, 0. ],
            [0.8, 0. ]])
    """
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"qr: there is no mode {mode!r}", mend='choose "reduced" or "complete"')
    return QRResult(*bind(QR, operands("qr", "floating", x), {"mode": mode}))


class EighResult(NamedTuple):
    """Eigenvalues in ascending order and eigenvectors as columns.

    Attributes
    ----------
    eigenvalues : Tensor
        Real, in ascending order.
    eigenvectors : Tensor
        Orthonormal, as columns in the same order.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linalg.eigh([[2.0, 0.0], [0.0, 1.0]]).eigenvalues
    tensor([1., 2.])
    """

    eigenvalues: Tensor
    eigenvectors: Tensor


def as_row(s: Any) -> Any:
    """One number per column of a matrix."""
    return reshape(s, (*s.shape[:-1], 1, s.shape[-1]))


def as_column(s: Any) -> Any:
    """One number per row of a matrix."""
    return reshape(s, (*s.shape, 1))


def reciprocal_off_diagonal(gaps: Any) -> Any:
    """1 / gaps off the diagonal, 0 on it."""
    same = np.eye(gaps.shape[-1], dtype=gaps.dtype)
    other = 1 - same
    same.flags.writeable = other.flags.writeable = False
    return other / (gaps + same)


def _eigh_aval(x: Aval) -> tuple[Aval, Aval]:
    square_aval("eigh", x)
    return Aval(x.shape[:-1], np.finfo(x.dtype).dtype), x


def _finite(x: Any) -> Any:
    # LAPACK gives plausible numbers for NaN, where the rotations skip it.
    if not np.isfinite(x).all():
        raise np.linalg.LinAlgError
    return x


def _eigh(x: Any) -> Any:
    with lapack("eigh", x, says=NO_CONVERGENCE, mend=FIND_NAN):
        return tuple(np.linalg.eigh(_finite(_hermitian(x))))


def _eigh_vjp(ct: Sequence[Any], out: Sequence[Any]) -> Any:
    (w_ct, v_ct), (w, v) = ct, out
    if v_ct is None:
        return (v * as_row(w_ct)) @ v.mT
    inner = reciprocal_off_diagonal(as_row(w) - as_column(w)) * (v.mT @ v_ct)
    if w_ct is not None:
        inner = inner + diag_embed(w_ct)
    return _symmetric(v @ inner @ v.mT)


def _eigh_jvp(t: Any, out: Sequence[Any]) -> tuple[Any, Any]:
    w, v = out
    inside = v.mT @ _symmetric(t) @ v
    return diagonal(inside), v @ (reciprocal_off_diagonal(as_row(w) - as_column(w)) * inside)


def _graded(rng: np.random.Generator, *shape: int) -> Any:
    """Nearly symmetric matrices whose eigenvalues lie well apart."""
    return rng.uniform(-0.5, 0.5, shape) + 3 * np.diag(np.arange(shape[-1]))


EIGH: Primitive = Primitive(
    name="eigh",
    inputs=("x",),
    aval=_eigh_aval,
    cost=cubic(4.5),
    eval=_eigh,
    vjp=_eigh_vjp,
    jvp=_eigh_jvp,
    batch=batch_stack,
    outputs=True,
    samples=lambda rng: [Sample((_graded(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2))],
    refuses=square_refusals,
)


@gate(EIGH)
def eigh(x: Tensor | npt.ArrayLike, /) -> EighResult:
    """Eigenvalues and orthonormal eigenvectors of symmetric matrices.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32. The symmetric part
        (x + x.mT) / 2 is decomposed (the Hermitian part, if complex).

    Returns
    -------
    EighResult
        ``eigenvalues``, ascending, shape (..., M); ``eigenvectors``, as columns, shape (..., M, M), with LAPACK's signs.

    Raises
    ------
    LinAlgError
        If a matrix holds NaN or infinity.
    ShapeError
        If the matrices are not square.

    Notes
    -----
    With F_ij = 1 / (w_j - w_i), cotangents g of w and G of V give A the symmetric part of
    V (diag(g) + F * (V^T G)) V^T (Giles 2008, 3.1). Vectors of equal eigenvalues are not determined and have no derivative:
    a gradient through them is infinite or NaN, one through the eigenvalues alone is not. As the
    symmetric part is decomposed, the gradient is symmetric.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[2.0, 0.0], [0.0, 5.0]], requires_grad=True)
    >>> w, v = cr.linalg.eigh(x)
    >>> w[1].backward(); x.grad
    tensor([[0., 0.],
            [0., 1.]])
    """
    return EighResult(*bind(EIGH, operands("eigh", "floating", x)))


def _eigvalsh(x: Any) -> Any:
    with lapack("eigvalsh", x, says=NO_CONVERGENCE, mend=FIND_NAN):
        return np.linalg.eigvalsh(_finite(_hermitian(x)))


def _eigvalsh_vjp(ct: Any, x: Any) -> Any:
    v = eigh(x)[1]
    return (v * as_row(ct)) @ v.mT


def _eigvalsh_jvp(t: Any, x: Any) -> Any:
    v = eigh(x)[1]
    return vecdot(v, t @ v, axis=-2)


EIGVALSH: Primitive = Primitive(
    name="eigvalsh",
    inputs=("x",),
    aval=lambda x: Aval(square_aval("eigvalsh", x).shape[:-1], np.finfo(x.dtype).dtype),
    cost=cubic(2 / 3),
    eval=_eigvalsh,
    vjp=_eigvalsh_vjp,
    jvp=_eigvalsh_jvp,
    batch=batch_stack,
    samples=lambda rng: [Sample((_graded(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2))],
    refuses=square_refusals,
)


@gate(EIGVALSH)
def eigvalsh(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Eigenvalues of symmetric matrices, in ascending order; quicker than `eigh` where no gradient is needed.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32. The symmetric part is taken, as
        in `eigh`, which the backward pass calls.

    Returns
    -------
    Tensor
        Shape (..., M).

    Raises
    ------
    LinAlgError
        If a matrix holds NaN or infinity.
    ShapeError
        If the matrices are not square.

    Notes
    -----
    The cotangent g of w gives A the cotangent V diag(g) V^T (Giles 2008, 3.1).

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[5.0, 0.0], [0.0, 2.0]], requires_grad=True)
    >>> w = cr.linalg.eigvalsh(x); w
    tensor([2., 5.], from=eigvalsh)
    >>> w[1].backward(); x.grad
    tensor([[1., 0.],
            [0., 0.]])
    """
    return bind(EIGVALSH, operands("eigvalsh", "floating", x))
