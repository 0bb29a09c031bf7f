"""Inner graphs: the functions that control flow holds, as graphs of tensors in and tensors out.

A function is traced like any other; what it takes from outside then becomes further inputs and what it assigns further
outputs, so that an inner graph refers to nothing. Here they are made, made smaller, and run on arrays; how they are
differentiated is `derived`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, TraceError
from chainrule.core.interp import current
from chainrule.core.variable import Variable
from chainrule.graph.ir import Argument, Captured, Gradient, Graph, Operation, State
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import trace_with

# Containers of Tensors have no narrower type.
Tree = Any
Run = Callable[..., list[Any]]


class Inner:
    """A function of control flow, traced inside the function that is being traced.

    Parameters
    ----------
    f : callable
        Whose name and parameters' names are taken.
    checked : callable
        Called in its place, under its name; returns Tensors only.
    arguments : tree of Tensor
        What it would be called with.
    avals : sequence of Aval, optional
        Of the arguments' leaves, if they differ from those of the Tensors.
    """

    def __init__(self, f: Callable[..., Any], checked: Callable[..., Tree], arguments: tuple[Tree, ...], avals: Sequence[Aval] = ()) -> None:
        outer = current().tracer
        assert outer is not None
        checked.__name__ = getattr(f, "__name__", "f")
        leaves, structure = tree.flatten(arguments)
        avals = avals or [Aval(x.shape, x.dtype) for x in leaves]
        graph, tracer = trace_with(checked, avals, structure, names=leaf_names(f, arguments))
        self.structure = graph.results
        self.arguments = graph.parameters
        self.results = graph.returned
        self.taken: dict[Captured, Variable] = dict(zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True))
        for source, x in self.taken.items():
            if isinstance(source, State) and x.name:
                outer.call(source.tensor, x.name)
        ends = zip(graph.updated, graph.outputs[len(graph.returned) :], strict=True)
        self.assigned: dict[Captured, Variable] = {target: x for target, x in ends if not isinstance(target, Argument)}
        self.cleared = graph.cleared
        self.missing = [Gradient(x) for x in tracer.missing_gradients()]
        self._graph = graph

    def inputs(self, sources: Mapping[Captured, Variable]) -> dict[Captured, Variable]:
        """Its own variables for what it takes from outside, fresh ones for what it does not."""
        return {source: self.taken.get(source) or Variable(like.aval, like.name) for source, like in sources.items()}

    def closed(self, inputs: Iterable[Variable], outputs: Iterable[Variable]) -> Graph:
        """The function as a graph of these inputs and outputs."""
        return flat(self._graph.name, inputs, self._graph.nodes, outputs, self._graph.constants)

    def must_find_gradients_as_it_leaves_them(self, name: str) -> None:
        """Refuse a body whose second step would meet gradients where the first met none, or the reverse.

        Raises
        ------
        TraceError
            If that is so.
        """
        made = [target for target in self.missing if target in self.assigned]
        gone = [target for target in self.cleared if target in self.taken]
        if made or gone:
            first, second = ("none", "one") if made else ("one", "none")
            x = (made or gone)[0].tensor
            raise TraceError(
                f"{name}: the body found {first} in the .grad of a tensor {Aval(x.shape, x.dtype)} from outside, and leaves {second}",
                mend="begin the body with optimizer.zero_grad(), or compute gradients with cr.grad",
            )


def flat(name: str, inputs: Iterable[Variable], nodes: Sequence[Operation], outputs: Iterable[Variable], constants: Mapping[Variable, Any]) -> Graph:
    """A graph of tensors in and tensors out, without what these outputs do not need."""
    inputs, outputs = tuple(inputs), tuple(outputs)
    kept, read = needed(nodes, outputs)
    used = {x: value for x, value in constants.items() if x in read}
    return Graph(name, inputs, kept, outputs, used, flat_structure(len(inputs)), flat_structure(len(outputs)), {})


def flat_structure(count: int) -> tree.Structure:
    """That of a tuple."""
    return tree.flatten(tuple(range(count)))[1]


def restricted(graph: Graph, inputs: Collection[Variable], outputs: Iterable[int]) -> Graph:
    """Of an inner graph these inputs and these outputs."""
    ends = [graph.outputs[i] for i in outputs]
    return flat(graph.name, (x for x in graph.inputs if x in inputs), graph.nodes, ends, graph.constants)


def reads(graph: Graph, outputs: Iterable[int] | None = None) -> set[Variable]:
    """All values that these outputs, or all, depend on, themselves included."""
    ends = graph.outputs if outputs is None else [graph.outputs[i] for i in outputs]
    return needed(graph.nodes, ends)[1]


Prune = Callable[[Operation, Collection[Variable]], Operation]
PRUNES: dict[str, Prune] = {}
"""How gates that hold graphs leave out what nobody needs, by the gate's name."""


def prune(operation: Operation, used: Collection[Variable]) -> Operation:
    """The operation with those of its outputs that are used, and of its inner graphs what these need.

    Parameters
    ----------
    operation : Operation
        Of any gate; one without inner graphs stays as it is.
    used : collection of Variable
        At least one of its outputs.
    """
    rule = PRUNES.get(operation.primitive.name)
    return operation if rule is None or all(x in used for x in operation.outputs) else rule(operation, used)


def pruned(operation: Operation, inputs: Iterable[int], outputs: Iterable[int], **params: Any) -> Operation:
    """The operation with these inputs and outputs, and with other parameters."""
    kept, given = tuple(operation.outputs[i] for i in outputs), tuple(operation.inputs[i] for i in inputs)
    return replace(operation, inputs=given, outputs=kept, params={**operation.params, **params})


def needed(nodes: Sequence[Operation], outputs: Iterable[Variable]) -> tuple[tuple[Operation, ...], set[Variable]]:
    """What of the operations these values need, and all values that they depend on, themselves included."""
    read = set(outputs)
    kept: list[Operation] = []
    for node in reversed(nodes):
        if not read.isdisjoint(node.outputs):
            node = prune(node, read)
            kept.append(node)
            read.update(node.inputs)
    return tuple(reversed(kept)), read


def check_inner(name: str, graph: Graph, avals: Sequence[Aval], gives: Sequence[Aval]) -> None:
    """Refuse an inner graph that takes or, first of all, gives other shapes and dtypes than these.

    Raises
    ------
    ArgumentError
        If it does.
    """
    found = [x.aval for x in graph.inputs], [x.aval for x in graph.outputs[: len(gives)]]
    for word, own, wanted in zip(("takes", "gives"), found, (list(avals), list(gives)), strict=True):
        if own != wanted:
            says = f"{name}: its graph {graph.name} {word} ({', '.join(map(str, own))}) where it should be ({', '.join(map(str, wanted))})"
            raise ArgumentError(says, mend="mend the pass that made this graph")


def runner(graph: Graph) -> Run:
    """An inner graph as a function of arrays, which returns a list of arrays; made once per graph."""
    found = graph.__dict__.get("_runner")
    if found is None:
        found = graph.__dict__["_runner"] = _runner(graph)
    return found


def _runner(graph: Graph) -> Run:
    slots: dict[Variable, int] = {}
    for x in (*graph.inputs, *graph.constants, *(x for node in graph.nodes for x in node.outputs)):
        slots[x] = len(slots)
    template: list[Any] = [None] * len(slots)
    for x, value in graph.constants.items():
        template[slots[x]] = value
    places = lambda variables: [slots[x] for x in variables]
    steps = [
        (node, partial(node.primitive.evaluate, **node.params), places(node.inputs), places(node.outputs), places(dead))
        for node, dead in zip(graph.nodes, graph.last_uses(), strict=True)
    ]
    ends = places(graph.outputs)
    count = len(graph.inputs)

    def run(*values: Any) -> list[Any]:
        env = template.copy()
        env[:count] = values
        for node, evaluate, inputs, outputs, dead in steps:
            given = [env[i] for i in inputs]
            try:
                out = evaluate(*given)
            except Exception as error:
                raise node.primitive.diagnose(given, node.params, error) from None
            if node.primitive.outputs:
                for i, value in zip(outputs, out, strict=True):
                    env[i] = value
            else:
                env[outputs[0]] = out
            for i in dead:
                env[i] = None
        return [env[i] for i in ends]

    return run
