"""What a gate's backward step computes, in words of code, under the names of the program.

The step is listed as `cr.source` lists a whole program, and printed by the same printer, so that the text cannot say anything else
than what is computed; the local derivative is read off the listing. Gates that are alike are listed once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.core import tree
from chainrule.core.errors import ChainruleError
from chainrule.core.primitive import functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.view.source import Listing, listed
from chainrule.view.targets.numpy import Flat

_PLACEHOLDER = re.compile(r"(grad_)?([QR])(\d+)Q\b")
_BETWEEN = re.compile(r"\bt(\d+)\b")
_ONE_WORD = re.compile(r"[\w.]+(\(.*\))?")


@dataclass
class Backward:
    """A gate's backward step.

    Attributes
    ----------
    lines : list of str
        What is computed on the way, in order.
    results : dict of int to str
        Per operand that is sent something, the expression of what it is sent.
    locals : dict of int to str
        Per operand, the local derivative, where it is a factor.
    """

    lines: list[str] = field(default_factory=list[str])
    results: dict[int, str] = field(default_factory=dict[int, str])
    locals: dict[int, str] = field(default_factory=dict[int, str])

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> Backward:
        """The same step of another gate of its kind."""
        names = {"Q": inputs, "R": outputs}

        def own(text: str) -> str:
            text = _BETWEEN.sub(lambda found: f"{outputs[0]}_{found[1]}", text)
            return _PLACEHOLDER.sub(lambda found: (found[1] or "") + names[found[2]][int(found[3])], text)

        return Backward([own(x) for x in self.lines], {i: own(x) for i, x in self.results.items()}, {i: own(x) for i, x in self.locals.items()})


class Formulas:
    """The backward steps of a graph's gates.

    Parameters
    ----------
    graph : Graph
    names : Mapping of Variable to str
    """

    def __init__(self, graph: Graph, names: Mapping[Variable, str]) -> None:
        self.graph = graph
        self.names = names
        self._known: dict[Any, Backward] = {}

    def backward(self, node: Operation, slots: Sequence[int], upstream: Sequence[int]) -> Backward:
        """The step to the operands in ``slots`` from the outputs, by position, that have a gradient."""
        numbers = [self.graph.constants[x].item() if x in self.graph.constants and not x.ndim else None for x in node.inputs]
        avals = tuple((x.aval, type(value), value) for x, value in zip(node.inputs, numbers, strict=True))
        params = tuple((name, type(value), value if _plain(value) else id(value)) for name, value in node.params.items())
        kind = (node.primitive.name, id(node.primitive), avals, params, tuple(slots), tuple(upstream))
        found = self._known.get(kind)
        if found is None:
            try:
                found = _listed(node, self.graph, slots, upstream)
            except ChainruleError:
                # What cannot be differentiated in symbols is differentiated in the page's numbers nevertheless.
                found = Backward()
            self._known[kind] = found
        return found.named([self.names[x] for x in node.inputs], [self.names[x] for x in node.outputs])


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str, np.dtype))


def _listed(node: Operation, graph: Graph, slots: Sequence[int], upstream: Sequence[int]) -> Backward:
    """A gate alone, under names that stand for others."""
    inputs = [Variable(x.aval, f"Q{i}Q") for i, x in enumerate(node.inputs)]
    outputs = [Variable(x.aval, f"R{i}Q") for i, x in enumerate(node.outputs)]
    numbers = {y: graph.constants[x] for x, y in zip(node.inputs, inputs, strict=True) if x in graph.constants and not x.ndim}
    given = tuple(y for y in inputs if y not in numbers)
    ends = tuple(outputs[i] for i in upstream)
    alone = Operation(node.primitive, tuple(inputs), node.params, tuple(outputs))
    _, arguments = tree.flatten((0.0,) * len(given))
    _, results = tree.flatten((0.0,) * len(ends))
    step = Graph("step", given, (alone,), ends, numbers, arguments, results, {})
    listing = listed(step, wrt=[f"Q{i}Q" for i in slots], whole=True, seeded=True)
    return _told(listing, len(given))


def _told(listing: Listing, count: int) -> Backward:
    flat = Flat(listing, gate)
    told = Backward()
    ends = {ct: int(x.name[1:-1]) for x, ct in listing.gradients}
    written = {x: right + f"[{i}]" * bool(node.primitive.outputs) for node, _, right in flat.lines for i, x in enumerate(node.outputs)}
    makers = {x: node for node in listing.backward for x in node.outputs}
    seeds = listing.graph.inputs[count:]
    own = {*ends, *(x for node in listing.forward for x in node.outputs)}
    told.lines = [f"{left} = {right}" for node, left, right in flat.lines if own.isdisjoint(node.outputs)]
    for ct, slot in ends.items():
        told.results[slot] = written.get(ct) or flat.text(ct)
        factor = _factor(ct, makers, flat, seeds[0], listing.graph.constants) if len(seeds) == 1 else None
        if factor is not None:
            told.locals[slot] = factor
    return told


def gate(node: Operation, operands: Mapping[Variable, str]) -> str:
    """A gate that the printer has no words for."""
    words = [f"{name}={'...' if hasattr(value, 'nodes') else value}" for name, value in node.params.items()]
    return f"{node.primitive.name}({', '.join([*(operands[x] for x in node.inputs), *words])})"


def _factor(end: Variable, makers: Mapping[Variable, Operation], flat: Flat, ct: Variable, numbers: Mapping[Variable, Any]) -> str | None:
    """What the upstream gradient is multiplied by, where the step is a multiplication; what is summed afterwards undoes broadcasting."""
    end, summed = _before_sum(_unguarded(end, makers), makers)
    after = ", summed over the elements that it was copied to" if summed else ""
    if end is ct:
        return "1" + after

    def text(x: Variable) -> str:
        return flat.text(x) if x not in numbers or x.ndim else f"{numbers[x].item():.6g}"

    node = makers.get(end)
    if node is None:
        return None
    inputs, operator = node.inputs, node.primitive.operator
    if node.primitive.name == "positive" and inputs == (ct,):
        return "1" + after
    if operator == "-" and inputs == (ct,):
        return "-1" + after
    if operator == "*":
        factors = _factors(end, makers, flat)
        if factors.count(ct) == 1:
            return " * ".join(_alone(text(x), len(factors) > 2) for x in factors if x is not ct) + after
    if operator == "/" and inputs[0] is ct:
        return f"1 / {_alone(text(inputs[1]), True)}" + after
    if node.primitive.masks and len(inputs) == 3 and ct in inputs[1:]:
        condition, yes, no = map(text, inputs)
        if inputs[1] is ct and no in ("0", "-0"):
            return f"1 where {condition}, else 0" + after
        if inputs[2] is ct and yes in ("0", "-0"):
            return f"0 where {condition}, else 1" + after
    return None


def _factors(x: Variable, makers: Mapping[Variable, Operation], flat: Flat) -> list[Variable]:
    """What a product is made of, from left to right; products that have a line of their own are one factor."""
    found: list[Variable] = []
    stack = [x]
    while stack:
        x, node = stack[-1], makers.get(stack.pop())
        if node is not None and node.primitive.operator == "*" and ((not found and not stack) or flat.inside(x)):
            stack += node.inputs[::-1]
        else:
            found.append(x)
    return found


def _alone(text: str, beside: bool) -> str:
    return f"({text})" if beside and not _ONE_WORD.fullmatch(text) else text


def _unguarded(end: Variable, makers: Mapping[Variable, Operation]) -> Variable:
    """Behind a mask a share is taken as it is where it is finite, and otherwise without what made it so: the share."""
    node = makers.get(end)
    if node is not None and node.primitive.masks and len(node.inputs) == 3:
        asked = makers.get(node.inputs[0])
        parts = [makers[x].inputs for x in asked.inputs if x in makers] if asked is not None else []
        if (node.inputs[1],) in parts:
            return node.inputs[1]
    return end


def _before_sum(end: Variable, makers: Mapping[Variable, Operation]) -> tuple[Variable, bool]:
    """The value that was summed, and perhaps reshaped then, to ``end``."""
    at = end
    if at in makers and "shape" in makers[at].params and makers[at].inputs[0].size == at.size:
        at = makers[at].inputs[0]
    if at in makers and "keepdims" in makers[at].params and makers[at].primitive.transpose is not None:
        return makers[at].inputs[0], True
    return end, False


def title(node: Operation) -> str:
    """The gate in words: how the documentation of its function begins."""
    plain = node.primitive.name.replace("_", " ")
    found = functions.__dict__.get(node.primitive.name)
    lines = (getattr(found, "__doc__", None) or "").strip().splitlines()
    words = lines[0].split(":")[0].split(";")[0].split(". ")[0].rstrip(".") if lines else ""
    words = words.replace("``", "")
    return words[0].lower() + words[1:] if words and len(words) <= 44 else plain


def reason(factor: str | None, operands: Sequence[str]) -> str:
    """Why a local derivative may be 0, to follow "at the ... gate"."""
    if factor is None:
        return "its local derivative is 0 there"
    head = factor.split(", summed")[0]
    if head.startswith("1 where "):
        return f"{head[8:].split(', else')[0]} is false"
    if head.startswith("0 where "):
        return f"{head[8:].split(', else')[0]} is true"
    return f"the other factor, {head}, is 0" if head in operands else f"the local derivative, {head}, is 0"
