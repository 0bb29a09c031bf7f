"""The NumPy backend: a plan printed as flat Python source, compiled once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from chainrule.compiler.backend import Run
from chainrule.graph.ir import Graph

_INDENT = "    "


def print_source(graph: Graph) -> tuple[str, dict[str, Any], Counter[str]]:
    """The source, the objects that it names, and the gates that it calls back."""
    space: dict[str, Any] = {}
    called: Counter[str] = Counter()
    names = {x: f"{x.name}_" for x in (*graph.inputs, *graph.constants, *(x for node in graph.nodes for x in node.outputs))}
    for x, value in graph.constants.items():
        space[names[x]] = value
    lines = [f"def {graph.name}({', '.join(names[x] for x in graph.inputs)}):"]
    for position, node in enumerate(graph.nodes):
        called[node.primitive.name] += 1
        space[node.primitive.name] = node.primitive.evaluate
        words = [names[x] for x in node.inputs]
        if node.params:
            space[f"params{position}"] = node.params
            words.append(f"**params{position}")
        lines.append(f"{_INDENT}{', '.join(names[x] for x in node.outputs)} = {node.primitive.name}({', '.join(words)})")
    lines.append(f"{_INDENT}return ({''.join(f'{names[x]}, ' for x in graph.outputs)})")
    return "\n".join(lines) + "\n", space, called


def load(graph: Graph, source: str, space: dict[str, Any]) -> Run:
    """The function that the source defines."""
    exec(compile(source, f"<{graph.name}, compiled>", "exec"), space)  # noqa: S102 - of text made here alone
    return space[graph.name]
