"""The flat code of a page, line by line, and the steps that walk over it.

The lines are those of `cr.source`: of the same listing, by the same printer. Here each backward line gets the wire whose gradient it
computes, and every gate's backward step the lines in which it is written; no text is made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

if TYPE_CHECKING:
    from chainrule.view.explorer.data import Facts, Picture

Data = dict[str, Any]


def code_and_steps(facts: Facts, picture: Picture) -> tuple[list[Data], list[Data]]:
    """Flat lines, and steps: one per gate forward, one per gate and branch backward."""
    lines, steps = _forward(facts)
    into = {(wire["to"], wire["slot"]): wire["id"] for wire in picture.wires}
    ends = _gradients(facts)
    makers = {x: node for node in facts.listing.backward for x in node.outputs}
    places = {node: place for place, node in enumerate(facts.nodes)}
    own: dict[Any, list[int]] = {}
    for node, left, right in facts.flat.lines:
        if node.outputs[0] not in makers:
            continue
        value = next((ends[x] for x in node.outputs if x in ends), None)
        # A place among the gates, a branch's value, or None for the output's own gradient.
        belongs: dict[Any, None] = {None if op is None else places[op]: None for op in _inside(facts, node, makers)}
        if value in picture.copies:
            belongs[value] = None
        if len(belongs) > 1:
            belongs.pop(None, None)
        for key in belongs:
            own.setdefault(key, []).append(len(lines))
        told: Data = {"phase": "backward", "text": f"{left} = {right}"}
        if value is not None:
            told["wire"] = into[picture.copies[value], 0] if value in picture.copies else _only(facts, into, value)
        else:
            first = next((key for key in belongs if isinstance(key, int)), None)
            told |= {"wire": into["out:", 0] if first is None else _any(facts, into, first), "between": True}
        lines.append(told)
    steps.append({"phase": "seed", "node": "out:", "lines": own.get(None, [])})
    waiting = {x: [p for p, slot in facts.uses[x] if facts.down(p, slot) is not None] for x in picture.copies if x in facts.uses}
    for place in reversed(range(len(facts.nodes))):
        if any(facts.down(place, slot) is not None for slot in range(len(facts.slots[place]))):
            # At a branch a gate's share stands in the line that adds them up.
            sums = [line for x in dict.fromkeys(facts.nodes[place].inputs) if x in picture.copies for line in own.get(x, [])]
            steps.append({"phase": "backward", "node": facts.ids[place], "lines": sorted({*own.get(place, []), *sums})})
        for x in dict.fromkeys(facts.nodes[place].inputs):
            if x in waiting and x in facts.done.grad and place == min(waiting[x], default=-1):
                steps.append({"phase": "backward", "node": picture.copies[x], "lines": own.get(x, [])})
    return lines, steps


def _forward(facts: Facts) -> tuple[list[Data], list[Data]]:
    lines: list[Data] = []
    steps: list[Data] = [{"phase": "start", "node": None, "lines": []}]
    written = {node: (left, right) for node, left, right in facts.flat.lines}
    for place, node in enumerate(facts.nodes):
        left, right = written[node]
        lines.append({"phase": "forward", "text": f"{left} = {right}", "var": facts.names[node.outputs[0]]})
        steps.append({"phase": "forward", "node": facts.ids[place], "lines": [place]})
    return lines, steps


def _gradients(facts: Facts) -> dict[Variable, Variable]:
    """Of what gradients are the gradient: where one is that of several values, of the one that it is named after."""
    found: dict[Variable, Variable] = {}
    for value, ct in facts.listing.reached.items():
        if ct not in found or facts.names.get(ct) == f"grad_{facts.names[value]}":
            found[ct] = value
    return found


def _inside(facts: Facts, node: Operation, makers: dict[Variable, Operation]) -> list[Operation | None]:
    """The gates whose backward steps are written in a line."""
    found: dict[Operation | None, None] = {}
    stack = [node]
    while stack:
        node = stack.pop()
        found[facts.listing.steps.get(node.outputs[0])] = None
        stack += [makers[x] for x in node.inputs if x in makers and facts.flat.inside(x)]
    return list(found)


def _only(facts: Facts, into: dict[tuple[str, int], str], value: Variable) -> str:
    """The wire of a value that is used once."""
    if value not in facts.uses:
        return into["out:", 0]
    ((place, slot),) = facts.uses[value]
    return into[facts.ids[place], slot]


def _any(facts: Facts, into: dict[tuple[str, int], str], place: int) -> str:
    slot = next((slot for slot in range(len(facts.slots[place])) if facts.down(place, slot) is not None), 0)
    return into.get((facts.ids[place], slot), into["out:", 0])
