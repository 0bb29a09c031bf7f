"""The plan: the steps of a compiled graph in order, and where each writes its result. Every backend prints or runs this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from chainrule.compiler.memory import Buffer, Layout, Traits, plan_memory
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation


class New(NamedTuple):
    """In new memory."""


class Arena(NamedTuple):
    """At a fixed place in the arena."""

    offset: int


class Over(NamedTuple):
    """Over an operand."""

    operand: Variable


class Taken(NamedTuple):
    """In the memory of an input, if that belongs to nobody else; otherwise in new memory."""

    donor: Variable


Place = New | Arena | Over | Taken


class Step(NamedTuple):
    """One gate.

    Attributes
    ----------
    node : Operation
    place : New, Arena, Over or Taken
    dead : tuple of Variable
        What can be let go afterwards.
    """

    node: Operation
    place: Place
    dead: tuple[Variable, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A compiled graph before it is printed.

    Attributes
    ----------
    graph : Graph
    steps : tuple of Step
    arena_bytes : int
    unplanned_bytes : int
        What the arena would take if every value in it had memory of its own.
    """

    graph: Graph
    steps: tuple[Step, ...]
    arena_bytes: int
    unplanned_bytes: int

    @property
    def donors(self) -> tuple[Variable, ...]:
        """Inputs whose memory is taken over if it can be."""
        return tuple(dict.fromkeys(step.place.donor for step in self.steps if isinstance(step.place, Taken)))


def make_plan(graph: Graph, traits: Callable[[Operation], Traits], donate: Mapping[int, int], *, arena: bool = True) -> Plan:
    """Decide where every step writes.

    Parameters
    ----------
    graph : Graph
    traits : callable
        What the backend knows of a node.
    donate : Mapping of int to int
        Per output the input whose memory it may take over.
    arena : bool
        Whether values may lie in an arena.
    """
    layout = plan_memory(graph, traits, donate, arena=arena)
    steps = tuple(Step(node, _place(node, layout), tuple(dead)) for node, dead in zip(graph.nodes, layout.dead, strict=True))
    return Plan(graph, steps, layout.arena_bytes, layout.unplanned_bytes)


def _place(node: Operation, layout: Layout) -> Place:
    out = node.outputs[0]
    buffer: Buffer | None = layout.buffers.get(out)
    if buffer is None:
        return New()
    if out in layout.over:
        return Over(layout.over[out])
    if buffer.offset is not None:
        return Arena(buffer.offset)
    return New() if buffer.donor is None else Taken(buffer.donor)
