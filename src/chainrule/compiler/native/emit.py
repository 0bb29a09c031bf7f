"""A graph as machine code, before it is loaded: its modules, and what their functions expect to find where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from chainrule.compiler.memory import pack
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.flow import Flow
from chainrule.compiler.native.in_place import in_place
from chainrule.compiler.native.lower import Code, Lowering
from chainrule.compiler.native.space import debugging, spread
from chainrule.compiler.native.step import Block, Segment, Step, lifetimes, write_steps
from chainrule.compiler.native.tasks import CallBack
from chainrule.compiler.native.views import View, whole
from chainrule.core.aval import Aval, Shape
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["Program", "emit"]

SMALL = 60_000
"""Operations below which one thread is quicker than several."""


class Program(NamedTuple):
    """A graph as machine code, not yet loaded.

    Attributes
    ----------
    text : str
        The module with the steps.
    loops : str
        A module of kernels that the steps call; its loops are still to be made vectors.
    constants : Mapping of Variable to array
        The graph's, and those of kernels.
    parts : tuple of Segment or CallBack
        In the order in which they run.
    slots, places : Mapping of Variable to int
        Where values lie (see `Block`).
    arena_bytes, unplanned_bytes : int
    views : Mapping of Variable to View
        How what is called back finds its values.
    results : tuple of Variable
        Per output of the graph the value whose memory is given out: one that was made for it, an input, or a constant.
    shapes : Mapping of Variable to tuple of int
        In which shape it is given out, where it was made.
    gates : Mapping of str to tuple of Operation
        Per kernel what it computes.
    donors : Mapping of Variable to Variable
        Per result the input whose memory it may be given.
    """

    text: str
    loops: str
    constants: Mapping[Variable, Any]
    parts: tuple[Segment | CallBack, ...]
    slots: Mapping[Variable, int]
    places: Mapping[Variable, int]
    arena_bytes: int
    unplanned_bytes: int
    views: Mapping[Variable, View]
    results: tuple[Variable, ...]
    shapes: Mapping[Variable, Shape]
    gates: Mapping[str, tuple[Operation, ...]]
    donors: Mapping[Variable, Variable]

    @property
    def shown(self) -> str:
        """All that runs, as text."""
        return self.text + self.loops

    @property
    def called_back(self) -> dict[str, int]:
        """How often a call runs which gates in Python."""
        return dict(Counter(part.node.primitive.name for part in self.parts if isinstance(part, CallBack)))


def emit(graph: Graph, target: Target, *, donate: Mapping[int, int] = MappingProxyType({}), step: Callable[..., Step] | None = None) -> Program:
    """Write a graph as machine code.

    Parameters
    ----------
    graph : Graph
    target : Target
    donate : Mapping of int to int
        Per output the input whose memory it may take over.
    step : callable, optional
        Makes what writes a function of the step (see `write_steps`).
    """
    code = Code(target)
    lowering = Flow(graph, code, {x: whole(x) for x in graph.inputs}).run()
    results, shapes = _results(graph, lowering)
    slots = {x: i for i, x in enumerate(dict.fromkeys((*graph.inputs, *code.constants, *results)))}
    inside = {x: buffer for x, buffer in lifetimes(lowering.tasks, results, lowering.views, code.status).items() if x not in slots}
    size = pack(list(inside.values()))
    places = {x: buffer.offset or 0 for x, buffer in inside.items()}
    if debugging():
        places, size = spread(inside)
    tasks, donors = in_place(lowering.tasks, _donors(graph, results, shapes, donate), code.status)
    parts = write_steps(code.module, tasks, Block(slots, places, code.status, donors), shared=code.work > SMALL, step=step)
    loops = code.loops.text() if code.loops.functions else ""
    unplanned = sum(x.nbytes for x in inside)
    text, views = code.module.text(*(part.name for part in parts if isinstance(part, Segment))), lowering.views
    return Program(text, loops, code.constants, parts, slots, places, size, unplanned, views, results, shapes, code.gates, donors)


def _donors(graph: Graph, results: Sequence[Variable], shapes: Mapping[Variable, Shape], donate: Mapping[int, int]) -> Mapping[Variable, Variable]:
    """Per result the input whose array it could be; values without axes have none."""
    pairs = {results[out]: graph.inputs[given] for out, given in donate.items() if results[out] in shapes}
    return {out: x for out, x in pairs.items() if x.shape and x not in results and Aval(shapes[out], out.dtype) == x.aval}


def _results(graph: Graph, lowering: Lowering) -> tuple[tuple[Variable, ...], dict[Variable, Shape]]:
    """Per output whose memory is given out, and in what shape; what does not lie in memory of its own is copied there."""
    given = {*graph.inputs, *lowering.code.constants}
    results: list[Variable] = []
    shapes: dict[Variable, Shape] = {}
    for x in graph.outputs:
        view = lowering.views[x]
        own = view.root
        if x not in given:
            if own in given or not view.whole or shapes.get(own, x.shape) != x.shape:
                own = Variable(x.aval, f"{x.name}_result")
                lowering.store_as(own, x, view)
            shapes[own] = x.shape
        results.append(own)
    return tuple(results), shapes
