"""Simplify: the same values from fewer gates."""

from __future__ import annotations

from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation


def simplify(graph: Graph) -> Graph:
    """The graph without what no output depends on."""
    wanted: set[Variable] = set(graph.outputs)
    kept: list[Operation] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    constants = {x: value for x, value in graph.constants.items() if x in wanted}
    return graph.with_nodes(kept[::-1], graph.outputs, constants)
