"""Parts of matrices: diagonals, triangles, and their way back into a matrix.

All are linear and act on the last two axes of a stack of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import ShapeError
from chainrule.core.nest import Array, Nest, numbered
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions, public
from chainrule.ops.gate import gate, lift
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["diag_embed", "tril", "triu"]

if TYPE_CHECKING:
    import numpy.typing as npt


def matrices(name: str, x: Any) -> Any:
    """``x``, if it is a matrix or a stack of them."""
    if len(x.shape) < 2:
        raise ShapeError(
            f"{name}({Aval(x.shape, x.dtype)}): needs a matrix, or a stack of them", mend="give it two axes at least: reshape, expand_dims"
        )
    return x


def batch_stack(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """A gate of stacked matrices (or vectors) takes the batch axis as one more stack axis."""
    return bind(primitive, inputs, params)


def diagonal_length(rows: int, columns: int, offset: int) -> int:
    """How many elements lie on a diagonal of a matrix."""
    return max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))


def _diagonal_aval(x: Aval, offset: int) -> Aval:
    *stack, rows, columns = matrices("diagonal", x).shape
    return Aval((*stack, diagonal_length(rows, columns, offset)), x.dtype)


DIAGONAL: Primitive = Primitive(
    name="diagonal",
    inputs=("x",),
    aval=_diagonal_aval,
    eval=lambda x, offset: x.diagonal(offset, -2, -1),
    transpose=lambda ct, to, offset: bind(DIAG_EMBED, (ct,), {"offset": offset, "shape": to.shape[-2:]}),
    batch=batch_stack,
    loops=lambda w, out, x, offset: w.copy(out, x, source=numbered(x.shape).diagonal(offset, -2, -1)),
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 3)),)),
        Sample((rng.normal(size=(2, 2, 4)),), {"offset": 1}),
        Sample((rng.normal(size=(4, 2)),), {"offset": -2}),
        Sample((rng.normal(size=(2, 3)),), {"offset": 5}),
        Sample((rng.normal(size=(0, 2, 2)),)),
    ],
    refuses=lambda: [Refusal((np.ones(3),), ShapeError, "needs a matrix")],
)


@gate(DIAGONAL)
def diagonal(x: Tensor | npt.ArrayLike, /, *, offset: int = 0) -> Tensor:
    """The diagonal of each matrix, as the last axis.

    Parameters
    ----------
    x : Tensor or array_like
        Values of any dtype, shape (..., M, N).
    offset : int
        0 for the main diagonal, k for the k-th above it, -k for the k-th below it.

    Returns
    -------
    Tensor
        Shape (..., L), where L is the length of that diagonal, perhaps 0.

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> d = cr.linalg.diagonal(x); d
    tensor([1., 4.], from=diagonal)
    >>> d.backward([5.0, 6.0]); x.grad
    tensor([[5., 0.],
            [0., 6.]])
    """
    return bind(DIAGONAL, (matrices("diagonal", lift(x)),), {"offset": index(offset)})


def _embed_aval(x: Aval, offset: int, shape: Shape) -> Aval:
    if not x.shape:
        raise ShapeError(f"diag_embed({x}): needs a vector, or a stack of them", mend="give it an axis with reshape")
    length = diagonal_length(shape[0], shape[1], offset)
    if length != x.shape[-1]:
        says = f"diag_embed({x}): diagonal {offset} of a matrix of shape {shape} has {length} elements, not {x.shape[-1]}"
        raise ShapeError(says, mend="choose a shape whose diagonal is as long as the vector")
    return Aval((*x.shape[:-1], *shape), x.dtype)


def _embed(x: Any, offset: int, shape: Shape) -> Any:
    out = np.zeros((*x.shape[:-1], *shape), x.dtype)
    rows, columns = shape
    count = diagonal_length(rows, columns, offset)
    # Of the rows laid end to end, a diagonal is every (columns + 1)-th element.
    first = offset if offset >= 0 else -offset * columns
    if count == x.shape[-1] == 0:
        return out
    out.reshape(*x.shape[:-1], rows * columns)[..., first : first + (count - 1) * (columns + 1) + 1 : columns + 1] = x
    return out


def _embed_loops(w: Nest, out: Array, x: Array, offset: int, shape: Shape) -> None:
    w.fill(out, 0)
    w.copy(out, x, into=numbered(out.shape).diagonal(offset, -2, -1))


DIAG_EMBED: Primitive = Primitive(
    name="diag_embed",
    inputs=("x",),
    aval=_embed_aval,
    eval=_embed,
    transpose=lambda ct, offset: diagonal(ct, offset=offset),
    batch=batch_stack,
    loops=_embed_loops,
    samples=lambda rng: [
        Sample((rng.normal(size=3),)),
        Sample((rng.normal(size=(2, 3)),), {"offset": 1}),
        Sample((rng.normal(size=2),), {"offset": -1, "shape": (4, 2)}),
        Sample((rng.normal(size=(2, 0)),)),
    ],
    refuses=lambda: [
        Refusal((2.0,), ShapeError, "needs a vector"),
        Refusal((np.ones(3),), ShapeError, "has 2 elements, not 3", {"shape": (2, 4)}),
    ],
)


@gate(DIAG_EMBED)
def diag_embed(x: Tensor | npt.ArrayLike, /, *, offset: int = 0, shape: Sequence[int] | None = None) -> Tensor:
    """Matrices of zeros but for one diagonal: `diagonal` the other way.

    Parameters
    ----------
    x : Tensor or array_like
        Values of any dtype, shape (..., L).
    offset : int
        0 for the main diagonal, k for the k-th above it, -k for the k-th below it.
    shape : (int, int), optional
        Rows and columns; the smallest square that holds the diagonal if not given.

    Returns
    -------
    Tensor
        Shape (..., rows, columns).

    Raises
    ------
    ShapeError
        If ``x`` has no axis or that diagonal has not L elements.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.diag_embed([1.0, 2.0])
    tensor([[1., 0.],
            [0., 2.]])
    """
    vectors = lift(x)
    k = index(offset)
    size = (vectors.shape[-1] if vectors.shape else 0) + abs(k)
    rows, columns = (size, size) if shape is None else shape
    target = (index(rows), index(columns))
    _embed_aval(Aval(vectors.shape, vectors.dtype), k, target)
    return bind(DIAG_EMBED, (vectors,), {"offset": k, "shape": target})


def _cut_loops(w: Nest, out: Array, x: Array, k: int, *, lower: bool) -> None:
    with w.share(out.shape) as at:
        behind = at[-1] - at[-2]
        w.store(out, at, w.k.select(behind <= k if lower else behind >= k, w.load(x, at), 0))


def _triangle(name: str, cut: Rule, again: Rule) -> Primitive:
    return Primitive(
        name=name,
        inputs=("x",),
        aval=lambda x, k: matrices(name, x),
        eval=cut,
        transpose=again,
        batch=batch_stack,
        masks=True,
        onnx="Trilu",
        loops=lambda w, out, x, k: _cut_loops(w, out, x, k, lower=name == "tril"),
        samples=lambda rng: [
            Sample((rng.normal(size=(3, 3)),)),
            Sample((rng.normal(size=(2, 2, 4)),), {"k": 1}),
            Sample((rng.normal(size=(4, 2)),), {"k": -1}),
            Sample((rng.normal(size=(2, 0)),)),
        ],
        refuses=lambda: [Refusal((np.ones(3),), ShapeError, "needs a matrix")],
    )


TRIL: Primitive = _triangle("tril", np.tril, lambda ct, k: functions.tril(ct, k=k))
TRIU: Primitive = _triangle("triu", np.triu, lambda ct, k: functions.triu(ct, k=k))


@gate(TRIL)
def tril(x: Tensor | npt.ArrayLike, /, *, k: int = 0) -> Tensor:
    """The lower triangle of each matrix; zeros above.

    Parameters
    ----------
    x : Tensor or array_like
        Values of any dtype, shape (..., M, N).
    k : int
        The last diagonal that is kept: 0 for the main one, positive above it, negative below it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Notes
    -----
    What is not kept gets the gradient 0, even where it comes from an infinite derivative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.tril([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 0.],
            [3., 4.]])
    """
    return bind(TRIL, (matrices("tril", lift(x)),), {"k": index(k)})


@gate(TRIU)
def triu(x: Tensor | npt.ArrayLike, /, *, k: int = 0) -> Tensor:
    """The upper triangle of each matrix; zeros below.

    Parameters
    ----------
    x : Tensor or array_like
        Values of any dtype, shape (..., M, N).
    k : int
        The first diagonal that is kept: 0 for the main one, positive above it, negative below it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Notes
    -----
    What is not kept gets the gradient 0, even where it comes from an infinite derivative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.triu([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 2.],
            [0., 4.]])
    """
    return bind(TRIU, (matrices("triu", lift(x)),), {"k": index(k)})


@public
def trace(x: Tensor | npt.ArrayLike, /, *, offset: int = 0, dtype: npt.DTypeLike | None = None) -> Tensor:
    """The sum of a diagonal of each matrix.

    Parameters
    ----------
    x : Tensor or array_like
        Numeric values, shape (..., M, N).
    offset : int
        Which diagonal, as in `diagonal`.
    dtype : dtype, optional
        Convert to it before summing; integers are summed as int64 (uint64 if unsigned) if not given.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    ShapeError
        If ``x`` has fewer than two axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> t = cr.linalg.trace(x); t
    tensor(5., from=sum)
    >>> t.backward(); x.grad
    tensor([[1., 0.],
            [0., 1.]])
    """
    return functions.sum(diagonal(matrices("trace", lift(x)), offset=offset), axis=-1, dtype=dtype)
