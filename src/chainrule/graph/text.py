"""A graph as code to be read: one statement per node, operators where Python has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core import tree
from chainrule.core.primitive import Primitive
from chainrule.core.variable import Variable

if TYPE_CHECKING:
    from chainrule.graph.ir import Graph, Operation

OPERATORS = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//", "remainder": "%", "pow": "**", "matmul": "@",
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>",
}  # fmt: skip
"""Gates that Python writes between their operands."""

PREFIXES = {"negative": "-", "bitwise_invert": "~"}
INDENT = "    "


def render(graph: Graph, *, lines: bool = False, only: Operation | None = None) -> str:
    """The graph as the text of a function, or one statement of it."""
    names = {x: _constant(value) or x.name for x, value in graph.constants.items()}
    if only is not None:
        return _statement(only, names)
    return "\n".join(_function(graph, names, graph.name, lines=lines))


def _function(graph: Graph, names: Mapping[Variable, str], name: str, *, lines: bool) -> list[str]:
    given = ", ".join(f"{x.name}: {x.aval}" for x in graph.parameters)
    text = [f"def {name}({given}):"]
    text += [f"{INDENT}{x.name}: {x.aval}  # from outside" for x in graph.inputs[len(graph.parameters) :]]
    text += [f"{INDENT}{x.name}: {x.aval}  # constant" for x in graph.constants if names[x] == x.name]
    for node in graph.nodes:
        for inner_name, inner in inner_graphs(node):
            inner_names = {x: _constant(value) or x.name for x, value in inner.constants.items()}
            text += [INDENT + line for line in _function(inner, inner_names, f"{node.outputs[0].name}_{inner_name}", lines=lines)]
        notes = [", ".join(str(x.aval) for x in node.outputs)]
        notes += [".".join(node.scope)] * bool(node.scope)
        notes += [f"{PurePath(node.line[0]).name}:{node.line[1]}"] * (lines and node.line[1] > 0)
        text.append(f"{INDENT}{_statement(node, names)}  # {'  '.join(notes)}")
    found = iter(graph.returned)
    leaves = [repr(graph.statics[i]) if i in graph.statics else _named(next(found), names) for i in range(graph.results.leaf_count)]
    for target, x in zip(graph.updated, graph.outputs[len(graph.returned) :], strict=True):
        text.append(f"{INDENT}{_target(graph, target)} = {_named(x, names)}")
    text += [f"{INDENT}{_target(graph, target)} = None" for target in graph.cleared]
    text.append(f"{INDENT}return {_nested(graph.results, iter(leaves))}")
    return text


def inner_graphs(node: Operation) -> list[tuple[str, Graph]]:
    """The graphs among a node's parameters, with their names."""
    return [(name, value) for name, value in node.params.items() if hasattr(value, "nodes") and hasattr(value, "inputs")]


def _statement(node: Operation, names: Mapping[Variable, str]) -> str:
    return f"{', '.join(x.name for x in node.outputs)} = {_expression(node, names)}"


def _expression(node: Operation, names: Mapping[Variable, str]) -> str:
    gate: Primitive = node.primitive
    args = [_named(x, names) for x in node.inputs]
    if gate.name in OPERATORS and not node.params:
        return f"{args[0]} {OPERATORS[gate.name]} {args[1]}"
    if gate.name in PREFIXES and not node.params:
        return PREFIXES[gate.name] + args[0]
    inner = {name for name, _ in inner_graphs(node)}
    words = [f"{name}={node.outputs[0].name}_{name}" if name in inner else f"{name}={_word(value)}" for name, value in node.params.items()]
    return f"{gate.name}({', '.join([*args, *words])})"


def _word(value: Any) -> str:
    if isinstance(value, np.dtype):
        return str(value)
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)


def _named(x: Variable, names: Mapping[Variable, str]) -> str:
    return names.get(x, x.name)


def _constant(value: Any) -> str:
    """A number is written where it is used."""
    return str(value) if value.ndim == 0 else ""


def _target(graph: Graph, target: Any) -> str:
    if not hasattr(target, "tensor"):
        return graph.inputs[target.position].name
    names = {source: x.name for source, x in zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True)}
    of_tensor = {id(source.tensor): name for source, name in names.items() if type(source).__name__ == "State"}
    base = of_tensor.get(id(target.tensor), "state")
    return base if type(target).__name__ == "State" else f"{base}.grad"


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
