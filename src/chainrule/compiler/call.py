"""A compiled graph as one gate, so that what is compiled can be differentiated, pushed forward and mapped.

Where a gradient will be asked for, the graph that runs forward also gives out what the graph that runs backward
reads (`graph.split`): both are compiled, and nothing is computed twice, unless a memory budget asks for it. Derivatives of
derivatives do the same again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from chainrule.autodiff.checkpoint import opened, reached
from chainrule.autodiff.linearize import Linear, forward, reverse
from chainrule.compiler.pipeline import build
from chainrule.compiler.remat import rematerialize
from chainrule.core.interp import current
from chainrule.core.primitive import Primitive, Same, functions
from chainrule.graph.derived import masked
from chainrule.graph.inner import flat
from chainrule.graph.ir import Graph
from chainrule.graph.split import without
from chainrule.tape import bind
from chainrule.tensor import new

# Tensors, or whatever the interpreter in force works on.
Values = Sequence[Any]


class How(NamedTuple):
    """What `build` is told, of the function itself and of its derivatives alike."""

    backend: str
    halves: bool
    memory_budget: int | None


def call(graph: Graph, how: How, inputs: Values) -> list[Any]:
    """The outputs of a compiled graph for Tensors in the place of all its inputs."""
    mode = current()
    if mode.tracer is not None:
        return graph.apply(inputs)
    wants = tuple(x._node is not None and x._node.tags & mode.tracking != 0 for x in inputs)
    if not any(wants):
        return [new(value) for value in executable(graph, how)(*(x._value for x in inputs))]
    count = len(graph.outputs)
    linear = _linear(graph, how, reverse, _chosen(wants), _floating(graph.outputs))
    flows = _cached(graph, ("flows", wants), lambda: reached(graph, (graph.inputs[i] for i in _chosen(wants)), differentiably=True))
    outs = bind(CALL, inputs, {"graph": linear.early, "back": linear.late, "count": count, "wants": wants, "how": how})
    # As without compiling, what no derivative flows through has no history.
    return [out if x in flows or x.dtype.kind != "f" else out.detach() for out, x in zip(outs, graph.outputs, strict=False)]


def executable(graph: Graph, how: How) -> Callable[..., tuple[Any, ...]]:
    """The function of arrays that a graph is compiled to, once."""
    return _cached(graph, how, lambda: build(graph, **how._asdict()).run)


def _evaluated(graph: Graph, how: How, values: Sequence[Any]) -> tuple[Any, ...]:
    run = executable(graph, how)
    try:
        return run(*values)
    except (IndexError, ValueError):
        # Machine code says that something is wrong, such as a position out of range; the gates themselves say where.
        graph.apply([functions.asarray(x) for x in values])
        raise


def _cached(graph: Graph, key: Any, make: Callable[[], Any]) -> Any:
    cache: dict[Any, Any] = graph.__dict__.setdefault("_compiled", {})
    if key not in cache:
        cache[key] = make()
    return cache[key]


def _linear(graph: Graph, how: How, of: Callable[..., Linear], wrt: Sequence[int], ends: Sequence[int]) -> Linear:
    """The derivative (`forward` or `reverse`) of some outputs by some inputs, traced once."""

    def make() -> Linear:
        linear = of(graph, wrt, ends)
        return linear if how.memory_budget is None or _fits(linear, how.memory_budget) else _keeping_nothing(linear)

    return _cached(graph, (of, tuple(wrt), tuple(ends), how.memory_budget), make)


def _fits(linear: Linear, budget: int) -> bool:
    """Whether there is room for what one half keeps for the other, beside what either needs."""
    kept = {*linear.late.inputs[: linear.residuals]}.difference(linear.early.inputs)
    early, late = (rematerialize(opened(half), sys.maxsize)[1].before for half in (linear.early, linear.late))
    return max(early, late + sum(x.nbytes for x in kept)) <= budget


def _keeping_nothing(linear: Linear) -> Linear:
    """The same where the second half begins at the inputs, and computes again what it reads, as its own budget allows."""
    early, late = linear.early, linear.late
    given, seeds = early.outputs[: len(early.outputs) - linear.residuals], late.inputs[linear.residuals :]
    first = flat(early.name, early.inputs, early.nodes, (*given, *early.inputs), early.constants)
    # Each of the second half's nodes as soon as it can: tangents beside the values, cotangents behind them all.
    ready = {x: i for i, node in enumerate(early.nodes) for x in node.outputs}
    for node in late.nodes:
        ready.update(dict.fromkeys(node.outputs, max((ready.get(x, -1) for x in node.inputs), default=-1)))
    nodes = sorted((*early.nodes, *late.nodes), key=lambda node: ready[node.outputs[0]])
    second = flat(late.name, (*early.inputs, *seeds), nodes, late.outputs, {**early.constants, **late.constants})
    return Linear(first, second, linear.seeds)


def _floating(variables: Sequence[Any]) -> list[int]:
    return [i for i, x in enumerate(variables) if x.dtype.kind == "f"]


def _chosen(wants: Sequence[bool]) -> list[int]:
    return [i for i, wanted in enumerate(wants) if wanted]


def _pull(
    ct: tuple[Any, ...], xs: Values, out: Values, to: Any, graph: Graph, back: Graph, count: int, wants: tuple[bool, ...], how: How
) -> list[Any]:
    if any(x is not None for x in ct[count:]):
        # A derivative of the backward pass: what it read is differentiated too.
        return _pull_again(ct, xs, graph, wants, how)
    ends = [i for i in _floating(graph.outputs) if i < count]
    return _shares(graph, back, wants, how, ends, ct, out[count:])


def _masked_pull(
    ct: tuple[Any, ...], xs: Values, out: Values, to: Any, graph: Graph, back: Graph, count: int, wants: tuple[bool, ...], how: How
) -> list[Any]:
    shares = _pull(ct, xs, out, to, graph, back, count, wants, how)
    if current().tracer is None and all(share is None or bool(functions.all(functions.isfinite(share))) for share in shares):
        return shares
    # Zeros for what a `where` outside did not take have met infinities.
    return _pull_again(ct, xs, masked(graph), wants, how)


def _pull_again(ct: tuple[Any, ...], xs: Values, graph: Graph, wants: tuple[bool, ...], how: How) -> list[Any]:
    """The backward pass from whichever outputs, after a forward pass of its own."""
    ends = _chosen([x is not None for x in ct])
    linear = _linear(graph, how, reverse, _chosen(wants), ends)
    return _shares(linear.early, linear.late, wants, how, ends, ct, _apply(linear.early, how, xs)[len(graph.outputs) :])


def _shares(graph: Graph, back: Graph, wants: Sequence[bool], how: How, ends: Sequence[int], ct: Sequence[Any], residuals: Values) -> list[Any]:
    """The inputs' cotangents from those of the outputs ``ends``, as far as there are any."""
    given = tuple(i for i in ends if ct[i] is not None)
    found = _cached(back, given, lambda: _going_back(graph, back, _chosen(wants), ends, given))
    shares = dict(zip(found.inputs, _apply(found.graph, how, [*residuals, *(ct[i] for i in given)]), strict=True)) if found.inputs else {}
    return [shares.get(i) for i in range(len(wants))]


class _Back(NamedTuple):
    """A backward pass, and the inputs of which it gives the cotangents."""

    graph: Graph
    inputs: list[int]


def _going_back(graph: Graph, back: Graph, wanted: Sequence[int], ends: Sequence[int], given: Collection[int]) -> _Back:
    """The backward pass from given outputs alone, to the inputs that they depend on.

    Zeros in the place of missing cotangents would make NaN of infinite derivatives, and gradients where there are none.
    """
    sources = {graph.outputs[i] for i in given}
    for node in reversed(graph.nodes):
        if not sources.isdisjoint(node.outputs) and node.primitive.pulls != ():
            sources.update(node.inputs)
    inputs = [i for i in wanted if graph.inputs[i] in sources]
    seeds = back.inputs[len(back.inputs) - len(ends) :]
    missing = [x for i, x in zip(ends, seeds, strict=True) if i not in given]
    return _Back(without(back, seeds, missing, map(wanted.index, inputs)), inputs)


def _push(t: tuple[Any, ...], xs: Values, graph: Graph, back: Graph, count: int, wants: tuple[bool, ...], how: How) -> tuple[Any, ...]:
    present, ends = _chosen([one is not None for one in t]), _floating(graph.outputs)
    linear = _linear(graph, how, forward, present, ends)
    residuals = _apply(linear.early, how, xs)[len(graph.outputs) :]
    found = dict(zip(ends, _apply(linear.late, how, [*residuals, *(t[i] for i in present)]), strict=True))
    return tuple(found.get(i) for i in range(len(graph.outputs)))


def _apply(graph: Graph, how: How, values: Values) -> list[Any]:
    """`call` where values may be bare arrays."""
    return call(graph, how, values) if hasattr(values[0], "_node") else list(executable(graph, how)(*values))


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Values, params: Mapping[str, Any]) -> Any:
    graph: Graph = params["graph"]
    outs, mapped = functions.apply_batched(graph, batched, inputs)
    return tuple(out if b else Same(out) for out, b in zip(outs, mapped, strict=True))


CALL = Primitive(
    name="call",
    inputs=("*xs",),
    aval=lambda *xs, graph, back, count, wants, how: tuple(x.aval for x in graph.outputs),
    eval=lambda *xs, graph, back, count, wants, how: _evaluated(graph, how, xs),
    vjp=_pull,
    masked_vjp=_masked_pull,
    jvp=_push,
    batch=_batch,
    outputs=True,
)
"""A compiled graph; part of the tape, not of the table: inside a trace it is taken apart again."""
