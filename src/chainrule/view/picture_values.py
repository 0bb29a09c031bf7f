"""What a picture shows: the gates of a graph or of a tape, the values that flow through them, and their gradients.

Both become a `Program`. A graph is run once for its examples, and everything is known. A tape holds only what the backward pass
reads; what can be computed from that is, and the rest stays unknown. Nothing outside is changed: no ``.grad``, no hook,
no generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.core import chain, tree
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import ARRAYS, BASE, EVERYDAY, using
from chainrule.core.node import Node, leaf, make
from chainrule.core.primitive import Primitive, functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, State
from chainrule.graph.naming import unnamed
from chainrule.tape import bind
from chainrule.tensor import Tensor, new
from chainrule.view.watching import place_of

# An array or a NumPy scalar.
Array = Any


@dataclass(slots=True, eq=False)
class Value:
    """One value.

    Attributes
    ----------
    name : str
        The user's own; '' if there is none.
    shape : tuple of int
    kind : str
        "argument", "outside" (a parameter), "state" (running statistics, say), "constant", "computed", or "counter": a random
        generator's state, which is not drawn.
    value, gradient : array or None
        None where unknown, or where no gradient arrives.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    value: Array | None = None
    gradient: Array | None = None


@dataclass(slots=True, eq=False)
class Step:
    """One gate, and per input the gradient that it sends back."""

    primitive: Primitive
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: Mapping[str, Any]
    scope: tuple[str, ...] = ()
    shares: list[Array | None] = field(default_factory=list[Array | None])


@dataclass(slots=True, eq=False)
class Program:
    """Gates in the order in which they run, what comes out, and the layers' classes by their paths."""

    name: str
    steps: list[Step]
    outputs: tuple[Value, ...]
    layers: Mapping[str, str] = field(default_factory=dict[str, str])


def of_graph(graph: Graph, examples: Sequence[Any]) -> Program:
    """The program of a graph, with values and gradients if there are examples to run it for.

    Raises
    ------
    ArgumentError
        If the examples do not fit the graph.
    """
    made: dict[Variable, Value] = {}

    def value_of(x: Variable, kind: str) -> Value:
        made[x] = Value("" if unnamed(x) else x.name, x.shape, kind)
        return made[x]

    for x in graph.parameters:
        value_of(x, "argument")
    for source, x in zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True):
        value_of(x, "outside" if source.tensor.requires_grad else "state")
    for x, constant in graph.constants.items():
        value_of(x, "constant").value = constant
    steps: list[Step] = []
    counters = _counters(graph)
    for node in graph.nodes:
        inputs = tuple(made[x] for x in node.inputs)
        step = Step(node.primitive, inputs, tuple(value_of(x, "computed") for x in node.outputs), node.params, node.scope)
        step.shares = [None] * len(inputs)
        steps.append(step)
    for x in counters:
        made[x].kind = "counter"
    shown = [step for step in steps if any(x.kind != "counter" for x in step.outputs)]
    program = Program(graph.name, shown, tuple(made[x] for x in graph.returned), graph.layers)
    if examples or not graph.parameters:
        _run(graph, examples, made, steps)
    return program


def _counters(graph: Graph) -> set[Variable]:
    """The states of random generators on their way through a graph: integers that it takes from outside and counts on."""
    kept = {x for x, target in zip(graph.outputs[len(graph.returned) :], graph.updated, strict=True) if isinstance(target, State)}
    for node in reversed(graph.nodes):
        if kept.intersection(node.outputs):
            kept.update(node.inputs)
    found = {x for x in graph.inputs[len(graph.parameters) :] if x in kept and x.dtype.kind in "iu"}
    for node in graph.nodes:
        others = set(node.inputs) - graph.constants.keys()
        if others and others <= found and kept.issuperset(node.outputs):
            found.update(node.outputs)
    return found


def _run(graph: Graph, examples: Sequence[Any], made: Mapping[Variable, Value], steps: Sequence[Step]) -> None:
    leaves, structure = tree.flatten(tuple(examples))
    if structure != graph.arguments:
        says = f"{graph.name} was traced with arguments {tree.describe(graph.arguments)}, not {tree.describe(structure)}"
        raise ArgumentError(says, mend="nest the examples as the function's arguments are")
    with using(EVERYDAY), np.errstate(all="ignore"):
        given = [*(graph._fitting(leaf, x) for leaf, x in zip(leaves, graph.parameters, strict=True)), *graph.read()]
        env = {x: _fresh(tensor) for x, tensor in zip(graph.inputs, given, strict=True)}
        env |= {x: new(value) for x, value in graph.constants.items()}
        uses = Counter(x for node in graph.nodes for x in node.inputs)
        sent: list[tuple[Tensor, ...]] = []
        for node in graph.nodes:
            # Each use of a value has a node of its own, at which the gradient of that use arrives.
            inputs = tuple(functions.positive(env[x]) if uses[x] > 1 and env[x]._node is not None else env[x] for x in node.inputs)
            out = bind(node.primitive, inputs, node.params)
            env.update(zip(node.outputs, out if node.primitive.outputs else (out,), strict=True))
            sent.append(inputs)
    for x, value in made.items():
        value.value = env[x]._value
    if len(graph.returned) != 1:
        return
    arrived = _sweep(env[graph.returned[0]])
    for x, value in made.items():
        value.gradient = _at(arrived, env[x])
    for step, inputs in zip(steps, sent, strict=True):
        step.shares = [_at(arrived, x) for x in inputs]


def _fresh(x: Tensor) -> Tensor:
    """The same value, as a leaf that wants a gradient if it can have one."""
    own = new(x._value)
    return own.requires_grad_() if own.dtype.kind == "f" else own


def _at(arrived: Mapping[Node, Array], x: Tensor) -> Array | None:
    return None if x._node is None else arrived.get(x._node)


def _sweep(loss: Tensor) -> dict[Node, Array]:
    """The gradients at every node behind a scalar; none if it is none."""
    arrived: dict[Node, Array] = {}
    node = loss._node
    if node is None or loss.size != 1 or not node.tags & BASE:
        return arrived

    def keep(node: Node | None, ct: Array) -> None:
        if node is not None:
            arrived[node] = ct

    with using(ARRAYS), np.errstate(all="ignore"):
        chain.sweep([(node, np.ones(node.shape, node.dtype))], BASE, wrap=None, retain=True, arrive=lambda node, ct: ct, label=keep)
    return arrived


def of_tape(loss: Tensor, held: Iterable[tuple[str, Tensor]]) -> Program:
    """The program that made a tensor, read off its history.

    Parameters
    ----------
    loss : Tensor
        With history.
    held : iterable of (str, Tensor)
        Tensors that the caller holds, with their names there: no node knows either.

    Raises
    ------
    ArgumentError
        If the tensor has no history.
    """
    if loss._node is None or loss._node.primitive is None:
        says = f"the tensor of shape {loss.shape} has no history to draw"
        raise ArgumentError(says, mend="draw what was computed from a tensor with requires_grad=True, or give draw the function and examples")
    nodes = _history(loss._node)
    held = list(held)
    names = {x._node: (name, x._value) for name, x in held if x._node is not None}
    names = {loss._node: ("", loss._value)} | names
    # What has no history is known by the array that the gate kept.
    arrays = {id(x._value): name for name, x in held if x._node is None and x.ndim}
    made: dict[Node, Value] = {}
    steps: dict[Node, Step] = {}
    for node in nodes:
        name, value = names.get(node, (place_of(node).name, None))
        made[node] = own = Value(name, node.shape, "outside" if node.primitive is None else "computed", value)
        if node.primitive is None:
            own.gradient = None if node.cell is None or node.cell.grad is None else node.cell.grad._value
        elif node.primitive is chain.ITEM:
            gate = steps[node.inputs[0]]  # pyright: ignore[reportArgumentType] - an item is always of a node
            gate.outputs = (*gate.outputs, own)
        else:
            inputs = tuple(_input(node, i, source, made, arrays) for i, source in enumerate(node.inputs))
            step = Step(node.primitive, inputs, () if node.primitive.outputs else (own,), node.params, place_of(node).scope, [None] * len(inputs))
            if node.saved and own.value is None and not node.primitive.outputs:
                own.value = node.saved[-1]
            steps[node] = step
    _fill(steps.values())
    if all(node.saved is not None or node.primitive is None for node in nodes):
        _gradients(loss, nodes, made, steps)
    else:
        uses = Counter(x for step in steps.values() for x in step.inputs)
        for step in steps.values():
            step.shares = [x.gradient if uses[x] == 1 else None for x in step.inputs]
    return Program("", [*steps.values()], (made[loss._node],))


def _history(end: Node) -> list[Node]:
    """All nodes behind one, oldest first."""
    seen = {end.order: end}
    stack = [end]
    while stack:
        for source in stack.pop().inputs:
            if source is not None and source.order not in seen:
                seen[source.order] = source
                stack.append(source)
    return [seen[order] for order in sorted(seen)]


def _input(node: Node, i: int, source: Node | None, made: Mapping[Node, Value], arrays: Mapping[int, str]) -> Value:
    saved: Array | None = None
    if node.saved and node.primitive is not None:
        saved = (node.saved[0] or (None,) * len(node.inputs))[i] if node.primitive.variadic else node.saved[i]
    if source is None:
        return Value(arrays.get(id(saved), ""), () if saved is None else np.shape(saved), "constant", saved)
    value = made[source]
    if value.value is None:
        value.value = saved
    return value


def _fill(steps: Iterable[Step]) -> None:
    """Compute what was not kept from what was."""
    with using(ARRAYS), np.errstate(all="ignore"):
        for step in steps:
            missing = len(step.outputs) == 1 and not step.primitive.outputs and step.outputs[0].value is None
            if missing and all(x.value is not None for x in step.inputs):
                step.outputs[0].value = step.primitive.evaluate(*(x.value for x in step.inputs), **step.params)
            unknown = [x for x in step.inputs if x.kind == "constant" and x.value is None]
            if len(unknown) == 1:
                unknown[0].value = _solved(step)


_FIGURES = 6


def _solved(step: Step) -> Array | None:
    """The single number that a gate was given beside tensors and did not keep, if it follows from the rest: the 1 of exp(x) + 1."""
    gate, (out, *_) = step.primitive, step.outputs
    known = [x.value for x in step.inputs]
    if gate.partials is None or out.value is None or not np.size(out.value) or sum(x is None for x in known) != 1:
        return None
    place = next(i for i, x in enumerate(known) if x is None)
    dtype = np.result_type(out.value)

    def result(number: float) -> Array:
        return gate.evaluate(*(dtype.type(number) if i == place else x for i, x in enumerate(known)), **step.params)

    # As in a sum or a quotient, by a straight line through two points; that it is right is tried.
    start, end, there = (float(np.asarray(x).flat[0]) for x in (result(0.0), result(1.0), out.value))
    number = (there - start) / (end - start) if end != start else float("nan")
    # The difference is rounded, so the shortest number will do that gives the same.
    written = (float(f"{number:.{figures}g}") for figures in range(1, _FIGURES + 1))
    return next((dtype.type(short) for short in written if np.array_equal(result(short), out.value)), None)


def _gradients(loss: Tensor, nodes: Sequence[Node], made: Mapping[Node, Value], steps: Mapping[Node, Step]) -> None:
    arrived = _sweep(loss)
    uses = Counter(source for node in nodes for source in node.inputs if source is not None)
    for node, value in made.items():
        if node in arrived and node.shape is not None:
            value.gradient = arrived[node]
    with using(ARRAYS), np.errstate(all="ignore"):
        for node, step in steps.items():
            sent = _sent(node, arrived) if any(uses[source] > 1 for source in node.inputs if source is not None) else None
            step.shares = [arrived.get(x) if x is not None and uses[x] == 1 else sent and sent[i] for i, x in enumerate(node.inputs)]


def _sent(node: Node, arrived: Mapping[Node, Array]) -> list[Array | None] | None:
    """What a gate alone sends back to each input: that of a gate like it, whose inputs are leaves that nobody else uses."""
    if node not in arrived:
        return None
    ends = [None if x is None else leaf(x.shape, x.dtype, x.tags, None) for x in node.inputs]
    like = make(node.primitive, tuple(ends), node.saved or (), node.params, node.tags, node.shape, node.dtype)
    found = chain.sweep([(like, arrived[node])], BASE, wrap=None, retain=True, arrive=lambda node, ct: ct, wanted=dict.fromkeys(filter(None, ends)))
    return [None if end is None else found.get(end) for end in ends]
