"""Slopes: the way of a gradient back through elementwise gates as one factor, made with the values that it is made of.

Each such way is linear in the gradient g: that of GELU is g * a * b + g * c, whose factors wait in memory from the forward pass on. Here
the same gates are applied to 1 in place of g, right behind the gates that make the factors, so that fusion computes this slope in their
loop, and g is multiplied by it: one array waits in place of several. It is done only where fewer bytes wait.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from chainrule.autodiff.checkpoint import BARRIER
from chainrule.compiler.bounds import Interval, bounds
from chainrule.compiler.fusion import is_elementwise
from chainrule.core.aval import Aval
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

_MULTIPLY, _DIVIDE = TABLE["multiply"], TABLE["divide"]
_LINEAR = (TABLE["add"], TABLE["subtract"], TABLE["negative"])
"""In all of their inputs together."""
_DTYPES = (np.dtype("float32"), np.dtype("float64"))
"""In fewer bits a product of factors alone would soon leave the range."""
_TRIES = 16
"""How often a way is begun further on, where its slopes leave the range."""


def slopes(graph: Graph) -> Graph:
    """The graph with fewer bytes waiting for values that are multiplied by several factors known before them.

    Parameters
    ----------
    graph : Graph
        Simplified.

    Returns
    -------
    Graph
        Of the same values up to rounding.

    Notes
    -----
    ``g * a * b`` becomes ``g * (a * b)``, and ``g * a + g * b`` becomes ``g * (a + b)``: the same gates in the same order, so that every value on
    the way is what it was, divided by g. A factor that is 0, infinite or NaN does to a slope what it did to a finite g other than 0, and
    no slope that is finite does otherwise to 0. A slope that is infinite though its factors are finite would make NaN of a g of 0, and an
    infinity of a small one: it is written only where the bounds of its factors (`compiler.bounds`) exclude that, for all that these are made of up
    to 2**-16 of the largest number of their dtype (5e33 in float32). Where they do not, what was multiplied first stays multiplied
    first, and the way goes on from there: a slope of ``silu(a) * b`` is that of ``silu``, behind ``g * b``.
    The values differ by more than rounding only where factors multiply to less than the least number, or where a large g alone left the range.
    Gates to which 0 or a sign means something of its own (where, abs, masked_multiply) are not looked through.

    Nothing moves across a barrier: what is computed again behind one is made of what the barrier gives, and so is its slope.
    """
    return _Writer(graph).written()


class _Writer:
    """The nodes by number, each with its place: first that of its number, then that of the node that it was put behind."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # One more, which reads the results.
        self.nodes = [*graph.nodes, Operation(BARRIER, graph.outputs, {}, ())]
        self.place = [(number, 0) for number in range(len(self.nodes))]
        self.left_out = {len(graph.nodes)}
        self.constants = dict(graph.constants)
        self.maker = {x: number for number, node in enumerate(self.nodes) for x in node.outputs}
        self.readers: dict[Variable, set[int]] = {x: set() for x in (*graph.inputs, *graph.constants, *self.maker)}
        self.born: dict[Variable, int] = {}
        for number, node in enumerate(self.nodes):
            born = max((self.since(x) for x in node.inputs), default=-1) if is_elementwise(node) else number
            self.born.update(dict.fromkeys(node.outputs, born))
            for x in node.inputs:
                self.readers[x].add(number)
        self.linear = {node.outputs[0]: found for node in graph.nodes if (found := self._linear(node))}
        self.loops = [number for number, node in enumerate(self.nodes) if not is_elementwise(node) and node.primitive.kernel != "move"]
        self._count = count(1)

    def since(self, x: Variable) -> int:
        """The number of the last gate that is not elementwise among those that make a value; -1 if there is none."""
        return self.born.get(x, -1)

    def written(self) -> Graph:
        """The graph with slopes where they pay."""
        # A value that is read elsewhere too is where the next way starts.
        ways = self._ways(self.linear, self._ends(self._starts(self.linear, ())))
        # The factors of a way may lie on one that starts earlier.
        for start in sorted(ways, key=self.since):
            open_ = [(start, ways[start])]
            for _ in range(_TRIES):
                if open_:
                    open_ += self._shorten(*open_.pop())
        order = sorted({*range(len(self.nodes))} - self.left_out, key=self.place.__getitem__)
        return self.graph.with_nodes([self.nodes[number] for number in order], self.graph.outputs, self.constants)

    # What is linear in what.

    def _ways(self, values: Iterable[Variable], ends: Iterable[Variable]) -> dict[Variable, list[int]]:
        """The gates on the way from each start."""
        ways: dict[Variable, list[int]] = {}
        for x, start in self._starts(values, ends).items():
            ways.setdefault(start, []).append(self.maker[x])
        return ways

    def _starts(self, values: Iterable[Variable], ends: Iterable[Variable]) -> dict[Variable, Variable]:
        """Per value that is another one multiplied by what is known before that: which one, an end or as early as possible."""
        starts: dict[Variable, Variable] = {}
        ends = set(ends)
        for out in values:
            found = {x if x in ends else starts.get(x, x) for x in self.linear[out]}
            if len(found) == 1:
                starts[out] = found.pop()
        return starts

    def _linear(self, node: Operation) -> tuple[Variable, ...]:
        """The inputs in which, together, a gate is linear; none if the others may depend on them."""
        found: tuple[Variable, ...] = ()
        if node.primitive in _LINEAR:
            found = node.inputs
        elif node.primitive in (_MULTIPLY, _DIVIDE):
            first, second = node.inputs
            if self.since(first) > self.since(second):
                found = (first,)
            elif self.since(first) < self.since(second) and node.primitive is _MULTIPLY:
                found = (second,)
        fits = found and node.output.dtype in _DTYPES and all(x.dtype == node.output.dtype for x in node.inputs)
        return found if fits and all(x.shape == node.output.shape for x in found) else ()

    def _ends(self, starts: Mapping[Variable, Variable]) -> list[Variable]:
        """The values on a way that are read by others than the rest of it."""
        return [x for x, start in starts.items() if not all(self._lies_on(start, reader, starts) for reader in self.readers[x])]

    def _lies_on(self, start: Variable, number: int, starts: Mapping[Variable, Variable]) -> bool:
        outputs = self.nodes[number].outputs
        return len(outputs) == 1 and starts.get(outputs[0]) is start

    # Writing.

    def _shorten(self, start: Variable, way: Sequence[int]) -> Iterable[tuple[Variable, list[int]]]:
        """Write a way as products with slopes, if fewer bytes wait for its start then; or give the shorter ways that slopes stay in range on."""
        now = self.since(start)
        late = self._late(way, now)
        gone = {*way, *late}
        made = {x for number in gone for x in self.nodes[number].outputs}
        given = {x for number in gone for x in self.nodes[number].inputs if x in self.maker and x not in made and x is not start}
        behind = max((self.place[self.maker[x]][0] for x in given), default=now)
        # From the first gate on that stands between a slope and what it waits for.
        then = self.loops[bisect(self.loops, behind)]
        waiting = {x for x in given if self._waits(x, gone, then)}
        if not waiting:
            return ()
        slope = _Slope(start)
        steps = {number: slope.follow(self.nodes[number]) for number in way}
        ends = {number: slope.of(self.nodes[number].output) for number in way if self.readers[self.nodes[number].output] - gone}
        instead = {x for x in ends.values() if x in waiting or x in made or x in slope.made}
        instead.update(x for number in late for x in self.nodes[number].outputs if self.readers[x] - gone)
        if sum(x.nbytes for x in instead) >= sum(x.nbytes for x in waiting):
            return ()
        if last := self._leaves_range(start, way):
            return self._ways([self.nodes[number].output for number in way], last).items()
        at = self.place[way[0]][0]
        self.constants.update(slope.constants)
        self.readers.update((x, set()) for x in slope.constants)
        # In their order, so that no more of them than before live together.
        for number in sorted(gone, key=self.place.__getitem__):
            if number in late:
                self.place[number] = (behind, next(self._count))
            elif step := steps[number]:
                self._add(step, behind)
        for number in way:
            self._replace(number, start, ends.get(number), at)
        return ()

    def _leaves_range(self, start: Variable, way: Sequence[int]) -> list[Variable]:
        """The last values on a way before a slope may be infinite though all that it is made of is finite; none if that cannot be."""
        made = {start, *(self.nodes[number].output for number in way)}
        factors = {x for number in way for x in self.nodes[number].inputs if x not in made}
        lies = bounds(factors, self._gate, self.constants) if factors else {}
        sizes: dict[Variable, Any] = {start: 1.0}
        for number in way:
            node = self.nodes[number]
            size = _size(node, sizes, lies)
            if not np.isfinite(size).all():
                found = [x for x in node.inputs if x in sizes]
                alone = np.isfinite(_size(node, dict.fromkeys(found, 1.0), lies)).all()
                return found if alone else [*found, node.output]
            sizes[node.output] = size
        return []

    def _gate(self, x: Variable) -> tuple[Any, Operation] | None:
        number = self.maker.get(x)
        return None if number is None else (self.place[number], self.nodes[number])

    def _late(self, way: Sequence[int], now: int) -> set[int]:
        """The gates that make the factors of a way, as far as they stand behind what it waits for."""
        found: set[int] = set()
        open_ = [*way]
        while open_:
            for x in self.nodes[open_.pop()].inputs:
                number = self.maker.get(x, -1)
                if self.since(x) < now and number not in found and number >= 0 and self.place[number][0] > now:
                    found.add(number)
                    open_.append(number)
        return found

    def _waits(self, x: Variable, gone: set[int], then: int) -> bool:
        """Whether from then on a value takes memory only for gates that go."""
        if self.nodes[self.maker[x]].primitive.kernel == "move":
            return False
        read = [*(self.readers[x] - gone)]
        for number in read:
            if self.nodes[number].primitive.kernel == "move":
                # The same memory under another name.
                read += (reader for y in self.nodes[number].outputs for reader in self.readers[y])
        return all(self.place[number][0] < then for number in read)

    def _add(self, node: Operation, behind: int) -> None:
        number = len(self.nodes)
        self.nodes.append(node)
        self.place.append((behind, next(self._count)))
        self.maker[node.output] = number
        self.born[node.output] = max((self.since(x) for x in node.inputs), default=-1)
        self.readers[node.output] = set()
        for x in node.inputs:
            self.readers[x].add(number)

    def _replace(self, number: int, start: Variable, slope: Variable | None, at: int) -> None:
        """A gate on a way by a product with a slope, where the way begins, or by nothing."""
        node = self.nodes[number]
        for x in node.inputs:
            self.readers[x].discard(number)
        if slope is None:
            self.left_out.add(number)
            return
        self.nodes[number] = replace(node, primitive=_MULTIPLY, inputs=(start, slope), params={})
        self.place[number] = (at, next(self._count))
        for x in (start, slope):
            self.readers[x].add(number)


def _size(node: Operation, sizes: Mapping[Variable, Any], lies: Mapping[Variable, Interval]) -> Any:
    """The most that a slope may be, per piece of the numbers that it is made of: the next one, from those before."""
    factor = next((lies[x] for x in node.inputs if x in lies), None)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        size = sum(sizes[x] for x in node.inputs if x in sizes)
        return size if factor is None else size / factor.least if node.primitive is _DIVIDE else size * factor.largest


class _Slope:
    """What the values on a way are multiples of its start by: None is 1."""

    def __init__(self, start: Variable) -> None:
        self.made: set[Variable] = set()
        self.constants: dict[Variable, Any] = {}
        self._dtype = start.dtype
        self._of: dict[Variable, Variable | None] = {start: None}

    def follow(self, node: Operation) -> Operation | None:
        """What makes the slope of the next value on the way, if it needs a gate."""
        if node.primitive is _MULTIPLY:
            (x,) = (x for x in node.inputs if x in self._of)
            factor = node.inputs[node.inputs[0] is x]
            if self._of[x] is None:
                self._of[node.output] = factor
                return None
            inputs = (self.of(x), factor)
        else:
            inputs = tuple(self.of(x) if x in self._of else x for x in node.inputs)
        out = Variable(node.primitive.aval(*(x.aval for x in inputs), **node.params), f"slope_{node.output.name}")
        self._of[node.output] = out
        self.made.add(out)
        return replace(node, inputs=inputs, outputs=(out,))

    def of(self, x: Variable) -> Variable:
        """The slope of a value on the way."""
        slope = self._of[x]
        if slope is None:
            slope = Variable(Aval((), self._dtype))
            self.constants[slope] = self._dtype.type(1)
        return slope
