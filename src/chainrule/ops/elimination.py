"""Loop nests of square matrices: Gaussian elimination, and what is read off it.

For the `loops` rules of linear algebra; nothing is computed here. Matrices are taken one at a time into memory of their own. Where a
target cannot refuse singular ones, what is divided by their zero pivots is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from chainrule.core.nest import Array, Nest
from chainrule.core.scalar import Value


def taken(w: Nest, x: Array, load: Callable[[Value, Value], Value]) -> None:
    """Let the elements of a matrix be ``load(row, column)``."""
    with w.each(x.shape) as (i, j):
        w.store(x, (i, j), load(i, j))


def identity(w: Nest, x: Array) -> None:
    """Let a matrix be the identity."""
    taken(w, x, lambda i, j: w.k.convert(i == j, x.dtype))


def triangular(w: Nest, a: Array, *beside: Array) -> Value:
    """Make ``a`` upper triangular by rows, and do the same to the rows beside it: the sign of the permutation of its rows, 0 if ``a`` is singular."""
    n = a.shape[0]
    sign = w.variable(1, a.dtype, "sign")
    with w.loop(n) as j:
        best = w.variable(j, wanted="best")
        with w.loop(n, j + 1) as i, w.when(w.k.abs(w.load(a, (i, j))) > w.k.abs(w.load(a, (best, j)))):
            w.assign(best, i)
        with w.when(best != j):
            w.assign(sign, -sign)
            for x in (a, *beside):
                with w.loop(x.shape[1]) as c:
                    above = w.let(w.load(x, (j, c)), "above")
                    w.store(x, (j, c), w.load(x, (best, c)))
                    w.store(x, (best, c), above)
        pivot = w.let(w.load(a, (j, j)), "pivot")
        # A column of zeros is triangular already.
        with w.when(pivot == 0):
            w.assign(sign, 0)
        with w.when(pivot != 0), w.loop(n, j + 1) as i:
            factor = w.let(w.load(a, (i, j)) / pivot, "factor")
            for x in (a, *beside):
                with w.loop(x.shape[1]) as c:
                    w.store(x, (i, c), w.load(x, (i, c)) - factor * w.load(x, (j, c)))
    return sign


def solved(w: Nest, a: Array, b: Array) -> Value:
    """Let ``b`` be the solution X of a X = b; ``a`` is lost. Whether that is singular."""
    singular = w.let(triangular(w, a, b) == 0, "singular")
    n = a.shape[0]
    with w.loop(n) as up:
        i = w.let(n - 1 - up, "row")
        with w.loop(b.shape[1]) as c:
            rest = w.variable(w.load(b, (i, c)), b.dtype, "rest")
            with w.loop(n, i + 1) as k:
                w.assign(rest, rest - w.load(a, (i, k)) * w.load(b, (k, c)))
            w.store(b, (i, c), rest / w.load(a, (i, i)))
    return singular


def determinant(w: Nest, a: Array) -> Value:
    """The determinant of ``a``, which is lost."""
    product = triangular(w, a)
    with w.loop(a.shape[0]) as i:
        w.assign(product, product * w.load(a, (i, i)))
    return product


def solve_loops(w: Nest, out: Array, x1: Array, x2: Array) -> None:
    """The solutions of systems of equations; a right side may be a vector."""
    n, vector = x1.shape[-1], len(x2.shape) == 1
    w.last_resort(n * (x1.size // 3 + out.size))
    a, b = w.scratch((n, n), out.dtype, "a"), w.scratch((n, 1 if vector else x2.shape[-1]), out.dtype, "b")
    with w.share(out.shape[: -1 if vector else -2]) as stack:
        taken(w, a, lambda i, j: w.load(x1, (*stack, i, j)))
        taken(w, b, lambda i, j: w.load(x2, (i,) if vector else (*stack, i, j)))
        w.refuse(solved(w, a, b), np.linalg.LinAlgError)
        with w.each(b.shape) as (i, j):
            w.store(out, (*stack, i) if vector else (*stack, i, j), w.load(b, (i, j)))


def inverse_loops(w: Nest, out: Array, x: Array, check: bool) -> None:
    """The inverses of matrices; of a singular one NaN, if that is not to be refused."""
    w.last_resort(4 * x.size * x.shape[-1] // 3)
    a, b = (w.scratch(x.shape[-2:], x.dtype, name) for name in "ab")
    with w.share(x.shape[:-2]) as stack:
        taken(w, a, lambda i, j: w.load(x, (*stack, i, j)))
        identity(w, b)
        singular = solved(w, a, b)
        if check:
            w.refuse(singular, np.linalg.LinAlgError)
        with w.each(b.shape) as at:
            value = w.load(b, at)
            w.store(out, (*stack, *at), value if check else w.k.select(singular, math.nan, value))


def determinant_loops(w: Nest, out: Array, x: Array) -> None:
    """The determinants of matrices."""
    w.last_resort(x.size * x.shape[-1] // 3)
    a = w.scratch(x.shape[-2:], x.dtype, "a")
    with w.share(x.shape[:-2]) as stack:
        taken(w, a, lambda i, j: w.load(x, (*stack, i, j)))
        w.store(out, stack, determinant(w, a))


def log_determinant_loops(w: Nest, outs: Sequence[Array], x: Array) -> None:
    """Signs of determinants, and logarithms of their absolute values."""
    w.last_resort(x.size * x.shape[-1] // 3)
    a = w.scratch(x.shape[-2:], x.dtype, "a")
    with w.share(x.shape[:-2]) as stack:
        taken(w, a, lambda i, j: w.load(x, (*stack, i, j)))
        sign, total = triangular(w, a), w.variable(0, x.dtype)
        with w.loop(a.shape[0]) as i:
            pivot = w.let(w.load(a, (i, i)), "pivot")
            w.assign(sign, sign * w.k.sign(pivot))
            w.assign(total, total + w.k.log(w.k.abs(pivot)))
        w.store(outs[0], stack, sign)
        w.store(outs[1], stack, total)


def adjugate_loops(w: Nest, out: Array, x: Array) -> None:
    """The adjugates of matrices, by their minors: right for singular matrices too."""
    n = x.shape[-1]
    w.last_resort(x.size * n**3 // 3)
    minor = w.scratch((max(n - 1, 0),) * 2, x.dtype, "minor")
    with w.share((*x.shape[:-2], n, n)) as (*stack, i, j):

        def left(row: Value, column: Value, i: Value = i, j: Value = j) -> Value:
            return w.load(x, (*stack, row + w.k.select(row >= j, 1, 0), column + w.k.select(column >= i, 1, 0)))

        taken(w, minor, left)
        value = determinant(w, minor)
        w.store(out, (*stack, i, j), w.k.select(((i + j) & 1) == 0, value, -value))


def cholesky_loops(w: Nest, out: Array, x: Array) -> None:
    """The lower triangular roots of symmetric matrices, row by row; of one that is not positive definite NaN."""
    n = x.shape[-1]
    w.last_resort(x.size * n // 6)
    with w.share(x.shape[:-2]) as stack, w.loop(n) as i, w.loop(n) as j:
        half = (w.load(x, (*stack, i, j)) + w.load(x, (*stack, j, i))) * 0.5
        rest = w.variable(half, x.dtype, "rest")
        with w.when(j <= i), w.loop(j) as k:
            w.assign(rest, rest - w.load(out, (*stack, i, k)) * w.load(out, (*stack, j, k)))
        w.refuse((j == i) & ~(rest > 0), np.linalg.LinAlgError)
        diagonal = w.let(w.k.select(j == i, w.k.sqrt(rest), rest / w.load(out, (*stack, j, j))), "root")
        w.store(out, (*stack, i, j), w.k.select(j <= i, diagonal, 0))
