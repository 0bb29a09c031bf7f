"""Fusion: which gates may run as one loop over the same elements.

A region is a set of elementwise gates of one shape, with reductions of that shape at its end. Regions are data: later
backends make one kernel of each, NumPy's code needs none. A region is convex (no value leaves it and comes back), so
that regions and the gates outside can be put in an order; the order found here is given out too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from chainrule.core.aval import Shape
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

PRODUCTS = ("gemm", "conv", "pool")
"""Kernels of gates behind which elementwise ones may run on results that are in registers."""
NEAR = 64
"""Nodes of the graph between two gates that still run in one loop: what is computed again later would else be computed, and kept, with the first."""
LONG = 256
"""Gates of one loop at most, of single values four times as many: compiling one of very many takes far longer than several loops."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Gates that run as one loop; a gate that fuses with nothing is alone.

    Attributes
    ----------
    nodes : tuple of Operation
        In order.
    inputs : tuple of Variable
        What it reads of others.
    outputs : tuple of Variable
        What others, or the graph's results, read of it.
    shape : tuple of int or None
        Of the loop; None for a gate that is no loop over elements.
    """

    nodes: tuple[Operation, ...]
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    shape: Shape | None


class _Group:
    """A region while it grows, or one that has been merged into another."""

    __slots__ = ("into", "last", "level", "nodes", "shape")

    def __init__(self, level: int, shape: Shape | None) -> None:
        self.level = level
        self.shape = shape
        self.nodes: list[int] = []
        self.last = 0
        self.into: _Group | None = None

    def root(self) -> _Group:
        group = self
        while group.into is not None:
            if group.into.into is not None:
                group.into = group.into.into
            group = group.into
        return group


def regions(graph: Graph) -> tuple[Region, ...]:
    """All gates of a graph as regions, in an order in which they can run.

    Every group has a level, one more than those it reads from, so that groups of one level do not depend on each other: a gate may join
    a group, or join several into one, if they are of one level and all else that it reads comes from lower ones, and if its result does not
    wait in memory for that, where what it is made of is there anyway.
    """
    made: dict[Variable, _Group] = {}
    # Reductions end a loop: who reads them is one level further.
    ended: set[Variable] = set()
    groups: list[_Group] = []
    lives = _Lives(graph)
    for position, node in enumerate(graph.nodes):
        level = max((made[x].root().level + (x in ended) for x in node.inputs if x in made), default=0)
        group = _joined(node, position, level, made, ended, lives)
        if group is None:
            shape = node.output.shape if is_elementwise(node) else None
            above = any(x in made and x not in ended and made[x].root().level == level for x in node.inputs)
            group = _Group(level + above, shape)
            groups.append(group)
        group.nodes.append(position)
        group.last = position
        for x in node.outputs:
            made[x] = group
            if not is_elementwise(node):
                ended.add(x)
    _take_in(graph, groups)
    return _regions(graph, _in_order(graph, [group for group in groups if group.into is None]))


class _Lives:
    """How long values take memory, in gates that are no part of a loop over elements: those between which loops stand."""

    def __init__(self, graph: Graph) -> None:
        maker = {x: node for node in graph.nodes for x in node.outputs}
        self.source = {x: _source(x, maker) for x in maker}
        self.passed = [0]
        self.read: dict[Variable, list[int]] = {}
        for position, node in enumerate(graph.nodes):
            self.passed.append(self.passed[-1] + (not is_elementwise(node) and not is_reduction(node) and node.primitive.kernel != "move"))
            for x in dict.fromkeys(node.inputs):
                self.read.setdefault(self.source.get(x, x), []).append(position)
        for x in graph.outputs:
            self.read.setdefault(self.source.get(x, x), []).append(len(graph.nodes))

    def longer(self, node: Operation, position: int, since: int) -> bool:
        """Whether a gate takes more memory if it runs at a place before its own, for no fewer bytes to be read then."""
        passed = self.passed
        between = passed[position] - passed[since]
        if not between or max(x.nbytes for x in node.inputs) > node.output.nbytes:
            return False
        saved = 0
        for x in dict.fromkeys(self.source.get(x, x) for x in node.inputs):
            # Whoever else reads it last.
            last = next((at for at in self.read[x][:-3:-1] if at != position), since)
            saved += x.nbytes * min(max(passed[position] - passed[last], 0), between)
        return node.output.nbytes * between > saved


def _in_order(graph: Graph, groups: Sequence[_Group]) -> list[_Group]:
    """The groups so that each comes after those it reads from, and otherwise as the graph has them: its order is what keeps memory low."""
    home = {x: number for number, group in enumerate(groups) for position in group.nodes for x in graph.nodes[position].outputs}
    readers: list[set[int]] = [set() for _ in groups]
    missing = [0] * len(groups)
    for number, group in enumerate(groups):
        sources = {home[x] for position in group.nodes for x in graph.nodes[position].inputs if x in home} - {number}
        missing[number] = len(sources)
        for source in sources:
            readers[source].add(number)
    ready = [(group.last, number) for number, group in enumerate(groups) if not missing[number]]
    heapify(ready)
    found: list[_Group] = []
    while ready:
        _, number = heappop(ready)
        found.append(groups[number])
        for reader in readers[number]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, (groups[reader].last, reader))
    return found


def _take_in(graph: Graph, groups: Sequence[_Group]) -> None:
    """Merge groups of elementwise gates into the one that reads them, if there is but one, however much later it runs.

    What a group reads lives longer then, and what it makes is not kept: as long as that is no more memory. One that can run behind a product
    stays there.
    """
    nodes = graph.nodes
    home = {x: group for group in groups for position in group.nodes for x in nodes[position].outputs}
    readers: dict[Variable, dict[_Group, None]] = {}
    for group in groups:
        for position in group.nodes:
            for x in nodes[position].inputs:
                readers.setdefault(x, {})[group] = None
    maker = {x: node for node in nodes for x in node.outputs}
    ends = {*graph.outputs}
    for group in sorted((group for group in groups if group.into is None), key=lambda group: -group.last):
        own = [nodes[position] for position in group.nodes]
        made = [node.output for node in own if is_elementwise(node)]
        found = {reader.root() for x in made for reader in readers.get(x, ())} - {group}
        if len(made) < len(own) or len(found) != 1 or any(x in ends for x in made):
            continue
        (reader,) = found
        given = dict.fromkeys(x for node in own for x in node.inputs if x in maker and home[x].root() is not group)
        alone = [x for x in given if all(other.root() is group for other in readers[x])]
        if not _spreads(group, reader) or any(maker[x].primitive.kernel in PRODUCTS for x in alone):
            continue
        longer = sum(_source(x, maker).nbytes for x in given if all(other.root().last < reader.last for other in readers[x]))
        if longer <= sum(x.nbytes for x in made if any(other.root() is reader for other in readers.get(x, ()))):
            group.into = reader
            reader.nodes += group.nodes


def _spreads(group: _Group, reader: _Group) -> bool:
    """Whether a loop over the reader's elements can compute those of a group, too, and does so once, or once for a row."""
    if group.shape is None or reader.shape is None or _long(len(group.nodes) + len(reader.nodes), group.shape):
        return False
    if math.prod(group.shape) == 1:
        return len(group.shape) <= len(reader.shape)
    return group.shape == reader.shape or (len(group.shape) == len(reader.shape) and group.shape == (*reader.shape[:-1], 1))


def _long(count: int, shape: Shape) -> bool:
    """Whether these are more gates than a loop may have."""
    return count > LONG * (4 if math.prod(shape) == 1 else 1)


def _source(x: Variable, maker: Mapping[Variable, Operation]) -> Variable:
    """In whose memory a value may lie."""
    while x in maker and maker[x].primitive.kernel == "move" and len(maker[x].inputs) == 1:
        x = maker[x].inputs[0]
    return x


def is_elementwise(node: Operation) -> bool:
    """Whether every element of the result depends on the elements in its place alone."""
    return node.primitive.scalar is not None and not node.primitive.outputs


def is_reduction(node: Operation) -> bool:
    """Whether the gate summarises one array."""
    return node.primitive.kernel == "reduce" and len(node.inputs) == 1 and not node.primitive.outputs


def _joined(node: Operation, position: int, level: int, made: dict[Variable, _Group], ended: set[Variable], lives: _Lives) -> _Group | None:
    """The group that a node can join, merged from all of its level that it reads; None if there is none."""
    if is_elementwise(node):
        shape = node.output.shape
    elif is_reduction(node):
        shape = node.inputs[0].shape
    else:
        return None
    found: dict[_Group, None] = {}
    for x in node.inputs:
        if x not in made or made[x].root().level + (x in ended) < level:
            continue
        group = made[x].root()
        if x in ended or group.shape != shape or position - group.last > NEAR:
            return None
        found[group] = None
    if not found or _long(1 + sum(len(group.nodes) for group in found), shape) or lives.longer(node, position, max(group.last for group in found)):
        return None
    first, *others = found
    for other in others:
        other.into = first
        first.nodes += other.nodes
        first.last = max(first.last, other.last)
    return first


def _regions(graph: Graph, groups: Sequence[_Group]) -> tuple[Region, ...]:
    readers: dict[Variable, set[int]] = {}
    home: dict[Variable, int] = {}
    for number, group in enumerate(groups):
        for position in group.nodes:
            for x in graph.nodes[position].inputs:
                readers.setdefault(x, set()).add(number)
            for x in graph.nodes[position].outputs:
                home[x] = number
    ends = set(graph.outputs)
    found: list[Region] = []
    for number, group in enumerate(groups):
        nodes = tuple(graph.nodes[position] for position in sorted(group.nodes))
        inputs = dict.fromkeys(x for node in nodes for x in node.inputs if home.get(x) != number)
        outputs = [x for node in nodes for x in node.outputs if x in ends or readers.get(x, set()) - {number}]
        found.append(Region(nodes, tuple(inputs), tuple(outputs), group.shape))
    return tuple(found)
