"""Kernels that become one: several side by side, or one after the other on the same rows while these are near."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chainrule.compiler.native.fused import BLOCK, Fused
from chainrule.compiler.native.ir import I8, I64, PTR, VOID, Function, Index, Module, Value, index
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.views import Strides, View
from chainrule.core.aval import Shape
from chainrule.core.variable import Variable

__all__ = ["Rows", "row_by_row", "rows_of", "side_by_side"]

NEAR = BLOCK // 8
"""Elements of the rows that all kernels go through before the next ones: some such pieces stay in the first cache."""


def side_by_side(module: Module, name: str, calls: Sequence[Call]) -> Call:
    """One kernel that does the units of several, none of which reads or writes what another writes."""
    if len(calls) == 1:
        return calls[0]
    joint = _Joint(module, name, calls)
    start = 0
    for call in calls:
        units = call.kernel.units
        first, last = (joint.f.least(joint.f.most(joint.f.sub(x, start), 0), units) for x in joint.f.parameters[-2:])
        joint.call(call, first, last)
        start += units
    return joint.close(start)


class Rows(NamedTuple):
    """Loop nests whose units are the rows of one shape, each alone in reading and writing what a later one reads of it.

    Attributes
    ----------
    shape : tuple of int
    calls : tuple of Call
    written : Mapping of Variable to (int, tuple of int)
        Where rows of what they write begin: an offset, and strides along the shape.
    """

    shape: Shape
    calls: tuple[Call, ...]
    written: Mapping[Variable, tuple[int, Strides]]

    def before(self, other: Rows, reads: Sequence[tuple[Variable, tuple[int, Strides]]]) -> Rows | None:
        """With another nest behind them that reads of each row what they made of it; None if it reads nothing of theirs, or anything else."""
        met = [self.written[x] == place for x, place in reads if x in self.written]
        again = any(x in self.written for x in other.written)
        return Rows(self.shape, (*self.calls, *other.calls), {**self.written, **other.written}) if met and all(met) and not again else None


def rows_of(fused: Fused, views: Mapping[Variable, View], calls: Sequence[Call]) -> tuple[Rows, list[tuple[Variable, tuple[int, Strides]]]] | None:
    """A nest whose units are rows, along the last axis, and what it reads where; None if they are not."""
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
        strides = views[node.output].strides
        steps[node.output] = (*strides[:last], 0)
    place = lambda x: (views[x].root, (views[x].offset, steps[x]))
    written = [place(x) for x in (*fused.stores, *(node.output for node in fused.ends))]
    if len({root for root, _ in written}) < len(written):
        return None
    return Rows(shape, tuple(calls), dict(written)), [place(x) for x in leaves]


def row_by_row(module: Module, name: str, rows: Rows) -> Call:
    """One kernel that takes some rows at a time through all nests."""
    count, together = math.prod(rows.shape[:-1]), max(NEAR // rows.shape[-1], 1)
    joint = _Joint(module, name, rows.calls)
    f = joint.f
    with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
        first = f.mul(loop.index, together)
        last = f.least(f.add(first, together), count)
        for call in rows.calls:
            joint.call(call, first, last)
    return joint.close(-(-count // together))


class _Joint:
    """Writes a kernel that calls others."""

    def __init__(self, module: Module, name: str, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.arguments = tuple(dict.fromkeys(x for call in calls for x in call.arguments))
        parameters = [*((f"p{i}", PTR) for i in range(len(self.arguments))), ("first", I64), ("last", I64)]
        self.f = Function(module, name, parameters, linkage="internal")
        self.pointers: dict[Variable, Value] = dict(zip(self.arguments, self.f.parameters, strict=False))

    def call(self, call: Call, first: Index, last: Index) -> None:
        offsets = call.offsets or (0,) * len(call.arguments)
        given = [self.f.at(self.pointers[x], offset, I8) for x, offset in zip(call.arguments, offsets, strict=True)]
        self.f.call(call.kernel.name, VOID, *given, index(first), index(last))

    def close(self, units: int) -> Call:
        self.f.close()
        # What only one of them touches may still lie in the memory of what it replaces.
        touched = [x for call in self.calls for x in dict.fromkeys(call.arguments)]
        alone = frozenset(pair for call in self.calls for pair in call.meeting if all(touched.count(x) == 1 for x in pair))
        writes = tuple(dict.fromkeys(x for call in self.calls for x in call.writes))
        return Call(Kernel(self.f.name, units), self.arguments, writes, meeting=alone)
