"""The function that computes everything again in the page when an input is edited: flat JavaScript from `chainrule.view.targets`.

Small programs of scalars only: of others the page says nothing of editing.
"""

from __future__ import annotations

import json

from chainrule.core.errors import ChainruleError
from chainrule.view.explorer.data import Facts
from chainrule.view.source import listed
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
        listing = listed(graph, wrt=[x.name for x in graph.parameters if facts.kinds[x] == "input"])
        text = write(listing)
    except ChainruleError:
        # A gate that JavaScript has no words for.
        return None
    if [node.primitive for node in listing.forward] != [node.primitive for node in facts.nodes]:
        return None
    theirs = [listing.names[x] for node in listing.forward for x in node.outputs]
    mine = [facts.names[x] for node in facts.nodes for x in node.outputs]
    names = {a: b for a, b in zip(theirs, mine, strict=True) if a != b}
    return text if not names else _renamed(text, names)


def _renamed(text: str, names: dict[str, str]) -> str:
    there, back = json.dumps(names), json.dumps({b: a for a, b in names.items()})
    return f"""const recompute = (() => {{
{text}
  const called = (names, found) => Object.fromEntries(Object.entries(found).map(([name, x]) => [names[name] ?? name, x]));
  return (input, put = {{}}) => called({{}}, Object.fromEntries(
    Object.entries(recompute(input, called({back}, put))).map(([key, found]) => [key, called({there}, found)])));
}})();"""
