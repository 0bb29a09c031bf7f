"""The function that computes everything again in the page when an input is edited: flat JavaScript from `chainrule.view.targets`.

Small programs of scalars only: of others the page says nothing of editing.
"""

from __future__ import annotations

from dataclasses import replace

from chainrule.core.errors import ChainruleError
from chainrule.view.explorer.data import Facts
from chainrule.view.targets.javascript import write

LARGEST = 100
"""Programs of more gates are not computed in the page."""


def recompute(facts: Facts) -> str | None:
    """JavaScript that defines ``recompute(input, put)`` as the page calls it; None if the program is too large or has none.

    It gives values, gradients, and local derivatives for each operand of a gate, by name; ``put`` replaces computed values.
    """
    graph = facts.graph
    scalar = all(x.shape == () and x.dtype.kind == "f" for node in graph.nodes for x in (*node.inputs, *node.outputs))
    if not scalar or graph.captured or len(graph.nodes) > LARGEST or any(node.primitive.outputs for node in graph.nodes):
        return None
    try:
        return write(replace(facts.listing, names=facts.flat.names))
    except ChainruleError:
        # A gate that JavaScript has no words for.
        return None
