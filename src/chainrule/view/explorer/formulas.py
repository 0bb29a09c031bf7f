"""What a gate computes and what its backward step computes, in words of code, under the names of the program.

The backward step is traced from the gate's own rule, so that the text cannot say anything else than what is computed; the
local derivative is read off that trace. Nothing is computed here, and no gate is known by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from chainrule.core.chain import unbroadcast
from chainrule.core.primitive import functions
from chainrule.core.variable import Variable
from chainrule.graph.derived import traced
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.text import OPERATORS, PREFIXES, inner_graphs
from chainrule.ops.gate import made
from chainrule.tensor import Tensor

LONGEST = 72
"""A longer expression is written in steps."""
_ATOM, _PREFIX = 9, 7
_STRENGTH = {"**": 8, "*": 6, "/": 6, "//": 6, "%": 6, "@": 6, "+": 5, "-": 5, "<<": 4, ">>": 4, "&": 3, "^": 2, "|": 1}


@dataclass(frozen=True)
class Text:
    """An expression and how strongly it holds together."""

    text: str
    strength: int = _ATOM

    def within(self, strength: int) -> str:
        return self.text if self.strength >= strength else f"({self.text})"


@dataclass
class Backward:
    """A gate's backward step.

    Attributes
    ----------
    lines : list of (name, expression)
        What is computed on the way, in order.
    results : list of str or None
        Per operand asked for, the expression of what it is sent; None if it is sent nothing.
    locals : list of str or None
        Per operand, the local derivative, where it is a factor.
    """

    lines: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    results: list[str | None] = field(default_factory=list[str | None])
    locals: list[str | None] = field(default_factory=list[str | None])


def forward(node: Operation, names: Mapping[Variable, str]) -> str:
    """The right-hand side of a gate's statement."""
    return _written(node, {x: _operand(names[x]) for x in node.inputs}).text


def _operand(text: str) -> Text:
    return Text(text, _PREFIX if text.startswith("-") else _ATOM)


def _written(node: Operation, operands: Mapping[Variable, Text]) -> Text:
    gate = node.primitive
    args = [operands[x] for x in node.inputs]
    if gate.name in OPERATORS and not node.params:
        sign = OPERATORS[gate.name]
        strength = _STRENGTH.get(sign, 0)
        # What follows in Python is taken together from the left, powers from the right.
        left, right = (strength + 1, strength) if sign == "**" else (strength, strength + 1)
        return Text(f"{args[0].within(left)} {sign} {args[1].within(right)}", strength)
    if gate.name in PREFIXES and not node.params:
        return Text(PREFIXES[gate.name] + args[0].within(_PREFIX), _PREFIX)
    axes = node.params.get("axes")
    if len(node.params) == 1 and axes == (1, 0):
        return Text(f"{args[0].within(_ATOM)}.T")
    exponent = node.params.get("exponent")
    if len(args) == len(node.params) == 1 and exponent is not None:
        if exponent == 1:
            return args[0]
        return Text(f"{args[0].within(_STRENGTH['**'] + 1)}**{_number(exponent)}", _STRENGTH["**"])
    words = [f"{name}={_word(value)}" for name, value in node.params.items() if _says(name, value)]
    return Text(f"{gate.name}({', '.join([*(x.text for x in args), *words])})")


def _says(name: str, value: Any) -> bool:
    return not (name == "keepdims" and value is False) and value is not None


def _word(value: Any) -> str:
    if hasattr(value, "nodes") and hasattr(value, "inputs"):
        return "..."
    if isinstance(value, tuple) and len(value) == 1:
        return _word(value[0])
    if isinstance(value, (np.dtype, float, int)):
        return _number(value)
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else f"<{type(value).__name__}>"


def _number(value: Any) -> str:
    return str(value)


def number_of(value: Any) -> str:
    """A number as it is written among the operands of a statement."""
    return f"{value.item():.6g}" if value.dtype.kind == "f" else str(value.item())


def backward(graph: Graph, node: Operation, slots: Sequence[int], names: Mapping[Variable, str], upstream: str) -> Backward:
    """The backward step of a gate with one output, to its operands in ``slots``, for the output's gradient named ``upstream``."""
    places = [i for i, x in enumerate(node.inputs) if x not in graph.constants or x.ndim]
    reached: list[int] = []

    def step(given: list[Tensor]) -> list[Tensor]:
        inside = dict(zip(places, given, strict=False))
        operands = [inside[i] if i in inside else made(graph.constants[x]) for i, x in enumerate(node.inputs)]
        shares = _shares(node, operands, given[-2], given[-1], slots)
        reached.extend(slot for slot, share in zip(slots, shares, strict=True) if share is not None)
        return [share for share in shares if share is not None]

    like = [Variable(x.aval) for x in (*(node.inputs[i] for i in places), node.output, node.output)]
    traced_step = traced("step", like, step)
    given = [*(names[node.inputs[i]] for i in places), names[node.output], upstream]
    known = {x: _operand(text) for x, text in zip(traced_step.inputs, given, strict=True)}
    known.update({x: _operand(number_of(value)) if value.ndim == 0 else Text("constant") for x, value in traced_step.constants.items()})
    return _told(traced_step, known, dict(zip(reached, traced_step.outputs, strict=True)), slots, names[node.output])


def _shares(node: Operation, operands: Sequence[Any], out: Any, ct: Any, slots: Sequence[int]) -> list[Any]:
    """What the gate's own rules send to the operands in ``slots``."""
    primitive = node.primitive
    saved = (tuple(operands), out) if primitive.variadic else (*operands, out)
    bare: Any = SimpleNamespace(params=node.params, inputs=operands)
    if isinstance(primitive.pulls, tuple):
        shares = [primitive.pulls[slot] and primitive.pulls[slot](ct, saved, bare, node.inputs[slot].aval) for slot in slots]
    else:
        wants = tuple(x.aval if i in slots else None for i, x in enumerate(node.inputs))
        found = primitive.pulls(ct, saved, bare, wants)
        shares = [found[slot] for slot in slots]
    return [
        share if share is None or share.shape == node.inputs[slot].shape else unbroadcast(share, node.inputs[slot].shape)
        for slot, share in zip(slots, shares, strict=True)
    ]


def _told(step: Graph, known: dict[Variable, Text], ends: Mapping[int, Variable], slots: Sequence[int], output: str) -> Backward:
    needed = _needed(step)
    uses = Counter(x for n in needed for x in n.inputs)
    told = Backward()
    makers: dict[Variable, Operation] = {}
    for n in needed:
        makers.update(dict.fromkeys(n.outputs, n))
        text = _written(n, known)
        first, *others = n.outputs
        if others or inner_graphs(n) or (first not in step.outputs and (uses[first] > 1 or len(text.text) > LONGEST)):
            fresh = [f"{output}_{len(told.lines) + i + 1}" for i, _ in enumerate(n.outputs)]
            told.lines.append((", ".join(fresh), text.text))
            known.update({x: Text(name) for x, name in zip(n.outputs, fresh, strict=True)})
        else:
            known[first] = text
    for slot in slots:
        end = ends.get(slot)
        told.results.append(None if end is None else known[end].text)
        told.locals.append(None if end is None else _factor(end, makers, known, step.inputs[-1]))
    return told


def _needed(graph: Graph) -> list[Operation]:
    wanted, found = set(graph.outputs), list[Operation]()
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def _factor(end: Variable, makers: Mapping[Variable, Operation], known: Mapping[Variable, Text], ct: Variable) -> str | None:
    """What the upstream gradient is multiplied by, where the step is a multiplication; what is summed afterwards undoes broadcasting."""
    end, summed = _before_sum(end, makers)
    after = ", summed over the elements that it was copied to" if summed else ""
    if end is ct:
        return "1" + after
    node = makers.get(end)
    if node is None:
        return None
    inputs, operator = node.inputs, OPERATORS.get(node.primitive.name)
    if PREFIXES.get(node.primitive.name) == "-" and inputs == (ct,):
        return "-1" + after
    if operator == "*" and ct in inputs:
        return known[inputs[1] if inputs[0] is ct else inputs[0]].text + after
    if operator == "/" and inputs[0] is ct:
        return f"1 / {known[inputs[1]].within(_PREFIX)}" + after
    if node.primitive.masks and len(inputs) == 3 and ct in inputs[1:]:
        condition, yes, no = (known[x].text for x in inputs)
        if inputs[1] is ct and no in ("0", "-0"):
            return f"1 where {condition}, else 0" + after
        if inputs[2] is ct and yes in ("0", "-0"):
            return f"0 where {condition}, else 1" + after
    return None


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
