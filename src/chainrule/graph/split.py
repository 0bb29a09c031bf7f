"""Splitting a graph in two by what is known when: what can run at once, and what has to wait for some inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from chainrule.core.errors import ArgumentError
from chainrule.core.variable import Variable
from chainrule.graph.inner import flat, needed
from chainrule.graph.ir import Graph, Operation


def split(graph: Graph, late: Iterable[int], outputs: Collection[int] | None = None) -> tuple[Graph, Graph, tuple[Variable, ...]]:
    """Two graphs that together are one: the second has all that depends on the inputs at ``late``.

    Nodes that no output needs go to neither.

    Parameters
    ----------
    graph : Graph
        Captured inputs are inputs like others here.
    late : iterable of int
        Positions of the inputs that are known later.
    outputs : collection of int, optional
        Positions of the outputs that the second graph gives; those that depend on late inputs if not given.

    Returns
    -------
    early : Graph
        From the other inputs to the other outputs and, after them, the residuals.
    late : Graph
        From the residuals and, after them, the late inputs to its outputs.
    residuals : tuple of Variable
        What the second graph reads of the first.

    Raises
    ------
    ArgumentError
        If an output that the first graph should give depends on a late input.
    """
    positions = set(late)
    waiting = [x for i, x in enumerate(graph.inputs) if i in positions]
    dependent = set(waiting)
    first: list[Operation] = []
    second: list[Operation] = []
    for node in graph.nodes:
        if dependent.isdisjoint(node.inputs):
            first.append(node)
        else:
            second.append(node)
            dependent.update(node.outputs)
    chosen = {i for i, x in enumerate(graph.outputs) if x in dependent} if outputs is None else set(outputs)
    ends = [x for i, x in enumerate(graph.outputs) if i in chosen]
    given = [x for i, x in enumerate(graph.outputs) if i not in chosen]
    if not dependent.isdisjoint(given):
        raise ArgumentError(f"split of {graph.name}: a first output depends on a late input", mend="let the second graph give it")
    second = list(needed(second, ends)[0])
    read = dict.fromkeys(x for node in second for x in node.inputs) | dict.fromkeys(ends)
    residuals = tuple(x for x in read if x not in dependent and x not in graph.constants)
    sooner = [x for i, x in enumerate(graph.inputs) if i not in positions]
    early = flat(f"{graph.name}_early", sooner, first, [*given, *residuals], graph.constants)
    return early, flat(f"{graph.name}_late", [*residuals, *waiting], second, ends, graph.constants), residuals


def without(graph: Graph, seeds: Collection[Variable], missing: Collection[Variable], outputs: Iterable[int]) -> Graph:
    """Some outputs of a graph that is linear in its inputs ``seeds``, where ``missing`` ones of them are zero and no inputs any more.

    What depends on nothing else is left out, as in a backward pass that never goes there: no zero is multiplied.
    """
    dependent, nothing = set(seeds), set(missing)
    constants = dict(graph.constants)
    now: dict[Variable, Variable] = {}
    nodes: list[Operation] = []

    def value(x: Variable) -> Variable:
        if x in nothing:
            now[x] = zero = now.get(x) or Variable(x.aval)
            constants[zero] = np.zeros(x.shape, x.dtype)[()]
        return now.get(x, x)

    for node in graph.nodes if nothing else ():
        reached = [x for x in node.inputs if x in dependent]
        others = [x for x in node.inputs if x not in nothing]
        if reached:
            dependent.update(node.outputs)
        if node.primitive.name == "add" and len(others) == 1 and others[0].aval == node.output.aval:
            now[node.output] = value(others[0])
        elif reached and nothing.issuperset(reached):
            nothing.update(node.outputs)
        else:
            nodes.append(replace(node, inputs=tuple(map(value, node.inputs))))
    ends = [value(graph.outputs[i]) for i in outputs]
    return flat(graph.name, (x for x in graph.inputs if x not in missing), nodes if nothing else graph.nodes, ends, constants)
