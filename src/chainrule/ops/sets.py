"""Questions whose answer's size depends on values: distinct elements, positions of what is not zero, membership.

Their arguments must be known values, so they cannot be traced. Positions have no gradient; distinct values
have one, since they are read from the array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chainrule.core.aval import Aval, bool_
from chainrule.core.errors import DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.gate import batch_looped, concrete, gate, lift, made, operands
from chainrule.ops.gathering import take
from chainrule.ops.movement import reshape
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["UniqueAll", "UniqueCounts", "UniqueInverse", "isin", "nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"]

if TYPE_CHECKING:
    import numpy.typing as npt


class UniqueAll(NamedTuple):
    """What `unique_all` returns.

    Attributes
    ----------
    values : Tensor
        The distinct elements in ascending order.
    indices : Tensor
        Where each value stands first.
    inverse_indices : Tensor
        For every element of the array the position of its value; of its shape.
    counts : Tensor
        How often each value stands there.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.unique_all([2, 1, 2]).indices
    tensor([1, 0])
    """

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns.

    Attributes
    ----------
    values : Tensor
        The distinct elements in ascending order.
    counts : Tensor
        How often each value stands there.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.unique_counts([2, 1, 2]).counts
    tensor([1, 2])
    """

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns.

    Attributes
    ----------
    values : Tensor
        The distinct elements in ascending order.
    inverse_indices : Tensor
        For every element of the array the position of its value; of its shape.

    Examples
    --------
    >>> import chainrule as cr
    >>> values, inverse = cr.unique_inverse([2, 1, 2]); inverse
    tensor([1, 0, 1])
    """

    values: Tensor
    inverse_indices: Tensor


@public
def unique_all(x: Tensor | npt.ArrayLike, /) -> UniqueAll:
    """The distinct elements in ascending order, with all that tells where they are.

    Parameters
    ----------
    x : Tensor or array_like
        Of any shape; its values must be known.

    Returns
    -------
    UniqueAll
        ``values``, each distinct one once (every NaN counts as distinct); ``indices`` of their first occurrences among
        the elements in row-major order; ``inverse_indices``, of the shape of ``x``, which build ``x`` from the
        values; ``counts`` of their occurrences.

    Raises
    ------
    ArgumentError
        If values are not known because a graph is traced.

    Notes
    -----
    A value's gradient goes to its first occurrence.

    Examples
    --------
    >>> import chainrule as cr
    >>> found = cr.unique_all([3, 1, 3])
    >>> found.values, found.indices, found.inverse_indices, found.counts
    (tensor([1, 3]), tensor([1, 0]), tensor([1, 0, 1]), tensor([1, 2]))
    """
    values = lift(x)
    flat = reshape(values, (math.prod(values.shape),))
    _, first, inverse, counts = np.unique(concrete(flat, "the elements of a set"), True, True, True, equal_nan=False)
    return UniqueAll(take(flat, first), made(first), made(inverse.reshape(values.shape)), made(counts))


@public
def unique_counts(x: Tensor | npt.ArrayLike, /) -> UniqueCounts:
    """The distinct elements in ascending order, and how often each occurs.

    Parameters
    ----------
    x : Tensor or array_like
        Of any shape; its values must be known.

    Returns
    -------
    UniqueCounts
        ``values`` and ``counts``, as of `unique_all`.

    Raises
    ------
    ArgumentError
        If values are not known because a graph is traced.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.unique_counts([3, 1, 3]).counts
    tensor([1, 2])
    """
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


@public
def unique_inverse(x: Tensor | npt.ArrayLike, /) -> UniqueInverse:
    """The distinct elements in ascending order, and the positions that build ``x`` from them.

    Parameters
    ----------
    x : Tensor or array_like
        Of any shape; its values must be known.

    Returns
    -------
    UniqueInverse
        ``values`` and ``inverse_indices``, as of `unique_all`.

    Raises
    ------
    ArgumentError
        If values are not known because a graph is traced.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.unique_inverse([3, 1, 3]).inverse_indices
    tensor([1, 0, 1])
    """
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


@public
def unique_values(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """The distinct elements in ascending order.

    Parameters
    ----------
    x : Tensor or array_like
        Of any shape; its values must be known.

    Returns
    -------
    Tensor
        With a single axis.

    Raises
    ------
    ArgumentError
        If values are not known because a graph is traced.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.unique_values([3, 1, 3])
    tensor([1, 3])
    """
    return unique_all(x).values


@public
def nonzero(x: Tensor | npt.ArrayLike, /) -> tuple[Tensor, ...]:
    """Positions of the elements that are true, or not zero, in row-major order.

    Parameters
    ----------
    x : Tensor or array_like
        With at least one axis; its values must be known.

    Returns
    -------
    tuple of Tensor
        For every axis the positions along it, of dtype int64.

    Raises
    ------
    ShapeError
        If there is no axis.
    ArgumentError
        If values are not known because a graph is traced.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nonzero([[0, 1], [2, 0]])
    (tensor([0, 1]), tensor([1, 0]))
    """
    value = concrete(x, "what nonzero looks at")
    if not value.shape:
        raise ShapeError("nonzero: a value without axes has no positions", mend="compare it with 0 instead")
    return tuple(made(row) for row in np.nonzero(value))


def _isin_eval(x1: Any, x2: Any, invert: bool) -> Any:
    return np.isin(x1, x2, invert=invert)


def _isin_loops(w: Nest, out: Array, x: Array, among: Array, invert: bool) -> None:
    # Comparisons stand side by side in vectors.
    w.last_resort(out.size * among.size // 8)
    with w.share(out.shape) as at:
        value, found = w.let(w.load(x, at)), w.variable(False, bool_, "found")
        with w.loop(among.size) as i:
            w.assign(found, found | (w.at(among, i) == value))
        w.store(out, at, ~found if invert else found)


ISIN = Primitive(
    name="isin",
    inputs=("x1", "x2"),
    aval=lambda x1, x2, invert: Aval(x1.shape, bool_),
    eval=_isin_eval,
    batch=lambda primitive, batched, inputs, params: (
        bind(primitive, inputs, params) if not batched[1] else _isin_looped(primitive, batched, inputs, params)
    ),
    loops=_isin_loops,
    kernel="sort",
    samples=lambda rng: [
        Sample((np.array([[1, 2], [3, 4]]), np.array([2, 3, 9]))),
        Sample((np.array([1.0, 2.0]), np.array([[2.0], [5.0]])), {"invert": True}),
        Sample((np.array(1), np.array(1))),
        Sample((np.zeros(0), np.ones(2))),
    ],
    refuses=lambda: [Refusal((np.array(["a"]), np.ones(2)), DtypeError, "numbers")],
)

_isin_looped = batch_looped("every example has a set of its own")


@gate(ISIN)
def isin(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /, *, invert: bool = False) -> Tensor:
    """Whether each element of ``x1`` is among those of ``x2``.

    Parameters
    ----------
    x1, x2 : Tensor or array_like
        Of any shapes.
    invert : bool
        Ask whether it is not.

    Returns
    -------
    Tensor
        Of the shape of ``x1`` and dtype bool.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.isin([1, 2, 3], [3, 1])
    tensor([ True, False,  True])
    """
    first, second = operands("isin", "any", x1, x2)
    return bind(ISIN, (first, second), {"invert": bool(invert)})
