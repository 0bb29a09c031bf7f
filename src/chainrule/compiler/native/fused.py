"""Loop nests: a region of elementwise gates, with reductions at its end, as one kernel.

The nest runs over the axes of the region's shape, as few and as long as the operands' strides allow. The last one is done in
vectors; axes that are kept make the units that threads share; axes that are reduced are loops inside a unit, so that the order of every sum is
fixed. Where there would be few units for much work, a reduction is done in parts first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chainrule.compiler.native.elements import load, register, store
from chainrule.compiler.native.ir import I64, PTR, Function, Index, Module, Value, first_lanes, index, literal
from chainrule.compiler.native.kernel import Call, Kernel, meeting
from chainrule.compiler.native.scalars import lower
from chainrule.compiler.native.views import Axes, Strides, View, collapsed, contiguous, whole
from chainrule.core.aval import Aval, Dtype, Shape
from chainrule.core.primitive import TABLE, Primitive
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

__all__ = ["REDUCTIONS", "Fused", "write_fused"]

BLOCK = 4096
"""Elements that a unit of an elementwise nest has at most, unless an axis is shorter."""
FEW = 32
"""Units below which a large reduction is done in parts first."""
PART = 8192
"""Elements that such a part has about."""
TOGETHER = 4
"""Vectors that run side by side: what is computed of one waits for what was computed of it before."""
FEW_ALIVE = 3
"""Values that wait at once, up to which so many vectors side by side stay in registers; of more, two."""


class Reduction(NamedTuple):
    """How elements are summarised: what nothing gives, how two are one, how the lanes of a vector are."""

    start: Callable[[Dtype], float]
    combine: Callable[[Function, Value, Value, Dtype], Value]
    lanes: Callable[[Function, Value, Dtype], Value]


def _arithmetic(whole_stem: str, stem: str) -> Callable[[Function, Value, Value, Dtype], Value]:
    return lambda f, a, b, dtype: f.binary(f"f{stem}" if dtype.kind == "f" else whole_stem, a, b)


def _added_up(stem: str, start: float) -> Callable[[Function, Value, Dtype], Value]:
    def lanes(f: Function, x: Value, dtype: Dtype) -> Value:
        one = x.kind.wide(1)
        if dtype.kind != "f":
            return f.intrinsic(f"vector.reduce.{stem}", x, result=one)
        return f.intrinsic(f"vector.reduce.f{stem}", literal(start, one), x, result=one, overload=x.kind, flags="reassoc")

    return lanes


def _extreme(stem: str) -> tuple[Callable[[Function, Value, Value, Dtype], Value], Callable[[Function, Value, Dtype], Value]]:
    short = stem[:3]

    def name(dtype: Dtype) -> str:
        return f"f{stem}" if dtype.kind == "f" else f"{'u' if dtype.kind in 'ub' else 's'}{short}"

    def combine(f: Function, a: Value, b: Value, dtype: Dtype) -> Value:
        return f.intrinsic(stem if dtype.kind == "f" else name(dtype), a, b)

    return combine, lambda f, x, dtype: f.intrinsic(f"vector.reduce.{name(dtype)}", x, result=x.kind.wide(1))


def _lowest(dtype: Dtype) -> float:
    return -math.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _highest(dtype: Dtype) -> float:
    return math.inf if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _logical(operation: str) -> tuple[Callable[[Function, Value, Value, Dtype], Value], Callable[[Function, Value, Dtype], Value]]:
    def lanes(f: Function, x: Value, dtype: Dtype) -> Value:
        return f.intrinsic(f"vector.reduce.{operation}", x, result=x.kind.wide(1))

    return lambda f, a, b, dtype: f.binary(operation, a, b), lanes


REDUCTIONS: dict[Primitive, Reduction] = {
    TABLE["sum"]: Reduction(lambda dtype: 0.0, _arithmetic("add", "add"), _added_up("add", -0.0)),
    TABLE["prod"]: Reduction(lambda dtype: 1.0, _arithmetic("mul", "mul"), _added_up("mul", 1.0)),
    TABLE["max"]: Reduction(_lowest, *_extreme("maximum")),
    TABLE["min"]: Reduction(_highest, *_extreme("minimum")),
    TABLE["any"]: Reduction(lambda dtype: 0, *_logical("or")),
    TABLE["all"]: Reduction(lambda dtype: 1, *_logical("and")),
}
"""Reductions that end a nest."""


@dataclass(frozen=True)
class Fused:
    """What one loop nest computes.

    Attributes
    ----------
    shape : tuple of int
        Of the loop.
    nodes : sequence of Operation
        Elementwise gates, in order.
    stores : sequence of Variable
        What they make that is stored.
    ends : sequence of Operation
        Reductions (`REDUCTIONS`), all along the same axes.
    rows : bool
        Whether the first axis stays one by itself, so that its rows are units.
    """

    shape: Shape
    nodes: Sequence[Operation]
    stores: Sequence[Variable]
    ends: Sequence[Operation]
    rows: bool = False

    @property
    def axes(self) -> frozenset[int]:
        """That are reduced."""
        return frozenset(self.ends[0].params["axis"]) if self.ends else frozenset()

    def needed(self) -> tuple[list[Operation], list[Variable]]:
        """The gates that what is stored or summarised depends on, and what they read of others."""
        wanted = dict.fromkeys([*self.stores, *(x for node in self.ends for x in node.inputs)])
        nodes: list[Operation] = []
        for node in reversed(self.nodes):
            if any(x in wanted for x in node.outputs):
                nodes.append(node)
                wanted.update(dict.fromkeys(node.inputs))
        made = {x for node in self.nodes for x in node.outputs}
        return nodes[::-1], [x for x in wanted if x not in made]

    def steps(self, views: Mapping[Variable, View]) -> dict[Variable, Strides]:
        """How far apart elements of what it reads and writes are, along the axes of its shape."""
        shape, axes = self.shape, self.axes
        found = {x: views[x].along(shape) for x in (*self.needed()[1], *self.stores)}
        for node in self.ends:
            strides = views[node.output].strides
            kept = [stride for i, stride in enumerate(strides) if i not in axes] if node.params["keepdims"] else strides
            found[node.output] = _spread_out(kept, axes, len(shape))
        return found

    def collapsed(self, views: Mapping[Variable, View]) -> Axes:
        """Its axes, as few as can be: with strides of what `steps` names, and then those of a result of a reduction without gaps."""
        shape, axes = self.shape, self.axes
        without_gaps = contiguous(tuple(size for i, size in enumerate(shape) if i not in axes))
        first = [(1, *(0 for _ in shape[1:]))] if self.rows and len(shape) > 1 else []
        found = collapsed(shape, [*self.steps(views).values(), _spread_out(without_gaps, axes, len(shape)), *first], axes)
        return found._replace(strides=found.strides[: len(found.strides) - len(first)])


def write_fused(module: Module, name: str, fused: Fused, views: Mapping[Variable, View], lanes: int) -> list[Call]:
    """Write the kernels of a nest, and say on what they are called.

    Parameters
    ----------
    module : Module
    name : str
        Of the kernel; parts of it have more names.
    fused : Fused
    views : Mapping of Variable to View
        Where what it reads lies, and what it writes; memory of its own where nothing is said.
    lanes : int
        Of vectors of float32.
    """
    return _Writer(module, name, fused, views, lanes).write()


def _spread_out(strides: Sequence[int], axes: frozenset[int], rank: int) -> Strides:
    """Strides of what is left when axes are reduced, along all of them."""
    kept = iter(strides)
    return tuple(0 if i in axes else next(kept) for i in range(rank))


class _Operand(NamedTuple):
    """A value in memory: its pointer, the first element, and steps along the axes of the nest."""

    pointer: Value
    offset: int
    strides: Strides


class _Writer:
    def __init__(self, module: Module, name: str, fused: Fused, views: Mapping[Variable, View], lanes: int) -> None:
        self.module, self.name, self.fused = module, name, fused
        self.nodes, self.leaves = fused.needed()
        self.lanes = lanes
        self.written = [*fused.stores, *(node.output for node in fused.ends)]
        self.views = {x: views.get(x) or whole(x) for x in (*self.leaves, *self.written)}
        axes = fused.collapsed(self.views)
        self.sizes, self.marks = axes.sizes or (1,), axes.marks or (False,)
        *steps, self.rows = (strides or (0,) for strides in axes.strides)
        self.steps = dict(zip(fused.steps(self.views), steps, strict=True))
        self.partial: dict[Variable, View] = {}

    # The kernel.

    def write(self) -> list[Call]:
        last = len(self.sizes) - 1
        total = math.prod(self.sizes)
        width = self.sizes[last]
        self.vector = self.lanes if width > 1 else 1
        outer = [i for i in range(last) if not self.marks[i]]
        self.inner = [i for i in range(last) if self.marks[i]]
        columns = -(-width // self._block()) if not self.marks[last] else 1
        units = math.prod(self.sizes[i] for i in outer) * columns
        self.parts = self._parts(units, total)
        views = {**self.views, **self.partial}
        roots = dict.fromkeys(view.root for view in views.values())
        f = Function(self.module, self.name, [*((f"p{i}", PTR) for i in range(len(roots))), ("first", I64), ("last", I64)], linkage="internal")
        self.f = f
        pointers = dict(zip(roots, f.parameters, strict=False))
        self.operands = {
            x: _Operand(pointers[view.root], view.offset, self.rows if x in self.partial else self.steps[x]) for x, view in views.items()
        }
        with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
            rest: Index = loop.index
            part: Index = 0
            if self.parts > 1:
                part, rest = f.rem(rest, self.parts), f.div(rest, self.parts)
            column, rest = f.rem(rest, columns), f.div(rest, columns)
            at: dict[int, Index] = {}
            for i in reversed(outer):
                at[i], rest = f.rem(rest, self.sizes[i]), f.div(rest, self.sizes[i])
            self._unit(at, column, part)
        f.close()
        written = tuple(dict.fromkeys(views[x].root for x in self.written))
        calls = [Call(Kernel(self.name, units * self.parts), tuple(roots), written, meeting=self._meeting())]
        return calls + self._joined()

    def _meeting(self) -> frozenset[tuple[Variable, Variable]]:
        """What is read only where something is stored."""
        at = lambda x: (self.views[x].root, (self.views[x].offset, self.steps[x]))
        ends = [(self.views[node.output].root, node) for node in self.fused.ends]
        return meeting(map(at, self.leaves), [*map(at, self.fused.stores), *ends])

    def _block(self) -> int:
        """How many elements along the vector axis a unit has, where that axis is kept."""
        width = self.sizes[-1]
        if not self.fused.ends:
            return min(width, BLOCK) or 1
        return min(width, self.vector * TOGETHER) or 1

    def _parts(self, units: int, total: int) -> int:
        """How many parts reductions are done in; makes the memory for their results."""
        cut = self.inner[0] if self.inner else len(self.sizes) - 1
        if not self.fused.ends or units >= FEW or total < 4 * PART or not self.marks[cut]:
            return 1
        step = self.vector if cut == len(self.sizes) - 1 else 1
        length = -(-self.sizes[cut] // min(64, total // PART))
        self.part = -(-length // step) * step
        parts = -(-self.sizes[cut] // self.part)
        if parts > 1:
            self.cut = cut
            for node in self.fused.ends:
                out = node.output
                self.partial[out] = whole(Variable(Aval((parts, *out.shape), out.dtype), f"{out.name}_parts"))
        return parts

    def _joined(self) -> list[Call]:
        """The kernels that make one of the parts."""
        calls: list[Call] = []
        for number, node in enumerate(self.fused.ends):
            if node.output in self.partial:
                parts = self.partial[node.output].root
                end = Operation(node.primitive, (parts,), {"axis": (0,), "keepdims": False}, node.outputs)
                fused = Fused(parts.shape, (), (), (end,))
                calls += write_fused(self.module, f"{self.name}_join{number}", fused, {node.output: self.views[node.output]}, self.lanes)
        return calls

    # One unit.

    def _unit(self, at: Mapping[int, Index], column: Index, part: Index) -> None:
        f, last, width = self.f, len(self.sizes) - 1, self.sizes[-1]
        self.base: dict[Variable, Index] = {x: self._place(operand, at) for x, operand in self.operands.items()}
        for node in self.fused.ends:
            if node.output in self.partial:
                self.base[node.output] = f.add(self.base[node.output], f.mul(part, node.output.size))
        self.same: dict[Variable, Value] = {}
        self._spread([x for x in self.leaves if not any(self.steps[x][i] for i in (*self.inner, last))])
        if self.marks[last]:
            self._along(part)
            return
        block = self._block()
        start = f.mul(column, block)
        stop = f.least(width, f.add(start, block)) if width % block else f.add(start, block)
        rest = width % self.vector
        whole_stop = f.least(width - rest, stop) if rest else stop
        step = self._side_by_side() * self.vector
        many = start if width < step else f.add(start, f.mul(f.div(f.most(f.sub(whole_stop, start), 0), step), step))
        if width >= step > self.vector:
            with f.loop(start, many, step) as loop:
                self._across([f.add(loop.index, shift) for shift in range(0, step, self.vector)], None, part)
        with f.loop(many if step > self.vector else start, whole_stop, self.vector) as loop:
            self._across([loop.index], None, part)
        if rest:
            with f.when(f.compare("eq", index(stop), index(width))) if not isinstance(stop, int) else ExitStack():
                self._across([width - rest], first_lanes(rest, self.vector), part)

    def _side_by_side(self) -> int:
        """How many vectors go through the gates together: of a long chain the processor would see but one at a time."""
        if self.fused.ends:
            return TOGETHER
        return 1 if len(self.nodes) < 2 else TOGETHER if self._alive() <= FEW_ALIVE else 2

    def _alive(self) -> int:
        """The most values that wait for a reader at once."""
        last = {x: place for place, node in enumerate(self.nodes) for x in node.inputs}
        waiting, most = {x for x in self.leaves if x not in self.same}, 0
        for place, node in enumerate(self.nodes):
            waiting.add(node.output)
            most = max(most, len(waiting))
            waiting -= {x for x in waiting if last.get(x, -1) <= place}
        return most

    def _place(self, operand: _Operand, at: Mapping[int, Index]) -> Index:
        place: Index = operand.offset
        for i, position in at.items():
            place = self.f.add(place, self.f.mul(position, operand.strides[i]))
        return place

    def _spread(self, leaves: Sequence[Variable]) -> None:
        """Compute once per unit what is the same in all of it."""
        self.same.update((x, self._load(x, self.base[x], 1, None)) for x in leaves)
        for node in self.nodes:
            if all(x in self.same for x in node.inputs):
                self.same[node.output] = self._lowered(node, self.same)

    def _bounds(self, i: int, part: Index) -> tuple[Index, Index]:
        """Where the loop along an axis that is reduced begins and ends."""
        if self.parts == 1 or i != self.cut:
            return 0, self.sizes[i]
        start = self.f.mul(part, self.part)
        return start, self.f.least(self.sizes[i], self.f.add(start, self.part))

    def _starts(self, lanes: int) -> list[Value]:
        return [self._nothing(node, lanes) for node in self.fused.ends]

    def _nothing(self, node: Operation, lanes: int) -> Value:
        dtype = node.output.dtype
        return literal(REDUCTIONS[node.primitive].start(dtype), register(dtype, lanes))

    def _across(self, columns: Sequence[Index], mask: Value | None, part: Index) -> None:
        """Elements side by side along the vector axis, which is kept: some vectors of them."""
        last, ends = len(self.sizes) - 1, self.fused.ends

        def body(at: Mapping[int, Index], carried: list[Value]) -> list[Value]:
            return self._totals([{**at, last: column} for column in columns], mask, carried)

        totals = iter(self._loops(self.inner, part, {}, self._starts(self.vector) * len(columns), body))
        for column in columns:
            for node in ends:
                self._store(node.output, self._further(node.output, {last: column}), next(totals), mask)

    def _totals(self, places: Sequence[Mapping[int, Index]], mask: Value | None, carried: Sequence[Value]) -> list[Value]:
        """What is carried, for each place one total per reduction, with the elements there."""
        ends, found = self.fused.ends, iter(carried)
        return [self._combine(node, next(found), values[node.inputs[0]]) for values in self._values(places, mask) for node in ends]

    def _along(self, part: Index) -> None:
        """Elements along the vector axis, which is reduced; several vectors at once, for one sum waits for the other."""
        f, last, width = self.f, len(self.sizes) - 1, self.sizes[-1]
        rest = width % self.vector
        together = TOGETHER if width >= 2 * TOGETHER * self.vector else 1
        ends = self.fused.ends

        def body(at: Mapping[int, Index], carried: list[Value]) -> list[Value]:
            start, stop = self._bounds(last, part)
            stop = f.least(stop, width - rest) if rest else stop
            step = together * self.vector
            many = f.add(start, f.mul(f.div(f.sub(stop, start), step), step))
            with f.loop(start, many, step, carried) as loop:
                places = [{**at, last: f.add(loop.index, shift)} for shift in range(0, step, self.vector)]
                loop.next(*self._totals(places, None, loop.carried))
            first, others = loop.results[: len(ends)], loop.results[len(ends) :]
            if together > 1:
                with f.loop(many, stop, self.vector, first) as loop:
                    loop.next(*self._totals([{**at, last: loop.index}], None, loop.carried))
                first = loop.results
            if rest:
                mask = first_lanes(rest, self.vector)
                if self.parts > 1 and self.cut == last:
                    # Of the last part alone: what is stored may replace what is read.
                    here = f.compare("eq", index(part), index(self.parts - 1))
                    mask = f.binary("and", mask, f.splat(here, self.vector))
                further = self._totals([{**at, last: width - rest}], mask, first)
                first = [f.select(mask, new, old) for new, old in zip(further, first, strict=True)]
            return [*first, *others]

        totals = self._loops(self.inner, part, {}, self._starts(self.vector) * together, body)
        for i, node in enumerate(ends):
            total = totals[i]
            for other in totals[i + len(ends) :: len(ends)]:
                total = self._combine(node, total, other)
            if self.vector > 1:
                total = REDUCTIONS[node.primitive].lanes(f, total, node.output.dtype)
            self._store(node.output, self.base[node.output], total, None)

    def _combine(self, node: Operation, total: Value, x: Value) -> Value:
        x = self.f.splat(x, total.kind.lanes)
        if total.kind.element == "i1" and x.kind != total.kind:
            x = self.f.compare("une" if x.kind.floating else "ne", x, literal(0, x.kind))
        return REDUCTIONS[node.primitive].combine(self.f, total, x, node.output.dtype)

    def _loops(
        self,
        axes: Sequence[int],
        part: Index,
        at: Mapping[int, Index],
        carried: list[Value],
        body: Callable[[Mapping[int, Index], list[Value]], list[Value]],
    ) -> list[Value]:
        """Loops along axes that are reduced, the first outermost."""
        if not axes:
            return body(at, carried)
        start, stop = self._bounds(axes[0], part)
        with self.f.loop(start, stop, 1, carried) as loop:
            loop.next(*self._loops(axes[1:], part, {**at, axes[0]: loop.index}, loop.carried, body))
        return loop.results

    # Elements.

    def _values(self, places: Sequence[Mapping[int, Index]], mask: Value | None) -> list[dict[Variable, Value]]:
        """Per place all that is needed there, in the lanes of a vector; what is stored is stored. Gate after gate, each at all places."""
        f, lanes = self.f, self.vector
        same = {x: f.splat(value, lanes) for x, value in self.same.items()}
        found = [dict(same) for _ in places]
        for x in self.leaves:
            if x not in same:
                for values, at in zip(found, places, strict=True):
                    values[x] = self._load(x, self._further(x, at), lanes, mask)
        for node in self.nodes:
            if node.output not in same:
                for values in found:
                    values[node.output] = self._lowered(node, values)
        for x in self.fused.stores:
            for values, at in zip(found, places, strict=True):
                self._store(x, self._further(x, at), values[x], mask)
        return found

    def _further(self, x: Variable, at: Mapping[int, Index]) -> Index:
        place = self.base[x]
        for i, position in at.items():
            place = self.f.add(place, self.f.mul(position, self.operands[x].strides[i]))
        return place

    def _lowered(self, node: Operation, values: Mapping[Variable, Value]) -> Value:
        return lower(self.f, node.primitive, [values[x] for x in node.inputs], [x.dtype for x in node.inputs], node.params, node.output.dtype)

    def _load(self, x: Variable, place: Index, lanes: int, mask: Value | None) -> Value:
        operand = self.operands[x]
        return load(self.f, x.dtype, operand.pointer, place, operand.strides[-1], lanes, mask)

    def _store(self, x: Variable, place: Index, value: Value, mask: Value | None) -> None:
        operand = self.operands[x]
        step = operand.strides[-1]
        store(self.f, x.dtype, operand.pointer, place, self.f.splat(value, self.vector) if step else value, mask, step)
