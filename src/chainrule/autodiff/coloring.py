"""Colouring: which columns, or rows, of a sparse matrix a single product can evaluate together.

Sets of colours are integers, a bit per colour, so that the plain loops over what is stored stay short. Nothing here knows
where a matrix comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chainrule.autodiff.dependence import as_pattern
from chainrule.core.errors import ArgumentError, ShapeError

__all__ = ["Coloring", "color"]

Index = npt.NDArray[np.intp]
Mode = Literal["forward", "reverse", "symmetric"]

MODES = ("auto", "forward", "reverse", "symmetric")


@dataclass(frozen=True, slots=True)
class Coloring:
    """Groups of columns, or of rows, that one product evaluates together.

    Attributes
    ----------
    mode : {"forward", "reverse", "symmetric"}
        Whether columns are coloured, rows, or both alike.
    colors : array of int
        The colour of each column or row, from 0; -1 where nothing is stored, so that no product is needed.
    count : int
        The number of colours.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.color([[1, 0, 1], [0, 1, 0]], "forward")
    Coloring(mode='forward', count=2)
    """

    mode: Mode
    colors: Index = field(repr=False)
    count: int


def color(pattern: Any, mode: Literal["auto", "forward", "reverse", "symmetric"] = "auto") -> Coloring:
    """Colour a sparse matrix, so that as many products as there are colours determine all of its elements.

    Parameters
    ----------
    pattern : scipy.sparse array or array_like, shape (m, n)
        The elements that are stored, or of an array those that are not zero, are the ones that can differ from zero.
    mode : {"auto", "forward", "reverse", "symmetric"}
        "forward" colours columns: two that meet in a row differ, and one forward product gives all columns of a colour.
        "reverse" colours rows, for reverse products. "auto" takes the one with fewer colours, forward if they tie.
        "symmetric" is for symmetric matrices, and often needs fewer: it lets an element be read on either side of the diagonal.

    Returns
    -------
    Coloring

    Raises
    ------
    MissingExtraError
        If SciPy is not installed.
    ArgumentError
        For another mode.
    ShapeError
        If the pattern is no matrix, or with "symmetric" not symmetric.

    Notes
    -----
    Columns are taken one by one, each gets the first colour that none of its neighbours has: Curtis, Powell & Reid, "On the estimation
    of sparse Jacobian matrices" (1974). They are taken in their own order, which is best for bands, and with those of most
    neighbours first, and the better result stays. A row with k elements needs k colours; with as many the result is optimal.

    "symmetric" is a star colouring: neighbours differ, and so do the ends or the middles of every path of four. Then of the
    elements (i, j) and (j, i) one stands alone in its product: Gebremedhin, Manne & Pothen, "What color is your
    Jacobian? Graph coloring for computing derivatives" (SIAM Review, 2005), sections 4 and 6.

    Examples
    --------
    >>> import chainrule as cr
    >>> band = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    >>> cr.color(band).colors
    array([0, 1, 2, 0])
    >>> arrow = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    >>> cr.color(arrow).count, cr.color(arrow, "symmetric").count
    (4, 2)
    """
    if mode not in MODES:
        raise ArgumentError(f"color: mode={mode!r}", mend=f"choose one of {', '.join(map(repr, MODES))}")
    if not hasattr(pattern, "tocsr"):
        pattern = np.asarray(pattern)
        if pattern.ndim != 2:
            raise ShapeError(f"color: a pattern of shape {pattern.shape}", mend="pass a matrix: a sparse array or an array with two axes")
    stored = as_pattern(pattern)
    if mode == "symmetric":
        return _symmetric(stored)
    if mode == "reverse":
        return _reverse(stored)
    forward = _forward(stored)
    # A column with k elements needs k colours in reverse mode.
    if mode == "forward" or forward.count <= _longest(stored.T.tocsr()):
        return forward
    reverse = _reverse(stored)
    return reverse if reverse.count < forward.count else forward


def _longest(rows: Any) -> int:
    return int(np.diff(rows.indptr).max(initial=0))


def _forward(pattern: Any) -> Coloring:
    columns = pattern.T.tocsr()
    met = columns @ np.diff(pattern.indptr)
    return _best("forward", lambda order: _distinct(columns, order), np.diff(columns.indptr), met, _longest(pattern))


def _reverse(pattern: Any) -> Coloring:
    made = _forward(pattern.T.tocsr())
    return Coloring("reverse", made.colors, made.count)


def _symmetric(pattern: Any) -> Coloring:
    rows, cols = pattern.shape
    if rows != cols or (pattern != pattern.T).nnz:
        raise ShapeError(f"color: a pattern of shape {pattern.shape} that is not symmetric", mend='take mode="auto", or pattern + pattern.T')
    degrees = np.diff(pattern.indptr)
    return _best("symmetric", lambda order: _star(pattern, order), degrees, degrees, min(2, _longest(pattern)))


def _best(mode: Mode, colored: Callable[[Iterable[int]], list[int]], sizes: Index, neighbours: Index, least: int) -> Coloring:
    """The better of two orders: as they stand, and those of most neighbours first."""
    filled = np.flatnonzero(sizes)
    best: list[int] = []
    count = -1
    for order in (filled, filled[np.argsort(-neighbours[filled], kind="stable")]):
        found = colored(order.tolist())
        colors = max(found, default=-1) + 1
        if count < 0 or colors < count:
            best, count = found, colors
        if count <= least:
            break
    return Coloring(mode, np.array(best, np.intp), count)


def _distinct(columns: Any, order: Iterable[int]) -> list[int]:
    """Colours of columns, such that those of one row differ."""
    starts, rows = columns.indptr.tolist(), columns.indices.tolist()
    taken = [0] * columns.shape[1]
    colors = [-1] * columns.shape[0]
    for column in order:
        own = rows[starts[column] : starts[column + 1]]
        seen = 0
        for row in own:
            seen |= taken[row]
        bit = ~seen & (seen + 1)
        for row in own:
            taken[row] |= bit
        colors[column] = bit.bit_length() - 1
    return colors


def _star(pattern: Any, order: Iterable[int]) -> list[int]:
    """Colours of vertices, such that neighbours differ and no path of four has two colours.

    ``near`` holds the colours around a vertex, ``twice`` those that occur more than once, and ``barred`` the colours of
    neighbours around which the vertex's own colour occurs more than once: a further neighbour of the vertex
    must not have them.
    """
    size = pattern.shape[0]
    starts, columns = pattern.indptr.tolist(), pattern.indices.tolist()
    colors = [-1] * size
    bits, near, twice, barred = ([0] * size for _ in range(4))
    for vertex in order:
        around = [other for other in columns[starts[vertex] : starts[vertex + 1]] if other != vertex]
        seen = 0
        for other in around:
            if bits[other]:
                seen |= bits[other] | (near[other] if twice[vertex] & bits[other] else barred[other])
        bit = ~seen & (seen + 1)
        bits[vertex], colors[vertex] = bit, bit.bit_length() - 1
        for other in around:
            if near[other] & bit:
                if not twice[other] & bit:
                    twice[other] |= bit
                    for end in columns[starts[other] : starts[other + 1]]:
                        if bits[end] == bit:
                            barred[end] |= bits[other]
                barred[vertex] |= bits[other]
            near[other] |= bit
            if twice[vertex] & bits[other]:
                barred[other] |= bit
    return colors
