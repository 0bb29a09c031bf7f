"""Determinants, their logarithms, and the adjugate that their derivatives are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.primitive import Primitive, Sample, functions
from chainrule.ops.elimination import adjugate_loops, determinant_loops, log_determinant_loops
from chainrule.ops.gate import gate, operands
from chainrule.ops.inverse import cubic, inverse, regular, square_aval, square_refusals
from chainrule.ops.movement import reshape
from chainrule.ops.structure import batch_stack, diag_embed, diagonal
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["SlogdetResult", "adjugate", "det", "slogdet"]

if TYPE_CHECKING:
    import numpy.typing as npt


def spread_over(ct: Any) -> Any:
    """One number per matrix, in a shape that broadcasts with the matrices."""
    return reshape(ct, (*ct.shape, 1, 1))


DET: Primitive = Primitive(
    name="det",
    inputs=("x",),
    aval=lambda x: Aval(square_aval("det", x).shape[:-2], x.dtype),
    cost=cubic(1 / 3),
    eval=np.linalg.det,
    vjp=lambda ct, x: spread_over(ct) * adjugate(x).mT,
    jvp=lambda t, x: functions.sum(adjugate(x).mT * t, axis=(-2, -1)),
    batch=batch_stack,
    onnx="Det",
    loops=determinant_loops,
    samples=lambda rng: [
        *(Sample((regular(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2))),
        Sample((_singular(rng),)),
        Sample((np.zeros((2, 2)),)),
    ],
    refuses=square_refusals,
)


def _singular(rng: np.random.Generator) -> Any:
    return rng.normal(size=(3, 2)) @ rng.normal(size=(2, 3))


@gate(DET)
def det(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """The determinant of each matrix.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Notes
    -----
    The cotangent G of the determinant gives A the cotangent G adj(A)^T (Jacobi's formula), which is right for
    singular matrices too; see `adjugate`.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
    >>> d = cr.linalg.det(x); d
    tensor(0., from=det)
    >>> d.backward(); x.grad
    tensor([[ 4., -2.],
            [-2.,  1.]])
    """
    return bind(DET, operands("det", "floating", x))


def _adjugate(x: Any) -> Any:
    """det(x) inv(x), whose errors cancel however near to singular ``x`` is; at zero or beyond the exponents' range, from singular values."""
    try:
        inverted, size = np.linalg.inv(x), np.linalg.det(x)
        if np.all(np.isfinite(size) & (size != 0) | np.isnan(size)):
            return size[..., None, None] * inverted
    except np.linalg.LinAlgError:
        pass
    u, s, vh = np.linalg.svd(x)
    others = np.prod(np.where(np.eye(s.shape[-1], dtype=bool), s.dtype.type(1), s[..., None, :]), axis=-1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    return (sign[..., None, None] * vh.conj().mT * others[..., None, :]) @ u.conj().mT


def _left_out(n: int) -> tuple[Any, Any]:
    """Which of n factors a product without the i-th and the j-th leaves out, and where i differs from j."""
    same = np.eye(n, dtype=bool)
    out = same[:, None, :] | same[None, :, :]
    different = ~same
    out.flags.writeable = different.flags.writeable = False
    return out, different


def _adjugate_moved(x: Any, t: Any) -> Any:
    """The derivative of adj at x along t."""
    u, s, vh = functions.svd(x, full_matrices=False)
    n = s.shape[-1]
    out, different = _left_out(n)
    products = functions.prod(functions.where(out, 1.0, reshape(s, (*s.shape[:-1], 1, 1, n))), axis=-1)
    products = functions.where(different, products, 0.0)
    m = u.mT @ t @ vh.mT
    inner = diag_embed(functions.vecdot(products, reshape(diagonal(m), (*m.shape[:-2], 1, n)))) - products * m
    return spread_over(det(u) * det(vh)) * (vh.mT @ inner @ u.mT)


ADJUGATE: Primitive = Primitive(
    name="adjugate",
    inputs=("x",),
    aval=lambda x: square_aval("adjugate", x),
    cost=cubic(12),
    eval=_adjugate,
    vjp=lambda ct, x: _adjugate_moved(x, ct.mT).mT,
    jvp=lambda t, x: _adjugate_moved(x, t),
    batch=batch_stack,
    loops=adjugate_loops,
    samples=lambda rng: [*(Sample((regular(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2)))],
    refuses=square_refusals,
)


@gate(ADJUGATE)
def adjugate(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """The adjugate of each matrix: det(x) inv(x), and its limit where ``x`` is singular.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32.

    Returns
    -------
    Tensor
        Of the shape of ``x``; its transpose holds the cofactors.

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Notes
    -----
    With A = U S V^T, adj(A) = det(U) det(V) V adj(S) U^T, and adj(S) is diagonal: products of all singular values
    but one (Stewart 1998, "On the adjugate matrix"). The derivative is, in that basis, made of products of all
    but two, and so is exact for singular matrices as well; derivatives of higher order than this first one need distinct
    singular values.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linalg.adjugate([[1.0, 2.0], [3.0, 4.0]])
    tensor([[ 4., -2.],
            [-3.,  1.]])
    """
    return bind(ADJUGATE, operands("adjugate", "floating", x))


class SlogdetResult(NamedTuple):
    """Sign and natural logarithm of the absolute value of determinants.

    Attributes
    ----------
    sign : Tensor
        1, -1 or 0; of modulus 1 or 0 for complex matrices.
    logabsdet : Tensor
        Real.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.linalg.slogdet([[0.0, 1.0], [1.0, 0.0]]).sign
    tensor(-1.)
    """

    sign: Tensor
    logabsdet: Tensor


def _slogdet_aval(x: Aval) -> tuple[Aval, Aval]:
    shape = square_aval("slogdet", x).shape[:-2]
    return Aval(shape, x.dtype), Aval(shape, np.finfo(x.dtype).dtype)


SLOGDET: Primitive = Primitive(
    name="slogdet",
    inputs=("x",),
    aval=_slogdet_aval,
    cost=cubic(1 / 3),
    eval=lambda x: tuple(np.linalg.slogdet(x)),
    vjp=lambda ct, x: None if ct[1] is None else spread_over(ct[1]) * inverse(x).mT,
    jvp=lambda t, x: (None, functions.sum(inverse(x).mT * t, axis=(-2, -1))),
    batch=batch_stack,
    outputs=True,
    loops=log_determinant_loops,
    samples=lambda rng: [Sample((regular(rng, *shape),)) for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2))],
    refuses=square_refusals,
)


@gate(SLOGDET)
def slogdet(x: Tensor | npt.ArrayLike, /) -> SlogdetResult:
    """Sign and logarithm of the determinant of each matrix, where the determinant itself would overflow.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point matrices, shape (..., M, M); integers are converted to float32.

    Returns
    -------
    SlogdetResult
        ``sign`` and ``logabsdet``, shapes (...); 0 and -inf for a singular matrix.

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Notes
    -----
    The cotangent G of the logarithm gives A the cotangent G A^-T (Giles 2008, 2.2.4); NaN for a singular matrix. The
    sign has no derivative.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[2.0, 0.0], [0.0, 4.0]], requires_grad=True)
    >>> cr.linalg.slogdet(x).logabsdet.backward(); x.grad
    tensor([[0.5 , 0.  ],
            [0.  , 0.25]])
    """
    return SlogdetResult(*bind(SLOGDET, operands("slogdet", "floating", x)))
