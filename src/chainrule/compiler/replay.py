"""Schedules: the nodes of a graph in the order in which they run, some of them more than once.

A schedule is a list of positions. Every node reads the latest version of each of its operands, so what a schedule keeps, lets go and
computes again follows from the order alone: a version lives until its last reader. Here that is counted, and the schedule
written as a graph; which schedule is good is decided in `remat`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from itertools import accumulate

from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

VIEWS = frozenset(("reshape", "broadcast_to", "permute_dims", "flip", "getitem", "unstack", "split", "stop_gradient", "positive"))
"""Gates whose value lies in the memory of their operand."""

_BLOCK = 1_350_000
SCRATCH = {
    **dict.fromkeys(("conv", "conv_transpose", "conv_weight"), (12.0, _BLOCK)),
    **dict.fromkeys(("random_bits",), (4.7, _BLOCK)),
    **dict.fromkeys(("var", "std", "logsumexp"), (2.0, None)),
    **dict.fromkeys(("log_softmax", "standardize", "softmax_cross_entropy", "sigmoid", "sort", "scatter_add"), (1.0, None)),
    **dict.fromkeys(("erf", "max_pool", "max_pool_spread", "scatter_along_axis"), (0.7, None)),
    "argsort": (1.3, None),
}
"""What gates need for themselves while they run: a multiple of the larger of what they read and make, up to the size of the blocks that they work in.

Measured, for gates that need much.
"""


class Program:
    """A graph in numbers, for counting.

    Parameters
    ----------
    graph : Graph
    cost : callable
        Seconds, or any other unit, that a node takes.
    donate : Mapping of int to int
        Per output the input whose memory it takes over, if nothing reads that any more.

    Attributes
    ----------
    reads, writes : list of tuple of int
        Per node the values that it reads, each once, and that it makes. Inputs and constants are among them.
    nbytes : list of int
        Per value; 0 for inputs, constants and views, which take no memory of their own.
    root : list of int
        Per value the one in whose memory it lies: itself but for views.
    maker : list of int
        Per value the node that makes it; -1 for inputs and constants.
    results : list of int
        Values that leave the graph.
    cost : list of float
        Per node.
    scratch : list of int
        Bytes that a node needs for itself while it runs.
    donors : dict of int to int
        Per result the input whose memory it takes over.
    origin : list of int
        Per node its position in the graph.
    """

    def __init__(self, graph: Graph, cost: Callable[[Operation], float], donate: Mapping[int, int]) -> None:
        self.graph = graph
        free = (*graph.inputs, *graph.constants)
        numbers = {x: i for i, x in enumerate(free)}
        self.nbytes = [0] * len(free)
        self.root = list(range(len(free)))
        self.maker = [-1] * len(free)
        self.reads: list[tuple[int, ...]] = []
        self.writes: list[tuple[int, ...]] = []
        for position, node in enumerate(graph.nodes):
            self.reads.append(tuple(dict.fromkeys(numbers[x] for x in node.inputs)))
            views = node.primitive.name in VIEWS
            for x in node.outputs:
                numbers[x] = len(self.root)
                self.root.append(self.root[numbers[node.inputs[0]]] if views else len(self.root))
                self.nbytes.append(0 if views else x.nbytes)
                self.maker.append(position)
            self.writes.append(tuple(numbers[x] for x in node.outputs))
        self.results = [numbers[x] for x in dict.fromkeys(graph.outputs) if self.maker[numbers[x]] >= 0]
        self.cost = [cost(node) for node in graph.nodes]
        self.scratch = [_scratch(node) for node in graph.nodes]
        self.origin = list(range(len(self.cost)))
        self.donors = {numbers[graph.outputs[out]]: numbers[graph.inputs[given]] for out, given in donate.items()}

    def __len__(self) -> int:
        return len(self.reads)

    def unfolded(self, order: Sequence[int]) -> Program:
        """The program in which what runs again is a node like others."""
        made = copy(self)
        free = self.maker.count(-1)
        made.nbytes, made.root, made.maker = self.nbytes[:free], self.root[:free], self.maker[:free]
        made.reads, made.writes = [], []
        current = list(range(len(self.root)))
        for step, node in enumerate(order):
            made.reads.append(tuple(current[x] for x in self.reads[node]))
            for x in self.writes[node]:
                current[x] = len(made.root)
                made.root.append(current[x] if self.root[x] == x else made.root[made.reads[-1][0]])
                made.nbytes.append(self.nbytes[x])
                made.maker.append(step)
            made.writes.append(tuple(current[x] for x in self.writes[node]))
        made.results = [current[x] for x in self.results]
        made.donors = {current[x]: given for x, given in self.donors.items()}
        made.cost = [self.cost[node] for node in order]
        made.scratch = [self.scratch[node] for node in order]
        made.origin = [self.origin[node] for node in order]
        return made

    def without_waste(self, order: Sequence[int]) -> list[int]:
        """The schedule without versions that nothing reads."""
        current = [-1] * len(self.root)
        sources: list[list[int]] = []
        for step, node in enumerate(order):
            sources.append([current[x] for x in self.reads[node]])
            for x in self.writes[node]:
                current[x] = step
        needed = bytearray(len(order) + 1)
        for x in self.results:
            needed[current[x]] = 1
        for step in range(len(order) - 1, -1, -1):
            if needed[step]:
                for source in sources[step]:
                    # Inputs are at -1, the place behind the last.
                    needed[source] = 1
        return [node for step, node in enumerate(order) if needed[step]]

    def live(self, order: Sequence[int]) -> list[int]:
        """Bytes that are held at every step, its own results included.

        What counts: every value that a node makes, from then to its last reader, results to the end, and what gates need for
        themselves (`SCRATCH`). What does not: inputs, constants, results in the memory of an input, and views beside what they are views of.
        """
        # Version 0 stands for all that takes no memory.
        current = [0] * len(self.root)
        base = [0]
        last = [0]
        born = [0]
        sizes = [0]
        donors = dict.fromkeys(self.donors.values(), -1)
        for step, node in enumerate(order):
            for x in self.reads[node]:
                last[base[current[x]]] = step
                if x in donors:
                    donors[x] = step
            for x in self.writes[node]:
                own = self.root[x] == x
                base.append(len(base) if own else base[current[self.reads[node][0]]])
                current[x] = len(base) - 1
                last.append(step)
                born.append(step)
                sizes.append(self.nbytes[x])
        end = len(order)
        for x in self.results:
            version = base[current[x]]
            last[version] = end
            if x in self.donors and base[current[x]] == current[x] and donors[self.donors[x]] <= born[version]:
                sizes[version] = 0
        change = [0] * (end + 2)
        for version in range(1, len(base)):
            change[born[version]] += sizes[version]
            change[last[version] + 1] -= sizes[version]
        return [held + self.scratch[node] for held, node in zip(accumulate(change[:end]), order, strict=True)]

    def peak(self, order: Sequence[int]) -> int:
        """The most bytes held at once."""
        return max(self.live(order), default=0)

    def seconds(self, order: Iterable[int]) -> float:
        """What the schedule costs."""
        return sum(self.cost[node] for node in order)

    def write(self, order: Sequence[int]) -> Graph:
        """The graph that runs this schedule: what runs again has variables of its own."""
        graph = self.graph
        now: dict[Variable, Variable] = {}
        nodes: list[Operation] = []
        seen = bytearray(len(self))
        for position in order:
            node = graph.nodes[position]
            outputs = tuple(Variable(x.aval, x.name) for x in node.outputs) if seen[position] else node.outputs
            inputs = tuple(now.get(x, x) for x in node.inputs)
            if seen[position] or inputs != node.inputs:
                node = Operation(node.primitive, inputs, node.params, outputs, node.scope, node.line)
            seen[position] = 1
            now.update(zip(graph.nodes[position].outputs, outputs, strict=True))
            nodes.append(node)
        return graph.with_nodes(nodes, [now.get(x, x) for x in graph.outputs])


def _scratch(node: Operation) -> int:
    factor, most = SCRATCH.get(node.primitive.name, (0.0, None))
    needed = int(factor * max(sum(x.nbytes for x in node.inputs), sum(x.nbytes for x in node.outputs))) if factor else 0
    return needed if most is None else min(needed, most)
