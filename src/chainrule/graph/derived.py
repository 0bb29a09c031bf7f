"""What becomes of an inner graph when the control flow that holds it is differentiated or batched: another inner graph.

Each is made once per graph and per choice of what is differentiated, received or batched, and kept with the graph. A
cotangent or tangent that does not exist has no place among inputs and outputs: absent is not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.core.aval import Aval
from chainrule.core.interp import Tag, current, transforming
from chainrule.core.node import Cell, leaf
from chainrule.core.primitive import Primitive, functions
from chainrule.core.variable import Variable
from chainrule.graph.inner import flat, flat_structure
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.trace import trace_with
from chainrule.tape import bind, reverse, set_tangent, tangent_of
from chainrule.tensor import Tensor, new

Mask = tuple[bool, ...]
"""Which of several values are meant."""


def kept(graph: Graph, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What ``make`` makes of a graph, made once."""
    known: dict[Any, Any] = graph.__dict__.setdefault("_derived", {})
    if key not in known:
        known[key] = make()
    return known[key]


def traced(name: str, like: Sequence[Variable], f: Callable[[list[Tensor]], Sequence[Tensor]]) -> Graph:
    """The inner graph of a function from a list of Tensors like these to several."""
    graph, _ = trace_with(lambda *given: tuple(f(list(given))), [x.aval for x in like], flat_structure(len(like)), names=[x.name for x in like])
    return flat(name, graph.inputs, graph.nodes, graph.outputs, graph.constants)


def chosen(mask: Mask, values: Sequence[Any]) -> list[Any]:
    """Those that are meant."""
    return [value for value, is_meant in zip(values, mask, strict=True) if is_meant]


def dealt(mask: Mask, values: Sequence[Any]) -> list[Any]:
    """The values in the places that are meant, None in the others."""
    rest = iter(values)
    return [next(rest) if is_meant else None for is_meant in mask]


def present(values: Sequence[Any]) -> Mask:
    """Which values are not None."""
    return tuple(value is not None for value in values)


def either(*masks: Mask) -> Mask:
    """What any of the masks means."""
    return tuple(map(any, zip(*masks, strict=True)))


def zeros(x: Variable) -> Any:
    """Zeros like a value of a graph."""
    return functions.zeros(x.shape, dtype=x.dtype)


def or_zeros(values: Sequence[Any], like: Sequence[Variable]) -> list[Any]:
    """The values, with zeros in place of None."""
    return [zeros(x) if value is None else value for value, x in zip(values, like, strict=True)]


def beside(prefix: str, x: Variable) -> Variable:
    """A variable for what belongs to another one."""
    return Variable(x.aval, f"{prefix}{x.name}" if x.name else "")


MASK = Primitive(
    name="mask",
    inputs=("x",),
    aval=lambda x: x,
    eval=lambda x: x,
    batch=lambda primitive, batched, inputs, params: bind(primitive, inputs),
    partials=(1,),
    masks=True,
    scalar=lambda k, x: x,
)
"""The identity, behind which zero cotangents stand for what was not taken; part of derived graphs, not of the table."""


def masked(graph: Graph) -> Graph:
    """The same graph, for a cotangent that a `where` has made: what it did not take stays out of gradients inside too."""

    def make() -> Graph:
        ends = tuple(Variable(x.aval, x.name) if x.dtype.kind == "f" else x for x in graph.outputs)
        masks = [Operation(MASK, (x,), {}, (end,)) for x, end in zip(graph.outputs, ends, strict=True) if x is not end]
        return flat(graph.name, graph.inputs, (*graph.nodes, *masks), ends, graph.constants)

    return kept(graph, ("masked",), make)


def pull_of(graph: Graph, wanted: Mask, received: Mask, shown: Mask | None = None) -> tuple[Graph, Mask]:
    """The graph from all inputs and the cotangents received to the cotangents of wanted inputs, and the outputs shown; and which inputs have one."""

    def make() -> tuple[Graph, Mask]:
        reached: list[Mask] = []

        def pull(given: list[Tensor]) -> list[Tensor]:
            tag = Tag()
            inside = [_entered(x, tag) if needs else x for x, needs in zip(given, wanted, strict=False)]
            with transforming(tag.bit):
                outs = graph.apply(inside)
            ends = [x._node for x in chosen(wanted, inside)]
            found = reverse(chosen(received, outs), given[len(inside) :], tag.bit, retain=False, wanted=[node for node in ends if node is not None])
            shares = dealt(wanted, [found.get(node) for node in ends if node is not None])
            reached.append(present(shares))
            return [*(x for x in shares if x is not None), *chosen(shown or (False,) * len(outs), outs)]

        like = [*graph.inputs, *(beside("grad_", x) for x in chosen(received, graph.outputs))]
        return traced(f"pull_{graph.name}", like, pull), reached[0]

    return kept(graph, ("pull", wanted, received, shown), make)


def push_of(graph: Graph, moved: Mask) -> tuple[Graph, Mask]:
    """The graph from all inputs and the tangents of moved ones to all outputs and the tangents that exist, and which exist."""

    def make() -> tuple[Graph, Mask]:
        reached: list[Mask] = []

        def push(given: list[Tensor]) -> list[Tensor]:
            tag = Tag(forward=True)
            inside = [_entered(x, tag) if moves else x for x, moves in zip(given, moved, strict=False)]
            for x, t in zip(chosen(moved, inside), given[len(inside) :], strict=True):
                set_tangent(x, tag, t)
            with transforming(tag.bit):
                outs = graph.apply(inside)
            tangents = [tangent_of(x, tag) for x in outs]
            reached.append(present(tangents))
            return [*outs, *(t for t in tangents if t is not None)]

        like = [*graph.inputs, *(beside("d_", x) for x in chosen(moved, graph.inputs))]
        return traced(f"push_{graph.name}", like, push), reached[0]

    return kept(graph, ("push", moved), make)


def _entered(x: Tensor, tag: Tag) -> Tensor:
    """An input as the transform with this tag sees it; unlike in `autodiff.scope` it has no history."""
    node = leaf(x.shape, x.dtype, tag.bit, Cell(retains=False))
    tracer = current().tracer
    assert tracer is not None
    tracer.named(node, x._value)
    return new(x._value, node)


def filled(graph: Graph, reached: Mask, all_reached: Mask, like: Sequence[Variable]) -> Graph:
    """A graph that gives the values reached, giving zeros too for those that others reach."""
    if reached == all_reached:
        return graph

    def fill(given: list[Tensor]) -> list[Tensor]:
        outs = dealt(reached, graph.apply(given))
        return chosen(all_reached, or_zeros(outs, like))

    return kept(graph, ("filled", reached, all_reached), lambda: traced(graph.name, graph.inputs, fill))


def batched_of(graph: Graph, batched: Mask, size: int, needed: Mask | None = None) -> tuple[Graph, Mask]:
    """The graph for ``size`` examples at once, of which batched inputs have one each; and which outputs have, needed ones in any case."""

    def make() -> tuple[Graph, Mask]:
        reached: list[Mask] = []

        def apply(given: list[Tensor]) -> list[Tensor]:
            outs, which = functions.apply_batched(graph, batched, given)
            reached.append(tuple(which) if needed is None else either(tuple(which), needed))
            return [x if b or not needs else stretched(x, size) for x, b, needs in zip(outs, which, reached[0], strict=True)]

        like = [Variable(Aval((size, *x.shape), x.dtype), x.name) if b else x for x, b in zip(graph.inputs, batched, strict=True)]
        return traced(graph.name, like, apply), reached[0]

    return kept(graph, ("batched", batched, size, needed), make)


def stretched(x: Any, size: int) -> Any:
    """The same for every example."""
    return functions.broadcast_to(x, (size, *x.shape))


def batch_size(batched: Sequence[bool], inputs: Sequence[Any]) -> int:
    """The number of examples."""
    return next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
