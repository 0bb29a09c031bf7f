"""The gradient of a graph as another graph: reverse mode run under a tracer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chainrule.autodiff.reverse import grad
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.primitive import public
from chainrule.graph.ir import Graph
from chainrule.graph.trace import trace_with


@public
def gradient_of_graph(graph: Graph, wrt: int | str | Sequence[int | str] | None) -> Graph:
    """See `Graph.grad`."""
    arguments = graph.arguments.children
    first = [0]
    for argument in arguments:
        first.append(first[-1] + argument.leaf_count)
    names = [x.name for x in graph.parameters]
    if wrt is None:
        chosen: Any = [i for i in range(len(arguments)) if all(x.dtype.kind == "f" for x in graph.parameters[first[i] : first[i + 1]])]
        if not chosen:
            raise GradientError(f"{graph.name} has no argument of real floating point", mend="trace it with examples that are, such as 1.0")
    elif isinstance(wrt, Sequence) and not isinstance(wrt, str):
        chosen = [_position(graph, one, first, names) for one in wrt]
    else:
        chosen = _position(graph, wrt, first, names)

    def gradient(*args: Any) -> Any:
        return grad(graph.run, argnums=chosen)(*args)

    gradient.__name__ = f"grad_{graph.name}"
    made, _ = trace_with(gradient, [x.aval for x in graph.parameters], graph.arguments, names=names)
    return replace(made, layers=graph.layers)


def _position(graph: Graph, which: int | str, first: list[int], names: list[str]) -> int:
    count = len(first) - 1
    if isinstance(which, int) and -count <= which < count:
        return which % count
    named = [names[first[i] : first[i + 1]] for i in range(count)] if isinstance(which, str) else []
    # What is in a container has the container's name in front.
    found = [i for i, own in enumerate(named) if own == [which]] or [
        i for i, own in enumerate(named) if own and all(name.startswith(f"{which}_") for name in own)
    ]
    if not found:
        raise ArgumentError(
            f"{graph.name} has no argument {which!r}", mend=f"choose a position, 0 to {count - 1}, or a name among {', '.join(names)}"
        )
    return found[0]
