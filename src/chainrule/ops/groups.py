"""Loop nests of gates that summarise along axes: over what is kept, and inside of that over what is combined.

For the `loops` rules of reductions, softmaxes and cross-entropies; nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.core.nest import Array, Nest, merged, offset, strides
from chainrule.core.primitive import Rule
from chainrule.core.scalar import Value


class Groups:
    """What is summarised into one element each.

    Attributes
    ----------
    at : value
        Where the present group's first element stands; its others stand at steps from there (see `elements`).
    out : value
        Where the group's summary stands.
    count : int
        How many elements a group has.
    """

    def __init__(self, w: Nest, x: Array, axes: Sequence[int]) -> None:
        kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        spread = [0 if axis in axes else step for axis, step in enumerate(strides(kept))]
        sizes, (steps, outer) = merged(x.shape, [strides(x.shape), spread])
        alone = [axis for axis in range(len(sizes)) if outer[axis]]
        inside = [axis for axis in range(len(sizes)) if not outer[axis]]
        self.w, self.x = w, x
        self.sizes, self.steps, self.outer = [sizes[i] for i in alone], [steps[i] for i in alone], [outer[i] for i in alone]
        self.inner, self.inner_steps = [sizes[i] for i in inside], [steps[i] for i in inside]
        self.count = math.prod(x.shape[axis] for axis in axes)
        self.empty = 0 in [x.shape[axis] for axis in axes]
        self.at: Value = 0
        self.out: Value = 0

    @contextmanager
    def each(self) -> Generator[Groups]:
        """Do what is written inside for every group."""
        with self.w.share(self.sizes) as at:
            self.at, self.out = offset(at, self.steps), offset(at, self.outer)
            yield self

    @contextmanager
    def elements(self) -> Generator[Value]:
        """Do what is written inside for every element of the group, whose position this is."""
        with self.w.each([0] if self.empty else self.inner) as at:
            yield offset(at, self.inner_steps) + self.at

    def fold(self, start: Any, combine: Callable[[Value, Value], Value], *, dtype: Any = None, wanted: str = "total") -> Value:
        """All elements combined one after the other."""
        total = self.w.variable(start, self.x.dtype if dtype is None else dtype, wanted)
        with self.elements() as place:
            self.w.assign(total, combine(total, self.w.at(self.x, place)))
        return total

    def sum(self, term: Callable[[Value], Value] = lambda e: e, wanted: str = "total") -> Value:
        """The sum of what is made of every element."""
        return self.fold(0, lambda t, e: t + term(e), wanted=wanted)

    def top(self) -> Value:
        """The largest element."""
        return self.fold(least(self.x.dtype), self.w.k.maximum, wanted="top")

    def least(self) -> Value:
        """The smallest element."""
        return self.fold(greatest(self.x.dtype), self.w.k.minimum, wanted="least")


def least(dtype: Any) -> Any:
    """The number of a dtype that is below all others."""
    return -math.inf if dtype.kind == "f" else False if dtype.kind == "b" else int(np.iinfo(dtype).min)


def greatest(dtype: Any) -> Any:
    """The number of a dtype that is above all others."""
    return math.inf if dtype.kind == "f" else True if dtype.kind == "b" else int(np.iinfo(dtype).max)


def reduced_loops(rule: Callable[..., Value]) -> Rule:
    """The loops of a reduction along axes of which every group gives ``rule(w, group, **options)``."""

    def loops(w: Nest, out: Array, x: Array, axis: Sequence[int], keepdims: bool, **options: Any) -> None:
        with Groups(w, x, axis).each() as group:
            w.put(out, group.out, rule(w, group, **options))

    return loops
