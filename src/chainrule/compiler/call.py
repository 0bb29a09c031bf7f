"""A compiled graph as one gate, so that what is compiled can be differentiated, pushed forward and mapped.

Where a gradient will be asked for, the graph that runs forward also gives out what the graph that runs backward
reads (`graph.split`): both are compiled, and nothing is computed twice. Derivatives of derivatives do the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chainrule.autodiff.forward import jvp
from chainrule.autodiff.reverse import vjp
from chainrule.compiler.pipeline import build
from chainrule.compiler.simplify import simplify
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.interp import QUIET, current, evaluate, using
from chainrule.core.primitive import Primitive, Same, functions
from chainrule.graph.ir import Graph
from chainrule.graph.split import split
from chainrule.graph.trace import trace_with
from chainrule.tape import bind
from chainrule.tensor import new

# Tensors, or whatever the interpreter in force works on.
Values = Sequence[Any]


def call(graph: Graph, inputs: Values) -> list[Any]:
    """The outputs of a compiled graph for Tensors in the place of all its inputs."""
    mode = current()
    if mode.tracer is not None:
        return graph.apply(inputs)
    wants = tuple(x._node is not None and x._node.tags & mode.tracking != 0 for x in inputs)
    if not any(wants):
        return [new(value) for value in executable(graph)(*(x._value for x in inputs))]
    forward = _cached(graph, ("forward", wants), lambda: _partition(graph, wants))
    return list(bind(CALL, inputs, {"graph": forward[0], "back": forward[1], "count": len(graph.outputs), "wants": wants}))[: len(graph.outputs)]


def executable(graph: Graph) -> Callable[..., tuple[Any, ...]]:
    """The function of arrays that a graph is compiled to, once."""
    return _cached(graph, "run", lambda: build(graph).run)


def _cached(graph: Graph, key: Any, make: Callable[[], Any]) -> Any:
    cache: dict[Any, Any] = graph.__dict__.setdefault("_compiled", {})
    if key not in cache:
        cache[key] = make()
    return cache[key]


def _traced(name: str, f: Callable[..., Any], *groups: Sequence[Aval]) -> Graph:
    """A function of groups of Tensors as a graph."""
    f.__name__ = name
    _, structure = tree.flatten(tuple(tuple(group) for group in _marks(groups)))
    graph, _ = trace_with(f, [aval for group in groups for aval in group], structure)
    return simplify(graph)


def _marks(groups: Sequence[Sequence[Aval]]) -> list[list[int]]:
    # An Aval is itself a container.
    return [[0] * len(group) for group in groups]


def _floating(avals: Sequence[Any]) -> list[int]:
    return [i for i, aval in enumerate(avals) if aval.dtype.kind == "f"]


def _pulled(graph: Graph, wants: Sequence[bool], ends: Sequence[int]) -> Callable[..., Any]:
    """``(inputs, cotangents of the outputs at ends)`` to outputs and the wanted inputs' cotangents."""
    sources = [i for i, wanted in enumerate(wants) if wanted]

    def joint(xs: Values, cts: Values) -> tuple[list[Any], list[Any]]:
        def inner(*chosen: Any) -> tuple[list[Any], list[Any]]:
            full = list(xs)
            for i, x in zip(sources, chosen, strict=True):
                full[i] = x
            outs = graph.apply(full)
            return [outs[i] for i in ends], outs

        _, pull, outs = vjp(inner, *(xs[i] for i in sources), has_aux=True)
        return outs, list(pull(list(cts)))

    return joint


def _partition(graph: Graph, wants: tuple[bool, ...]) -> tuple[Graph, Graph]:
    """The graph with what its backward pass reads as further outputs, and that backward pass."""
    ends = _floating(graph.outputs)
    inputs = [x.aval for x in graph.inputs]
    cts = [graph.outputs[i].aval for i in ends]
    joint = _traced(f"joint_{graph.name}", _pulled(graph, wants, ends), inputs, cts)
    late = range(len(inputs), len(inputs) + len(cts))
    forward, back, _ = split(joint, late, range(len(graph.outputs), len(joint.outputs)))
    return forward, back


def _pull(ct: tuple[Any, ...], xs: Values, out: Values, to: Any, graph: Graph, back: Graph, count: int, wants: tuple[bool, ...]) -> tuple[Any, ...]:
    ends = _floating(graph.outputs[:count])
    if any(x is not None for x in ct[count:]):
        # A derivative of the backward pass: what it read is differentiated too.
        given = [i for i, x in enumerate(ct) if x is not None]
        found = _in_tensors(lambda xs, cts: _pulled(graph, wants, given)(xs, cts)[1], xs, [ct[i] for i in given])
    else:
        cts = [functions.zeros(graph.outputs[i].shape, dtype=graph.outputs[i].dtype) if ct[i] is None else ct[i] for i in ends]
        found = _apply(back, [*out[count:], *cts])
    shares = iter(found)
    return tuple(next(shares) if wanted else None for wanted in wants)


def _apply(graph: Graph, values: Values) -> list[Any]:
    """`call` where values may be bare arrays."""
    return call(graph, values) if hasattr(values[0], "_node") else list(executable(graph)(*values))


def _in_tensors(f: Callable[..., list[Any]], xs: Values, cts: Values) -> list[Any]:
    """``f(xs, cts)``, also where values are bare arrays."""
    if current().interpret is not evaluate:
        return f(xs, cts)
    with using(QUIET):
        return [x._value for x in f([new(x) for x in xs], [new(ct) for ct in cts])]


def _push(t: tuple[Any, ...], xs: Values, graph: Graph, back: Graph, count: int, wants: tuple[bool, ...]) -> tuple[Any, ...]:
    present = tuple(i for i, one in enumerate(t) if one is not None)
    ends = _floating(graph.outputs)

    def pushed(xs: Values, ts: Values) -> list[Any]:
        def inner(*chosen: Any) -> list[Any]:
            full = list(xs)
            for i, x in zip(present, chosen, strict=True):
                full[i] = x
            outs = graph.apply(full)
            return [outs[i] for i in ends]

        return list(jvp(inner, [xs[i] for i in present], list(ts))[1])

    def make() -> Graph:
        return _traced(f"jvp_{graph.name}", pushed, [x.aval for x in graph.inputs], [graph.inputs[i].aval for i in present])

    tangents = call(_cached(graph, ("jvp", present), make), [*xs, *(t[i] for i in present)])
    found = dict(zip(ends, tangents, strict=True))
    return tuple(found.get(i) for i in range(len(graph.outputs)))


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Values, params: Mapping[str, Any]) -> Any:
    graph: Graph = params["graph"]
    outs, mapped = functions.apply_batched(graph, batched, inputs)
    return tuple(out if b else Same(out) for out, b in zip(outs, mapped, strict=True))


CALL = Primitive(
    name="call",
    inputs=("*xs",),
    aval=lambda *xs, graph, back, count, wants: tuple(x.aval for x in graph.outputs),
    eval=lambda *xs, graph, back, count, wants: tuple(executable(graph)(*xs)),
    vjp=_pull,
    jvp=_push,
    batch=_batch,
    outputs=True,
)
"""A compiled graph; part of the tape, not of the table: inside a trace it is taken apart again."""
