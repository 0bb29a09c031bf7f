"""The function that computes everything again in the page when an input is edited: flat JavaScript from `chainrule.view.targets`.

Of scalars it tells local derivatives; of tensors, what every gate sends to its operands. Where the program is too large, or a gate has no
words in JavaScript, there is none, and the page says nothing of editing.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from chainrule.core import tree
from chainrule.core.errors import ChainruleError
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.view.explorer.data import KEPT, Facts
from chainrule.view.source import Listing, listed
from chainrule.view.targets.javascript import write

SCALARS = 100
"""Programs of more gates are not computed with local derivatives."""
TENSORS = 300
"""Programs of more gates are not computed in the page."""
ELEMENTS = 20_000
"""Nor are programs whose values have more elements in all."""
LONGEST = 1_000_000
"""Nor are those that take more characters."""


def recompute(facts: Facts) -> str | None:
    """JavaScript that defines ``recompute(input, put)`` as the page calls it; None if the program is too large or has none.

    It gives values and gradients by name. Programs of scalars give numbers, and ``local`` per gate, the derivative by each operand; others
    give flat lists, and ``down`` per gate, the gradient sent to each operand. ``put`` replaces computed values.
    """
    graph = facts.graph
    values = [*facts.leaves, *(x for node in graph.nodes for x in node.outputs)]
    scalar = all(x.shape == () and x.dtype.kind == "f" for node in graph.nodes for x in (*node.inputs, *node.outputs))
    try:
        if scalar and not graph.captured and len(graph.nodes) <= SCALARS and not any(node.primitive.outputs for node in graph.nodes):
            return write(replace(facts.listing, names=facts.flat.names))
        small = sum(x.size for x in values) <= ELEMENTS and all(x.size <= KEPT for x in facts.leaves)
        if not small or len(graph.nodes) > TENSORS or any(x.dtype.kind == "c" for x in values):
            return None
        text = _tensors(facts)
    except ChainruleError:
        # A gate that JavaScript has no words for.
        return None
    return text if len(text) <= LONGEST else None


def _tensors(facts: Facts) -> str:
    """With an identity on each wire of a branch, whose gradient is what the gate behind it sends."""
    wired, ends = _wired(facts)
    listing = listed(wired, wrt=[x.name for x in wired.inputs if x in facts.done.tracked], whole=True)
    there = dict(zip(wired.inputs, listing.graph.inputs, strict=True))
    there.update((x, y) for a, b in zip(wired.nodes, listing.forward, strict=True) for x, y in zip(a.outputs, b.outputs, strict=True))
    names = _names(facts, listing, there)
    sent = {
        facts.ids[place]: [_sent(facts, listing, names, there, place, slot, ends) for slot in range(len(facts.slots[place]))]
        for place in range(len(facts.nodes))
    }
    text = write(replace(listing, names=names), local=False).replace("\n", "\n  ")
    shown = json.dumps([facts.names[x] for x in (*facts.leaves, *facts.makers)], ensure_ascii=False)
    return f"""const recompute = (() => {{
  {text}
  const list = (x) => (x === undefined ? null : typeof x === "object" ? Array.from(x, Number) : [Number(x)]);
  const shown = {shown};
  const sent = {json.dumps(sent, ensure_ascii=False)};
  return (input, put = {{}}) => {{
    const r = recompute(input, put), of = (found) => Object.fromEntries(shown.filter((x) => x in found).map((x) => [x, list(found[x])]));
    const down = Object.fromEntries(Object.entries(sent).map(([gate, names]) => [gate, names.map((x) => (x === null ? null : list(r.grad[x])))]));
    return {{ value: of({{ ...input, ...r.value }}), grad: of(r.grad), down }};
  }};
}})();"""


def _wired(facts: Facts) -> tuple[Graph, dict[tuple[int, int], Variable]]:
    """The graph whose inputs are all leaves, constants too, and the value that each operand is read from."""
    graph, places = facts.graph, {node: place for place, node in enumerate(facts.nodes)}
    uses = Counter(x for node in graph.nodes for x in node.inputs)
    uses[facts.done.output] += 1
    nodes: list[Operation] = []
    ends: dict[tuple[int, int], Variable] = {}
    for node in graph.nodes:
        given = list(node.inputs)
        for slot, x in enumerate(node.inputs):
            if uses[x] > 1 and x in facts.done.tracked:
                given[slot] = Variable(x.aval, "")
                nodes.append(Operation(TABLE["positive"], (x,), {}, (given[slot],), node.scope, node.line))
        ends.update(((places[node], slot), x) for slot, x in enumerate(given) if node in places)
        nodes.append(replace(node, inputs=tuple(given)))
    extra = [x for x in graph.constants if x.ndim]
    inputs = (*[x for x in graph.inputs if x in facts.leaves], *extra)
    numbers = {x: value for x, value in graph.constants.items() if not x.ndim}
    _, arguments = tree.flatten((0.0,) * len(inputs))
    _, one = tree.flatten(0.0)
    return Graph(graph.name, inputs, tuple(nodes), (facts.done.output,), numbers, arguments, one, {}), ends


def _names(facts: Facts, listing: Listing, there: dict[Variable, Variable]) -> dict[Variable, str]:
    """The page's names, and others for what is not in the page."""
    names = {y: facts.names[x] for x, y in there.items() if x in facts.names}
    taken = {*names.values()}
    for x, name in listing.names.items():
        if x not in names:
            while name in taken:
                name += "_"
            taken.add(name)
            names[x] = name
    return names


def _sent(
    facts: Facts,
    listing: Listing,
    names: dict[Variable, str],
    there: dict[Variable, Variable],
    place: int,
    slot: int,
    ends: dict[tuple[int, int], Variable],
) -> str | None:
    """Under which name the gradient of a wire is found."""
    if facts.down(place, slot) is None:
        return None
    end = there[ends[place, facts.slots[place][slot]]]
    return names[end] if end in listing.reached or end in dict(listing.gradients) else None
