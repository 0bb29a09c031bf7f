"""Calls that go through the places along some axes one after the other, and which elements each of these places has a part in.

Rows of a loop nest, the matrices of a product: calls whose places have the same elements of all that they hand on can take turns at every place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chainrule.compiler.native.epilogues import Fitting
from chainrule.compiler.native.fused import BLOCK, Fused
from chainrule.compiler.native.gemm import Product, folded
from chainrule.compiler.native.kernel import Call
from chainrule.compiler.native.views import Strides, View, collapsed
from chainrule.core.aval import Shape
from chainrule.core.variable import Variable

__all__ = ["Access", "Reach", "Walk", "of_nest", "of_product"]


class Reach(NamedTuple):
    """The elements of an access at all places: two that are equal have the same elements at each of them.

    Attributes
    ----------
    offset : int
    outer : tuple of (int, int)
        Sizes and strides along the places, as few as can be.
    inner : tuple of (int, int)
        From one place's first element to the others, the longest strides first.
    """

    offset: int
    outer: tuple[tuple[int, int], ...]
    inner: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """How many elements of a place."""
        return math.prod(size for size, _ in self.inner)

    @property
    def step(self) -> int:
        """From one place to the next, if each has a stretch of memory of its own, one behind the other; else 0."""
        if len(self.outer) != 1:
            return 0
        ((_, step),) = self.outer
        within = [self.offset, *((size - 1) * stride for size, stride in self.inner)]
        return step if min(within) >= 0 and sum(within) < step else 0


class Access(NamedTuple):
    """What a call reads or writes of one value: strides along the axes it walks along, and steps within a place.

    Attributes
    ----------
    root : Variable
        In whose memory.
    offset : int
        In elements.
    along : tuple of int
    within : tuple of (int, int)
        Sizes and strides.
    """

    root: Variable
    offset: int
    along: Strides
    within: tuple[tuple[int, int], ...]

    def reach(self, sizes: Shape, depth: int) -> Reach:
        """With places along the first ``depth`` axes only."""
        inner = sorted((*zip(sizes[depth:], self.along[depth:], strict=True), *self.within), key=lambda axis: -abs(axis[1]))
        return Reach(self.offset, _joined(zip(sizes[:depth], self.along[:depth], strict=True)), _joined(axis for axis in inner if axis[1]))


def _joined(axes: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Neighbours as one axis where they step evenly."""
    found = [*axes]
    joined = collapsed(tuple(size for size, _ in found), [tuple(stride for _, stride in found)])
    return tuple(zip(joined.sizes, *joined.strides, strict=True))


class Walk(NamedTuple):
    """Calls that run one after the other, each of which goes through all places in order, so many units at each.

    Attributes
    ----------
    calls : tuple of Call
    sizes : tuple of int
        Of the axes; a place is an index of each.
    reads, writes : tuple of Access
        But what is only handed from one of the calls to the next. No element is written at two places, and no value but once.
    """

    calls: tuple[Call, ...]
    sizes: Shape
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]

    @property
    def places(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)

    def depth(self, count: int) -> int | None:
        """How many of the axes, from the first on, have so many places; None if none have."""
        return next((i for i in range(len(self.sizes) + 1) if math.prod(self.sizes[:i]) == count), None)


def of_nest(fused: Fused, views: Mapping[Variable, View], calls: Sequence[Call]) -> Walk | None:
    """A loop nest whose units are rows, along the last axis; None if they are not."""
    shape, last = fused.shape, len(fused.shape) - 1
    if len(calls) > 1 or not 1 < math.prod(shape[last:]) <= BLOCK or calls[0].kernel.units != math.prod(shape[:-1]):
        return None
    leaves = fused.needed()[1]
    steps = {x: views[x].along(shape) for x in (*leaves, *fused.stores)}
    # What is the same throughout a row keeps rows apart.
    apart = any(
        not steps[x][last] and next((step for step, size in zip(steps[x][-2::-1], shape[-2::-1], strict=True) if size > 1), 0) for x in leaves
    )
    if fused.axes != frozenset({last}) and (fused.axes or not apart):
        return None
    for node in fused.ends:
        steps[node.output] = (*views[node.output].strides[:last], 0)
    access = lambda x: Access(views[x].root, views[x].offset, steps[x][:last], ((shape[last], steps[x][last]),))
    written = (*fused.stores, *(node.output for node in fused.ends))
    return _walk(calls, shape[:last], [*map(access, leaves)], [*map(access, written)])


def of_product(product: Product, operands: Mapping[str, View], fitted: Fitting | None, calls: Sequence[Call]) -> Walk | None:
    """A product and what is copied for it, matrix by matrix; None if there is but one, or the same one is read for many."""
    p = product
    count = math.prod(p.batch)
    # What is copied once for all matrices is no part of any.
    shared = any(size > 1 and not (a and b) for size, a, b in zip(p.batch, p.a_batch, p.b_batch, strict=True))
    if count == 1 or (shared and len(calls) > 1) or (fitted is None and math.prod(folded(p).batch) != count):
        return None

    def access(view: View, batch: Strides, sizes: Shape, steps: Strides) -> Access:
        return Access(view.root, view.offset, batch, tuple(zip(sizes, steps, strict=True)))

    reads = [access(operands["a"], p.a_batch, (p.m, p.k), p.a), access(operands["b"], p.b_batch, (p.k, p.n), p.b)]
    if fitted is None:
        return _walk(calls, p.batch, reads, [access(operands["c"], p.c_batch, (p.m, p.n), (p.c, 1))])
    behind, kept = (
        [access(fitted.views[x], steps.batch, (p.m, p.n), (steps.row, steps.column)) for x, steps in found.items()]
        for found in (fitted.reads, fitted.stores)
    )
    return _walk(calls, p.batch, [*reads, *behind], kept)


def _walk(calls: Sequence[Call], sizes: Shape, reads: Sequence[Access], writes: Sequence[Access]) -> Walk | None:
    """None if there is nothing to do, or two parts of one value are written."""
    roots = {access.root for access in writes}
    return Walk(tuple(calls), sizes, tuple(reads), tuple(writes)) if calls and math.prod(sizes) and len(roots) == len(writes) else None
