"""Memory: how long every value lives, and where it is written.

Values that are large and stay inside are packed into one arena whose layout is fixed beforehand; a gate writes over an
operand that nobody needs any more; a result may take over the memory of the input whose successor it is. What leaves
the step never lies in the arena, nor does anything that shares memory with it. Small values are not planned: NumPy's
own cache of small blocks is faster.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

LARGE = 1 << 15
"""Bytes from which on it pays to plan where a value is written."""

ALIGNMENT = 64


def is_large(x: Variable) -> bool:
    """Whether it is planned where ``x`` is written."""
    return x.shape != () and x.nbytes >= LARGE


class Traits(NamedTuple):
    """What a backend knows of the way it will compute a gate.

    Attributes
    ----------
    fresh : bool
        The values lie in new memory that nothing else holds; if not, they may share that of any input.
    into : bool
        The value can be written to memory that is given.
    over : tuple of int
        Inputs (of the result's shape and dtype) over which it can be written while they are read.
    raises : bool
        It may fail, depending on the values.
    """

    fresh: bool = False
    into: bool = False
    over: tuple[int, ...] = ()
    raises: bool = True


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory that one value after the other is written to.

    Attributes
    ----------
    nbytes : int
    start, end : int
        Positions of the nodes between which it is in use.
    leaves : bool
        Whether what lies in it last is a result.
    donor : Variable or None
        The input whose memory it takes over, if that belongs to nobody else.
    offset : int or None
        Where it lies in the arena; None: in memory of its own.
    values : list of Variable
    """

    nbytes: int
    start: int
    end: int
    leaves: bool = False
    donor: Variable | None = None
    offset: int | None = None
    values: list[Variable] = field(default_factory=list[Variable])


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where values lie.

    Attributes
    ----------
    buffers : Mapping of Variable to Buffer
        Of the values that are planned.
    over : Mapping of Variable to Variable
        Values that are written over an operand.
    arena_bytes : int
    unplanned_bytes : int
        What the arena would take if every value in it had memory of its own.
    dead : list of list of Variable
        Per node the values that can be let go after it: large ones that are not in the arena.
    """

    buffers: Mapping[Variable, Buffer]
    over: Mapping[Variable, Variable]
    arena_bytes: int
    unplanned_bytes: int
    dead: list[list[Variable]]


def plan_memory(graph: Graph, traits: Callable[[Operation], Traits], donate: Mapping[int, int], *, arena: bool = True) -> Layout:
    """Lay out the values of a graph.

    Parameters
    ----------
    graph : Graph
    traits : callable
        What the backend knows of a node.
    donate : Mapping of int to int
        Per output the input whose memory it may take over.
    arena : bool
        Whether there is one; without, only memory of results and operands is used again.
    """
    return _Planner(graph, traits, donate).layout(arena)


class _Planner:
    def __init__(self, graph: Graph, traits: Callable[[Operation], Traits], donate: Mapping[int, int]) -> None:
        self.graph = graph
        self.kept = {*graph.inputs, *graph.constants}
        self.traits = [traits(node) for node in graph.nodes]
        self.roots = _roots(graph, self.traits)
        self.last = self._last_uses()
        self.buffers: dict[Variable, Buffer] = {}
        self.over: dict[Variable, Variable] = {}
        # A step that fails must have changed nothing.
        self.safe_from = max((i + 1 for i, trait in enumerate(self.traits) if trait.raises), default=0)
        self.donors = self._donors(donate)

    def _last_uses(self) -> dict[Variable, int]:
        """Per owner of memory the last node that reads it, under whatever name."""
        last: dict[Variable, int] = {}
        for position, node in enumerate(self.graph.nodes):
            for x in (*node.inputs, *node.outputs):
                for root in self.roots[x]:
                    last[root] = position
        forever = len(self.graph.nodes)
        for x in self.graph.outputs:
            for root in self.roots[x]:
                last[root] = forever
        return last

    def _donors(self, donate: Mapping[int, int]) -> dict[Variable, Variable]:
        graph = self.graph
        found: dict[Variable, Variable] = {}
        for out, given in donate.items():
            x, y = graph.inputs[given], graph.outputs[out]
            alone = graph.outputs.count(y) == 1 and x not in found.values()
            if alone and x.aval == y.aval and is_large(x) and self.roots[y] == (y,):
                found[y] = x
        return found

    def layout(self, arena: bool) -> Layout:
        for position, node in enumerate(self.graph.nodes):
            if len(node.outputs) == 1 and is_large(node.output) and self.traits[position].fresh:
                self._place(position, node, self.traits[position])
        owned = dict.fromkeys(self.buffers.values())
        inside = [b for b in owned if self._in_arena(b)] if arena else []
        size = pack(inside)
        return Layout(self.buffers, self.over, size, sum(_padded(b.nbytes) for b in inside), self._dead())

    def _place(self, position: int, node: Operation, trait: Traits) -> None:
        """Write over an operand or an input that is done with, or to new memory."""
        out = node.output
        donor = self.donors.get(out)
        end = self.last[out]
        free = [node.inputs[i] for i in trait.over if self._done(node.inputs[i], out, position)]
        if donor is not None and trait.into and self._takes_over(donor, position, trait):
            # Memory of an earlier link of the chain will do, if it can be the donor's too.
            earlier = next((self.buffers[x] for x in free if self._may_become(self.buffers.get(x), donor)), None)
            if earlier is None:
                self.buffers[out] = Buffer(out.nbytes, position, end, leaves=True, donor=donor, values=[out])
                return
            earlier.donor = donor
            free = [x for x in free if self.buffers.get(x) is earlier]
        if trait.into and free:
            buffer = self.buffers[free[0]]
            buffer.end = end
            buffer.leaves = end == len(self.graph.nodes)
            buffer.values.append(out)
            self.buffers[out] = buffer
            self.over[out] = free[0]
            return
        self.buffers[out] = Buffer(out.nbytes, position, end, leaves=end == len(self.graph.nodes), values=[out])

    def _done(self, x: Variable, out: Variable, position: int) -> bool:
        """Whether ``x`` lies in memory that is planned, and nobody needs it, or what shares it, beside or after this node."""
        buffer = self.buffers.get(x)
        if buffer is None or x.aval != out.aval or self.last[x] != position or buffer.values[-1] is not x:
            return False
        return all(y is x or x not in self.roots[y] for y in self.graph.nodes[position].inputs)

    def _takes_over(self, donor: Variable, position: int, trait: Traits) -> bool:
        last = self.last.get(donor, -1)
        if position < self.safe_from or last > position:
            return False
        if last < position:
            return True
        # Read by this very node: element by element, under its own name.
        inputs = self.graph.nodes[position].inputs
        return all(x is donor and i in trait.over for i, x in enumerate(inputs) if donor in self.roots[x])

    def _may_become(self, buffer: Buffer | None, donor: Variable) -> bool:
        return (
            buffer is not None
            and buffer.donor is None
            and self.traits[buffer.start].into
            and self._takes_over(donor, buffer.start, self.traits[buffer.start])
        )

    def _in_arena(self, buffer: Buffer) -> bool:
        return not buffer.leaves and buffer.donor is None and self.traits[buffer.start].into

    def _dead(self) -> list[list[Variable]]:
        """Values outside of the arena, by the node after which nobody needs them or what shares their memory."""
        found: list[list[Variable]] = [[] for _ in self.graph.nodes]
        uses: dict[Variable, int] = {}
        for position, node in enumerate(self.graph.nodes):
            for x in (*node.inputs, *node.outputs):
                uses[x] = position
        ends = set(self.graph.outputs)
        for node in self.graph.nodes:
            for x in node.outputs:
                if x in ends or x.nbytes < _WORTH_LETTING_GO or all(self._stays(root) for root in self.roots[x]):
                    continue
                buffer = self.buffers.get(x)
                if buffer is None:
                    found[uses[x]].append(x)
                elif buffer.offset is None and buffer.values[-1] is x:
                    found[uses[x]].extend(buffer.values)
        return found

    def _stays(self, root: Variable) -> bool:
        """Whether letting go of it frees nothing."""
        buffer = self.buffers.get(root)
        return root in self.kept or (buffer is not None and buffer.offset is not None)


_WORTH_LETTING_GO = 1 << 12


def _roots(graph: Graph, traits: list[Traits]) -> dict[Variable, tuple[Variable, ...]]:
    """Per value those whose memory it may lie in."""
    roots: dict[Variable, tuple[Variable, ...]] = {x: (x,) for x in (*graph.inputs, *graph.constants)}
    for node, trait in zip(graph.nodes, traits, strict=True):
        if trait.fresh:
            roots.update((x, (x,)) for x in node.outputs)
        elif node.primitive.kernel == "move" and len(node.inputs) == 1:
            roots.update((x, roots[node.inputs[0]]) for x in node.outputs)
        else:
            # It may share memory, or be new.
            shared = tuple(dict.fromkeys(root for x in node.inputs for root in roots[x]))
            roots.update((x, (*shared, x)) for x in node.outputs)
    return roots


# The arena.


def pack(buffers: list[Buffer], alignment: int = ALIGNMENT) -> int:
    """Give every buffer a place in the arena, the smallest gap that holds it; returns the arena's size.

    Buffers that are in use at the same time do not overlap.
    """
    gaps = _Gaps()
    ending: dict[int, list[Buffer]] = {}
    moments = sorted({b.start for b in buffers} | {b.end for b in buffers})
    starting: dict[int, list[Buffer]] = {}
    for buffer in buffers:
        starting.setdefault(buffer.start, []).append(buffer)
        ending.setdefault(buffer.end, []).append(buffer)
    for moment in moments:
        # What a node reads is in use while it writes.
        for buffer in starting.get(moment, ()):
            buffer.offset = gaps.take(_padded(buffer.nbytes, alignment))
        for buffer in ending.get(moment, ()):
            assert buffer.offset is not None
            gaps.give(buffer.offset, _padded(buffer.nbytes, alignment))
    return gaps.size


def _padded(nbytes: int, alignment: int = ALIGNMENT) -> int:
    return -(-nbytes // alignment) * alignment


class _Gaps:
    """The free parts of an arena that grows: by size for the search, by both ends to join neighbours."""

    def __init__(self) -> None:
        self.size = 0
        self._by_size: list[tuple[int, int]] = []
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def take(self, nbytes: int) -> int:
        if not nbytes:
            return 0
        place = bisect_left(self._by_size, (nbytes, -1))
        if place < len(self._by_size):
            size, offset = self._by_size[place]
            self._remove(offset, size)
            if size > nbytes:
                self._add(offset + nbytes, size - nbytes)
            return offset
        # A gap at the end need only be made longer.
        offset = self._ends.get(self.size, self.size)
        if offset < self.size:
            self._remove(offset, self.size - offset)
        self.size = offset + nbytes
        return offset

    def give(self, offset: int, size: int) -> None:
        if not size:
            # A gap of no size would stand where another one begins.
            return
        if offset in self._ends:
            before = self._ends[offset]
            self._remove(before, offset - before)
            offset, size = before, size + offset - before
        if offset + size in self._starts:
            after = self._starts[offset + size]
            self._remove(offset + size, after)
            size += after
        self._add(offset, size)

    def _add(self, offset: int, size: int) -> None:
        insort(self._by_size, (size, offset))
        self._starts[offset] = size
        self._ends[offset + size] = offset

    def _remove(self, offset: int, size: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, offset))]
        del self._starts[offset]
        del self._ends[offset + size]
