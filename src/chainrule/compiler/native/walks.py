"""Calls that go through the places along some axes one after the other, and which elements each of these places has a part in.

Rows of a loop nest, the matrices of a product: calls whose places have the same elements of all that they hand on can take turns at every place.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from chainrule.compiler.native.epilogues import Fitting
from chainrule.compiler.native.fused import BLOCK, Fused
from chainrule.compiler.native.kernel import Call
from chainrule.compiler.native.product import Product, Work
from chainrule.compiler.native.views import Strides, View, collapsed
from chainrule.core.aval import Shape
from chainrule.core.variable import Variable

__all__ = ["Access", "Reach", "Walk", "apart", "of_nest", "of_product", "step_of"]


class Reach(NamedTuple):
    """The elements of an access at all places: two that are equal have the same elements at each of them.

    Attributes
    ----------
    offset : int
    outer : tuple of (int, int)
        Sizes and strides along the places, as few as can be; none if they all have the same elements.
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
    def stretch(self) -> tuple[int, int]:
        """From the first to behind the last element of the first place."""
        within = [(size - 1) * stride for size, stride in self.inner]
        return self.offset + sum(x for x in within if x < 0), self.offset + sum(x for x in within if x > 0) + 1


def step_of(reaches: Collection[Reach]) -> int:
    """From one place to the next, if each has a stretch of memory of its own in which all of these lie, one behind the other; else 0."""
    (outer, *others) = {reach.outer for reach in reaches}
    if others or len(outer) != 1:
        return 0
    ((_, step),) = outer
    begin, end = (bound(reach.stretch[i] for reach in reaches) for i, bound in enumerate((min, max)))
    return step if begin >= 0 and end <= step else 0


def apart(reaches: Collection[Reach]) -> bool:
    """Whether no place has elements that one of these reaches at another place, given that one of them writes each element at one place alone."""
    return len(set(reaches)) == 1 or step_of(reaches) > 0


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

    def cut(self, axis: int, size: int) -> Access:
        """With an axis that it walks along in two, the second of which has this size."""
        return self._replace(along=(*self.along[:axis], self.along[axis] * size, *self.along[axis:]))

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
        But what is only handed from one of the calls to the next. No element is written at two places.
    """

    calls: tuple[Call, ...]
    sizes: Shape
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]

    @property
    def places(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)

    def cut(self, count: int) -> Walk | None:
        """The same with an axis in two, if need be, so that the first axes have so many places; None if that cannot be."""
        left = count
        for i, size in enumerate(self.sizes):
            if left == 1:
                break
            if left % size and not size % left:
                rest = size // left
                reads, writes = (tuple(access.cut(i, rest) for access in accesses) for accesses in (self.reads, self.writes))
                return self._replace(sizes=(*self.sizes[:i], left, rest, *self.sizes[i + 1 :]), reads=reads, writes=writes)
            if left % size:
                return None
            left //= size
        return self if left == 1 else None

    def depth(self, count: int) -> int | None:
        """How many of the axes, from the first on, have so many places; None if none have."""
        return next((i for i in range(len(self.sizes) + 1) if math.prod(self.sizes[:i]) == count), None)


def of_nest(fused: Fused, views: Mapping[Variable, View], calls: Sequence[Call]) -> Walk | None:
    """A loop nest whose units are rows of as many elements, an index of the first axes each; None if they are not."""
    shape, units = fused.shape, calls[0].kernel.units
    depth = next((i for i in range(1, len(shape)) if math.prod(shape[:i]) == units), 0)
    if len(calls) > 1 or units == 1 or not depth or any(axis < depth for axis in fused.axes):
        return None
    axes = fused.collapsed(views)
    # Units of what is reduced along no axis, or along axes of size 1 alone, are pieces of rows.
    if (fused.ends and not any(axes.marks)) or (not fused.ends and axes.sizes[-1] > BLOCK and axes.sizes[-1] % BLOCK):
        return None
    steps = fused.steps(views)
    within = lambda x: tuple(zip(shape[depth:], steps[x][depth:], strict=True))
    access = lambda x: Access(views[x].root, views[x].offset, steps[x][:depth], within(x))
    written = (*fused.stores, *(node.output for node in fused.ends))
    return _walk(calls, shape[:depth], [*map(access, fused.needed()[1])], [*map(access, written)])


def of_product(product: Product, operands: Mapping[str, View], fitted: Fitting | None, works: Sequence[Work], calls: Sequence[Call]) -> Walk | None:
    """A product and what is copied for it, matrix by matrix; None if there is but one. What is copied once for all of them is no part of it."""
    p = product
    shared = any(size > 1 and not (a and b) for size, a, b in zip(p.batch, p.a_batch, p.b_batch, strict=True))
    if shared and [work.packs for work in works] == ["b", None] and not any(p.b_batch):
        calls = calls[1:]
    elif math.prod(p.batch) == 1 or (shared and len(calls) > 1):
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
    """None if there is nothing to do."""
    return Walk(tuple(calls), sizes, tuple(reads), tuple(writes)) if calls and math.prod(sizes) else None
