"""Gates that hold graphs: loops and choices around the tasks of the graphs inside.

What a loop carries lies in rows of memory, one behind the other: a round reads the last one and writes the next, so that nothing is copied,
and who wants all of them finds them there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.native.joint import go_through, take_turns, through_rounds, unchanging
from chainrule.compiler.native.lower import Lowering
from chainrule.compiler.native.scalars import NotLowered
from chainrule.compiler.native.tasks import Again, Choice, Element, Rounds, Slice, Sweep, Task
from chainrule.compiler.native.views import View, contiguous, whole
from chainrule.core.aval import Aval
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.inner import flat
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.loops import WHILE_LOOP_BACK

__all__ = ["Flow"]

LONGEST = 8
"""Bytes of an element at most: where one begins, any may."""


class _Carried(NamedTuple):
    """What a loop of known length carries.

    Attributes
    ----------
    rows : Variable
        A row for the first value and each round's; or two that take turns; or one, if the value never changes.
    old : Variable
        What the body reads.
    length : int
    reverse : bool
    """

    rows: Variable
    old: Variable
    length: int
    reverse: bool

    @property
    def first(self) -> View:
        return self._row(self.length if self.reverse else 0)

    @property
    def last(self) -> View:
        return self._row(0 if self.reverse else self.length)

    def _row(self, number: int) -> View:
        shape = self.old.shape
        return View(self.rows, shape, number % self.rows.shape[0] * self.old.size, contiguous(shape))

    def slice(self, x: Variable, *, new: bool) -> Slice:
        """Where the value before a round, or the ``new`` one, lies in that round."""
        count, size = self.rows.shape[0], self.old.nbytes
        further = self._further(new=new)
        if count == 1:
            return Slice(x, self.rows, 0, 0)
        if count == 2:
            return Slice(x, self.rows, size * further, -size if further else size, turns=2)
        return Slice(x, self.rows, size * further, size)

    def all(self, out: Variable, *, new: bool) -> View:
        """The values before, or after, all rounds."""
        return View(self.rows, out.shape, self.old.size * self._further(new=new), contiguous(out.shape))

    def _further(self, *, new: bool) -> bool:
        """Whether that value lies in the row behind the one with the round's number."""
        return new is not self.reverse


class Flow(Lowering):
    """A graph, with graphs inside of its gates."""

    def flow(self, node: Operation) -> bool:
        return node.primitive in FLOW and FLOW[node.primitive](self, node)

    def _inside(self, graph: Graph, given: Mapping[Variable, View], *, steady: Collection[Variable] | None = None) -> Flow:
        return Flow(graph, self.code, given, inner=True, steady=steady)

    def _scan(self, node: Operation) -> bool:
        """A loop over slices."""
        body: Graph = node.params["body"]
        carried, sliced, length = node.params["carried"], node.params["sliced"], node.params["length"]
        mark, work = len(self.tasks), self.code.work
        states = [self._carried(node, i) for i in range(carried)]
        for state, x in zip(states, node.inputs, strict=False):
            self.copy_to(state.first, x, self.views[x])
        slices = [state.slice(state.old, new=False) for state in states]
        given = {x: View(state.old, x.shape, 0, contiguous(x.shape)) for x, state in zip(body.inputs, states, strict=False)}
        for own, x in zip(body.inputs[carried : carried + sliced], node.inputs[carried:], strict=False):
            slices.append(self._slice(own, x))
            given[own] = whole(own)
        given.update((own, self.views[x]) for own, x in zip(body.inputs[carried + sliced :], node.inputs[carried + sliced :], strict=True))
        begun = self.code.work
        try:
            inside = self._inside(body, given, steady={*(self.views[x].root for x in node.inputs[carried + sliced :]), *body.constants}).run()
        except NotLowered:
            del self.tasks[mark:]
            self.code.work = work
            return False
        for i, (x, state) in enumerate(zip(body.outputs, states, strict=False)):
            if x is not body.inputs[i]:
                slices.append(state.slice(inside.own(x, given), new=True))
            self.views[node.outputs[i]] = state.last
        for x, out in zip(body.outputs[carried:], node.outputs[carried:], strict=True):
            found = self._history(x, out, body, states)
            if found is None:
                slices.append(Slice(inside.own(x, given), out, 0, x.nbytes))
            self.views[out] = found or whole(out)
        self.code.work += (self.code.work - begun) * max(length - 1, 0)
        self.tasks += inside._repeated(Rounds(length, node.params["reverse"], slices, inside.tasks), node)
        return True

    def _repeated(self, loop: Rounds, node: Operation) -> list[Task]:
        """A loop of the tasks, for a gate, behind what does the same in every round: one kernel, if its places have nothing to do with each other."""
        before, again = unchanging(loop, self.code.status)
        loop = replace(loop, tasks=again)
        outside = {part.x for part in loop.slices}
        turns = through_rounds(loop, self.walks)
        if turns is None:
            self.tasks = again
            return [*before, replace(loop, tasks=self.turns(outside))]
        code = self.code
        call = take_turns(code.module, code.name(), turns, frozenset(x for x in turns.writes if x not in outside))
        return [*before, *code.note([go_through(code.module, code.name(), call, loop)], [node])]

    def _carried(self, node: Operation, i: int) -> _Carried:
        """The memory of a value that a scan carries."""
        body, carried, length, reverse = (node.params[name] for name in ("body", "carried", "length", "reverse"))
        own = (body.inputs[i], body.outputs[i])
        kept = [out for x, out in zip(body.outputs[carried:], node.outputs[carried:], strict=True) if x in own and out not in self.graph.outputs]
        old = Variable(body.inputs[i].aval, node.outputs[i].name)
        count = 1 if own[0] is own[1] else length + 1 if kept else 2
        return _Carried(Variable(Aval((max(count, 1), *old.shape), old.dtype), f"{old.name}_rows"), old, length, reverse)

    def _history(self, x: Variable, out: Variable, body: Graph, states: Sequence[_Carried]) -> View | None:
        """All values of a round's ``x``, where a state has them in its rows."""
        if out in self.graph.outputs or not out.size:
            return None
        for before, after, state in zip(body.inputs, body.outputs, states, strict=False):
            if before is not after and x in (before, after):
                return state.all(out, new=x is after)
        return None

    def _slice(self, own: Variable, x: Variable) -> Slice:
        """One part after the other of a value along its first axis."""
        view = self.views[x]
        if view.strides[1:] != contiguous(x.shape[1:]):
            view = self.copy(x, view)
        size = x.dtype.itemsize
        return Slice(own, view.root, view.offset * size, view.strides[0] * size)

    def own(self, x: Variable, given: Mapping[Variable, View]) -> Variable:
        """What a value of each round is made in: memory that is its own and can lie anywhere, or else a copy."""
        view = self.views[x]
        own = view.root
        outside = {other.root for other in given.values()} | set(self.code.constants)
        if not view.whole or own in outside or own in self._taken:
            own = Variable(x.aval, f"{x.name}_row")
            self.store_as(own, x, view)
        self._taken.add(own)
        return own

    def _cond(self, node: Operation) -> bool:
        """One of two graphs; its results are copied to the memory of the gate's."""
        condition = self._element(node.inputs[0])
        branches: list[Lowering] = []
        work = self.code.work
        try:
            for name in ("true", "false"):
                graph: Graph = node.params[name]
                inside = self._inside(graph, {own: self.views[x] for own, x in zip(graph.inputs, node.inputs[1:], strict=True)})
                branches.append(inside.run())
                for out, x in zip(node.outputs, graph.outputs, strict=True):
                    inside.store_as(out, x, inside.views[x])
        except NotLowered:
            self.code.work = work
            return False
        self.tasks.append(Choice(condition, branches[0].tasks, branches[1].tasks))
        self.views.update((x, whole(x)) for x in node.outputs)
        return True

    def _while_loop(self, node: Operation) -> bool:
        """A loop as long as its condition holds; what is carried lies in memory of its own, and is replaced at the end of each round."""
        test, body, carried = node.params["cond"], node.params["body"], node.params["carried"]
        states = [Variable(x.aval, x.name) for x in node.outputs]
        mark, work = len(self.tasks), self.code.work
        for state, x in zip(states, node.inputs, strict=False):
            self.store_as(state, x, self.views[x])
        places = [*(View(x, x.shape, 0, contiguous(x.shape)) for x in states), *(self.views[x] for x in node.inputs[carried:])]
        try:
            looked, inside = (self._inside(graph, dict(zip(graph.inputs, places, strict=True))).run() for graph in (test, body))
        except NotLowered:
            del self.tasks[mark:]
            self.code.work = work
            return False
        condition = looked._element(test.outputs[0])
        inside._replace_states(states, body.outputs)
        self.tasks.append(Again(looked.tasks, condition, inside.tasks))
        self.views.update((x, View(state, x.shape, 0, contiguous(x.shape))) for x, state in zip(node.outputs, states, strict=True))
        return True

    def _while_loop_back(self, node: Operation) -> bool:
        """The same loop, whose rounds read one row and write the next, and the way back through these; what never changes is in no row."""
        back, carried = node.params["back"], node.params["carried"]
        # The loop itself may stand in the same graph: its values have memory of their own.
        test, body = (_renamed(node.params[name]) for name in ("cond", "body"))
        mark, work = len(self.tasks), self.code.work
        states = [Variable(x.aval, x.name) for x in node.outputs]
        for state, x in zip(states, node.inputs, strict=False):
            self.store_as(state, x, self.views[x])
        begun, given = len(self.tasks), node.inputs[len(states) :]
        places = [self.views[x] for x in given]
        changing = [i for i in range(carried) if body.inputs[i] is not body.outputs[i]]
        for i in changing:
            places[i] = self.copy(body.inputs[i], places[i])
        first = self.tasks[begun:]
        del self.tasks[begun:]
        try:
            looked, inside = (self._inside(graph, dict(zip(graph.inputs, places, strict=True))).run() for graph in (test, body))
            behind = self._inside(back, dict(zip(back.inputs, [*map(whole, states), *places], strict=True))).run()
        except NotLowered:
            del self.tasks[mark:]
            self.code.work = work
            return False
        behind._replace_states(states, back.outputs)
        sizes = [-(-body.inputs[i].nbytes // LONGEST) * LONGEST for i in changing]
        rows, nbytes = Variable(Aval((), np.dtype(np.int64)), "rows"), max(sum(sizes), LONGEST)
        slices: list[Slice] = []
        for i, offset in zip(changing, accumulate(sizes, initial=0), strict=False):
            new = inside.own(body.outputs[i], dict(zip(body.inputs, places, strict=True)))
            slices += [Slice(places[i].root, rows, offset, nbytes), Slice(new, rows, offset + nbytes, nbytes)]
        condition = looked._element(test.outputs[0])
        self.tasks.append(Sweep(rows, nbytes, self.code.status, slices, first, looked.tasks, condition, inside.tasks, behind.tasks))
        self.views.update((x, whole(state)) for x, state in zip(node.outputs, states, strict=True))
        return True

    def _replace_states(self, states: Sequence[Variable], values: Sequence[Variable]) -> None:
        """At the end of a round, all at once: what comes from another state is kept before that changes."""
        views = [self.views[x] for x in values]
        for i, (x, view) in enumerate(zip(values, views, strict=True)):
            if view.root in states and view.root is not states[i]:
                views[i] = self.copy(x, view)
        for state, x, view in zip(states, values, views, strict=True):
            if view.root is not state or not view.whole:
                self.store_as(state, x, self.copy(x, view) if view.root is state else view)

    def _element(self, x: Variable) -> Element:
        view = self.views[x]
        return Element(view.root, view.offset)


def _renamed(graph: Graph) -> Graph:
    """The same on other variables."""
    made = (x for node in graph.nodes for x in node.outputs)
    new = {x: Variable(x.aval, x.name) for x in (*graph.inputs, *made)}

    def names(xs: Iterable[Variable]) -> tuple[Variable, ...]:
        return tuple(new.get(x, x) for x in xs)

    nodes = [replace(node, inputs=names(node.inputs), outputs=names(node.outputs)) for node in graph.nodes]
    return flat(graph.name, names(graph.inputs), nodes, names(graph.outputs), graph.constants)


FLOW: dict[Any, Callable[[Flow, Operation], bool]] = {
    TABLE["scan"]: Flow._scan,
    TABLE["cond"]: Flow._cond,
    TABLE["while_loop"]: Flow._while_loop,
    WHILE_LOOP_BACK: Flow._while_loop_back,
}
"""Gates that hold graphs."""
