"""In which order the parts of a Jacobian are multiplied: forward, reverse, or from narrow waists outwards.

A function that squeezes everything through a small value is a chain of stages joined by such values, and its Jacobian is the
product of theirs. Each stretch of the chain is taken forward or in reverse, or as the product of two shorter ones;
dynamic programming finds the cheapest way. This room chooses and counts; it computes no number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from chainrule.autodiff.cost import multiplications
from chainrule.autodiff.linearize import Linear, forward, reverse
from chainrule.core.errors import ArgumentError
from chainrule.core.variable import Variable
from chainrule.graph.inner import flat, needed
from chainrule.graph.ir import Graph

MOST_WAISTS = 24
"""Of more waists than these, the narrowest are kept: the search takes the third power of their number."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of a function, between two of its waists or ends.

    Attributes
    ----------
    graph : Graph
        The first inputs and outputs are those to be differentiated; the others are handed through.
    inputs, outputs : int
        How many of them.
    """

    graph: Graph
    inputs: int
    outputs: int

    @cached_property
    def columns(self) -> int:
        """Elements of the inputs."""
        return sum(x.size for x in self.graph.inputs[: self.inputs])

    @cached_property
    def rows(self) -> int:
        """Elements of the outputs."""
        return sum(x.size for x in self.graph.outputs[: self.outputs])

    @cached_property
    def forward(self) -> Linear:
        return forward(self.graph, range(self.inputs), range(self.outputs))

    @cached_property
    def reverse(self) -> Linear:
        return reverse(self.graph, range(self.inputs), range(self.outputs))

    @cached_property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Per mode the multiplications that are done once, and those of each direction or cotangent."""
        modes = {"forward": self.forward, "reverse": self.reverse}
        return {mode: (multiplications(linear.early), multiplications(linear.late)) for mode, linear in modes.items()}


@dataclass(frozen=True, slots=True)
class Plan:
    """How the Jacobian of the stages from ``first`` up to but not including ``last`` is found.

    Attributes
    ----------
    mode : str
        "forward" or "reverse"; "product" of that of ``right``, which comes first in the chain, and ``left``.
    cost : int
        Multiplications; 0 where they were not counted.
    """

    mode: str
    first: int
    last: int
    cost: int = 0
    left: Plan | None = None
    right: Plan | None = None

    def stretches(self) -> list[Plan]:
        """What is taken in one go, in the order of the chain."""
        if self.left is None or self.right is None:
            return [self]
        return [*self.right.stretches(), *self.left.stretches()]

    def written(self, names: dict[int, str], *, inside: bool = False) -> str:
        """The product with parentheses, as it is multiplied."""
        if self.left is None or self.right is None:
            return names[self.first]
        product = f"{self.left.written(names, inside=True)} · {self.right.written(names, inside=True)}"
        return f"({product})" if inside else product


@dataclass(frozen=True, slots=True)
class Row:
    """One way to find a Jacobian.

    Attributes
    ----------
    mode : str
    multiplications : int or None
        None if there is no such way.
    chosen : bool
    why : str
        How they come about.
    """

    mode: str
    multiplications: int | None
    chosen: bool
    why: str


@dataclass(frozen=True, slots=True, repr=False)
class CostTable:
    """What each way to a Jacobian costs, and which was taken; prints as a table.

    Attributes
    ----------
    title : str
    rows : tuple of Row
    stages : tuple of str
        Where the cheapest product is one of several stages: each with its sizes and mode.
    order : str
        In which they are multiplied.
    """

    title: str
    rows: tuple[Row, ...]
    stages: tuple[str, ...] = field(default=())
    order: str = ""

    @property
    def chosen(self) -> str:
        """The mode that was taken."""
        return next(row.mode for row in self.rows if row.chosen)

    def __str__(self) -> str:
        lines = [self.title, f"{'mode':8} {'multiplications':>15}  {'':6}  why"]
        for row in self.rows:
            count = "" if row.multiplications is None else f"{row.multiplications:,}"
            lines.append(f"{row.mode:8} {count:>15}  {'chosen' if row.chosen else '':6}  {row.why}")
        if self.stages:
            lines += ["stages of mixed", *(f"  {stage}" for stage in self.stages), f"multiplied as {self.order}"]
        return "\n".join(lines)

    __repr__ = __str__


class Chain:
    """A graph as stages joined by its waists.

    Parameters
    ----------
    graph : Graph
    inputs, outputs : int
        How many of its first inputs and outputs are differentiated.
    """

    def __init__(self, graph: Graph, inputs: int, outputs: int) -> None:
        self.graph = graph
        self._inputs, self._outputs = inputs, outputs
        self._found = dict[tuple[int, int], Segment]()

    @cached_property
    def waists(self) -> list[tuple[int, Variable]]:
        """Values through which everything passes and that are smaller than what is before and behind, with the positions of their nodes."""
        graph = self.graph
        ends = [sum(x.size for x in part) for part in (graph.inputs[: self._inputs], graph.outputs[: self._outputs])]
        cuts = _cuts(graph, self._inputs, self._outputs)
        level: list[tuple[int, tuple[int, Variable] | None]] = [(ends[0], None)]
        for cut in cuts:
            # Of neighbours alike the last: the value behind an activation says more than the one before it.
            if cut[1].size == level[-1][0] and len(level) > 1:
                level.pop()
            if cut[1].size != level[-1][0]:
                level.append((cut[1].size, cut))
        level.append((ends[1], None))
        found = [
            cut
            for (before, _), (size, cut), (after, _) in zip(level, level[1:], level[2:], strict=False)
            if cut is not None and before > size < after
        ]
        narrowest = sorted(found, key=lambda cut: cut[1].size)[:MOST_WAISTS]
        return sorted(narrowest, key=lambda cut: cut[0])

    @property
    def stages(self) -> int:
        """How many there are."""
        return len(self.waists) + 1

    def segment(self, first: int, last: int) -> Segment:
        """The function of the stages from ``first`` up to but not including ``last``."""
        if (first, last) not in self._found:
            self._found[first, last] = self._segment(first, last)
        return self._found[first, last]

    def _segment(self, first: int, last: int) -> Segment:
        graph, waists = self.graph, self.waists
        start = 0 if first == 0 else waists[first - 1][0] + 1
        stop = len(graph.nodes) if last == self.stages else waists[last - 1][0] + 1
        own = graph.nodes[start:stop]
        made = {x for node in own for x in node.outputs}
        entering = list(graph.inputs[: self._inputs]) if first == 0 else [waists[first - 1][1]]
        leaving = list(graph.outputs[: self._outputs]) if last == self.stages else [waists[last - 1][1]]
        later = [x for node in graph.nodes[stop:] for x in node.inputs] + list(graph.outputs)
        handed = [x for x in dict.fromkeys(later) if x in made and x not in leaving]
        read = dict.fromkeys([x for node in own for x in node.inputs] + leaving)
        given = [x for x in read if x not in made and x not in graph.constants and x not in entering]
        return Segment(flat(graph.name, [*entering, *given], own, [*leaving, *handed], graph.constants), len(entering), len(leaving))

    def straight(self, mode: str) -> Plan:
        """The whole chain in one mode."""
        return self._stretch(mode, 0, self.stages)

    def _stretch(self, mode: str, first: int, last: int) -> Plan:
        parts = [self.segment(i, i + 1) for i in range(first, last)]
        seeds = parts[0].columns if mode == "forward" else parts[-1].rows
        return Plan(mode, first, last, sum(part.counts[mode][0] + seeds * part.counts[mode][1] for part in parts))

    def mixed(self) -> Plan | None:
        """The cheapest product of two stretches or more; None if the function has no waist."""
        sizes = [self.segment(i, i + 1).columns for i in range(self.stages)] + [self.segment(self.stages - 1, self.stages).rows]
        best: dict[tuple[int, int], Plan] = {}
        for length in range(1, self.stages + 1):
            for first in range(self.stages - length + 1):
                last = first + length
                products = [
                    Plan("product", first, last, left.cost + right.cost + sizes[first] * sizes[middle] * sizes[last], left, right)
                    for middle in range(first + 1, last)
                    for right, left in [(best[first, middle], best[middle, last])]
                ]
                if length == self.stages:
                    return min(products, key=lambda plan: plan.cost, default=None)
                best[first, last] = min([self._stretch("forward", first, last), self._stretch("reverse", first, last), *products], key=_cost)
        return None

    def choose(self, mode: str) -> tuple[Plan, CostTable]:
        """The plan of a mode, or with "auto" the cheapest, and what they all cost."""
        plans = {name: self.straight(name) for name in ("forward", "reverse")}
        mixed = self.mixed()
        if mixed is not None:
            plans["mixed"] = mixed
        if mode == "mixed" and mixed is None:
            raise ArgumentError(
                f"jacobian of {self.graph.name}: mode='mixed', but there is no waist, a value smaller than what is before and behind it"
                " through which everything passes",
                mend="use mode='auto', which takes the cheaper of forward and reverse then",
            )
        chosen = min(plans, key=lambda name: plans[name].cost) if mode == "auto" else mode
        return plans[chosen], self._table(plans, chosen)

    def _table(self, plans: dict[str, Plan], chosen: str) -> CostTable:
        whole = [self.segment(i, i + 1) for i in range(self.stages)]
        columns, rows = whole[0].columns, whole[-1].rows
        said: list[Row] = []
        for mode, seeds, what in (("forward", columns, "directions"), ("reverse", rows, "cotangents")):
            once, each = (sum(part.counts[mode][i] for part in whole) for i in (0, 1))
            said.append(Row(mode, plans[mode].cost, mode == chosen, f"{seeds:,} {what} of {each:,}, and {once:,} once"))
        mixed = plans.get("mixed")
        title = f"jacobian of {self.graph.name}: {columns:,} inputs, {rows:,} outputs"
        if mixed is None:
            return CostTable(title, (*said, Row("mixed", None, False, "no waist: everything passes through no value smaller than before and behind")))
        stretches = mixed.stretches()
        names = {plan.first: f"J{i}" for i, plan in enumerate(stretches, 1)}
        products = mixed.cost - sum(plan.cost for plan in stretches)
        waists = ", ".join(f"{x.name} ({x.size:,})" for x in (self.waists[plan.first - 1][1] for plan in stretches[1:]))
        said.append(
            Row("mixed", mixed.cost, chosen == "mixed", f"through {waists}: {mixed.cost - products:,} in the stages, {products:,} in products")
        )
        stages = [self._described(plan, names[plan.first]) for plan in stretches]
        return CostTable(title, tuple(said), tuple(stages), mixed.written(names))

    def _described(self, plan: Plan, name: str) -> str:
        parts = [self.segment(i, i + 1) for i in range(plan.first, plan.last)]
        return f"{name}: {parts[0].columns:,} -> {parts[-1].rows:,}, {plan.mode}, {plan.cost:,}"


def _cost(plan: Plan) -> int:
    return plan.cost


def _cuts(graph: Graph, inputs: int, outputs: int) -> list[tuple[int, Variable]]:
    """The nodes, by position, whose output every path from the first inputs to the first outputs passes."""
    ends = graph.outputs[:outputs]
    _, wanted = needed(graph.nodes, ends)
    carried = set(graph.inputs[:inputs])
    last = dict.fromkeys(ends, len(graph.nodes))
    for position, node in enumerate(graph.nodes):
        if not wanted.isdisjoint(node.outputs) and node.primitive.pulls != () and not carried.isdisjoint(node.inputs):
            floats = [x for x in node.outputs if x.dtype.kind == "f"]
            carried.update(floats)
            for x in node.inputs if floats else ():
                last[x] = max(last.get(x, 0), position)
    ending = Counter(last[x] for x in carried if x in last)
    alive = sum(x in last for x in graph.inputs[:inputs])
    found: list[tuple[int, Variable]] = []
    for position, node in enumerate(graph.nodes):
        fresh = [x for x in node.outputs if x in carried and last.get(x, -1) > position]
        alive += len(fresh) - ending[position]
        if fresh and alive == 1:
            found.append((position, fresh[0]))
    return found
