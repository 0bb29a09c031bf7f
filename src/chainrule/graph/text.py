"""A graph as code to be read: one statement per node, operators where Python has them."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core import tree
from chainrule.core.primitive import Primitive
from chainrule.core.variable import Variable

if TYPE_CHECKING:
    from chainrule.graph.ir import Graph, Operation

INDENT = "    "
_FEW = 8
"""Constants of so many elements are written out."""


def render(graph: Graph, *, lines: bool = False, only: Operation | None = None) -> str:
    """The graph as the text of a function, or one statement of it."""
    if only is not None:
        return _statement(only, _numbers(graph))
    return "\n".join(_function(graph, graph.name, lines=lines))


def _function(graph: Graph, name: str, *, lines: bool) -> list[str]:
    names = _numbers(graph)
    given = ", ".join(f"{x.name}: {x.aval}" for x in graph.parameters)
    text = [f"def {name}({given}):"]
    text += [f"{INDENT}{x.name}: {x.aval}  # from outside" for x in graph.inputs[len(graph.parameters) :]]
    text += [f"{INDENT}{x.name}: {x.aval}{_elements(value)}  # constant" for x, value in graph.constants.items() if x not in names]
    for node in graph.nodes:
        for inner_name, inner in inner_graphs(node):
            text += [INDENT + line for line in _function(inner, f"{node.outputs[0].name}_{inner_name}", lines=lines)]
        notes = [", ".join(str(x.aval) for x in node.outputs)]
        notes += [".".join(node.scope)] * bool(node.scope)
        notes += [f"{os.path.split(node.line[0])[1]}:{node.line[1]}"] * (lines and node.line[1] > 0)
        text.append(f"{INDENT}{_statement(node, names)}  # {'  '.join(notes)}")
    text += [INDENT + line for line in _assignments(graph, names)]
    found = iter(graph.returned)
    leaves = [_word(graph.statics[i]) if i in graph.statics else _named(next(found), names) for i in range(graph.results.leaf_count)]
    text.append(f"{INDENT}return {_nested(graph.results, iter(leaves))}")
    return text


def _assignments(graph: Graph, names: dict[Variable, str]) -> list[str]:
    """What is assigned, line by line; a value that one line replaces and a later one reads gets a name of its own first."""
    outside = dict(zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True))
    of_tensor = {id(source.tensor): x for source, x in outside.items() if type(source).__name__ == "State"}
    targets: list[str] = []
    replaced: set[Variable] = set()
    everything: tuple[Any, ...] = (*graph.updated, *graph.cleared)
    for target in everything:
        place = graph.inputs[target.position] if hasattr(target, "position") else of_tensor.get(id(target.tensor))
        base = "state" if place is None else place.name
        if type(target).__name__ == "Gradient":
            targets.append(f"{base}.grad")
        else:
            targets.append(base)
            replaced.update([place] if place is not None else [])
    lines: list[str] = []
    for x in dict.fromkeys(x for x in graph.outputs if x in replaced):
        names[x] = f"{x.name}_was"
        lines.append(f"{names[x]} = {x.name}")
    values = [_named(x, names) for x in graph.outputs[len(graph.returned) :]] + ["None"] * len(graph.cleared)
    return lines + [f"{target} = {value}" for target, value in zip(targets, values, strict=True)]


def inner_graphs(node: Operation) -> list[tuple[str, Graph]]:
    """The graphs among a node's parameters, with their names."""
    return [(name, value) for name, value in node.params.items() if hasattr(value, "nodes") and hasattr(value, "inputs")]


def _statement(node: Operation, names: Mapping[Variable, str]) -> str:
    return f"{', '.join(x.name for x in node.outputs)} = {_expression(node, names)}"


def _expression(node: Operation, names: Mapping[Variable, str]) -> str:
    gate: Primitive = node.primitive
    args = [_named(x, names) for x in node.inputs]
    if gate.operator and not node.params:
        return in_operators(gate, args)
    inner = {name for name, _ in inner_graphs(node)}
    words = [f"{name}={node.outputs[0].name}_{name}" if name in inner else f"{name}={_word(value)}" for name, value in node.params.items()]
    return f"{gate.name}({', '.join([*args, *words])})"


def in_operators(gate: Primitive, args: Sequence[str]) -> str:
    """A gate that has an operator, between its operands or before its one."""
    if len(args) == 1:
        return gate.operator + args[0]
    left = f"({args[0]})" if gate.operator == "**" and args[0].startswith("-") else args[0]
    return f"{left} {gate.operator} {args[1]}"


def _word(value: Any) -> str:
    if isinstance(value, np.dtype):
        return str(value)
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    # What says nothing but where it lies in memory differs from run to run.
    return f"<{type(value).__name__}>" if type(value).__repr__ is object.__repr__ else repr(value)


def _named(x: Variable, names: Mapping[Variable, str]) -> str:
    return names.get(x, x.name)


def _numbers(graph: Graph) -> dict[Variable, str]:
    """Numbers are written where they are used."""
    return {x: str(value) for x, value in graph.constants.items() if value.ndim == 0}


def _elements(value: Any) -> str:
    return f" = {value.tolist()}" if value.size <= _FEW else ""


def _nested(structure: tree.Structure, leaves: Any) -> str:
    if structure.kind is None:
        return next(leaves)
    if structure.kind is type(None):
        return "None"
    inside = [_nested(child, leaves) for child in structure.children]
    if structure.kind is dict:
        return "{" + ", ".join(f"{key!r}: {text}" for key, text in zip(structure.keys, inside, strict=True)) + "}"
    if structure.kind is list:
        return f"[{', '.join(inside)}]"
    name = "" if structure.kind is tuple else structure.kind.__name__
    return f"{name}({', '.join(inside)}{',' * (len(inside) == 1 and not name)})"
