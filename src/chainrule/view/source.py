"""Flat code: a function and its gradient, written out step by step in a language of choice.

Here the steps are worked out, once for all languages: the forward statements, then the backward pass as the forward one
reversed, every gradient under the name ``grad_<variable>``. How they are written is the targets' affair, one module each. Nothing is
computed here, and nothing that runs reads this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from chainrule.autodiff.checkpoint import opened, without_barriers
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.interp import BASE, enable_grad
from chainrule.core.node import Node
from chainrule.core.primitive import TABLE, public
from chainrule.core.variable import Variable
from chainrule.graph.ir import Argument, Gradient, Graph, Operation, State
from chainrule.graph.naming import unnamed
from chainrule.graph.trace import GraphTracer, trace, trace_with
from chainrule.tape import reverse
from chainrule.tensor import Tensor, new

TARGETS = {
    "numpy": "chainrule.view.targets.numpy",
    "latex": "chainrule.view.targets.latex",
    "c": "chainrule.view.targets.c",
    "javascript": "chainrule.view.targets.javascript",
}
"""Per target the module whose `write(listing) -> str` prints it; imported when it is first asked for."""


@dataclass(frozen=True)
class Listing:
    """What a target's `write` is given: every statement of the forward and the backward pass, in the order in which it runs.

    A target writes the inputs as parameters, the constants, then ``graph.nodes`` one after another, under `names`. Every node is an
    ordinary gate (its `Primitive` record says what it computes); there is nothing else to know:

    - the gradient that the backward pass starts from is a gate ``positive`` of the constant 1, or for results that are
      no scalar a further input;
    - a gradient that is handed on unchanged, under the name of another variable, is a gate ``positive``;
    - gradients that meet at a branch are gates ``add``; un-broadcasting is a gate ``sum``.

    A gate that a target cannot print is refused by `refused`.

    Attributes
    ----------
    graph : Graph
        Forward nodes, then backward ones. Its inputs are the function's arguments, what it takes from outside (parameters), and
        the gradients of results that are no scalar. Its outputs are those of `values`, `gradients` and `updates`, in this order.
    turn : int
        How many nodes belong to the forward pass.
    names : Mapping of Variable to str
        An identifier (in Python) for every value but 0-d constants, which are written as numbers.
    values : tuple of Variable
        The function's results.
    gradients : tuple of (Variable, Variable)
        What is differentiated by, an input, and its gradient; inputs that the result does not depend on are left out.
    updates : tuple of (str, Variable)
        What the function assigns to tensors outside (running statistics, a generator's state), by name.
    reached : Mapping of Variable to Variable
        The gradient of every value of the forward pass that the backward pass comes to.
    steps : Mapping of Variable to Operation
        For values of the backward pass, the forward node whose backward step computes them; what the pass starts from has none.
    """

    graph: Graph
    turn: int
    names: Mapping[Variable, str]
    values: tuple[Variable, ...]
    gradients: tuple[tuple[Variable, Variable], ...]
    updates: tuple[tuple[str, Variable], ...]
    reached: Mapping[Variable, Variable] = field(default_factory=dict[Variable, Variable])
    steps: Mapping[Variable, Operation] = field(default_factory=dict[Variable, Operation])

    @property
    def forward(self) -> tuple[Operation, ...]:
        return self.graph.nodes[: self.turn]

    @property
    def backward(self) -> tuple[Operation, ...]:
        return self.graph.nodes[self.turn :]


def refused(target: str, node: Operation, why: str = "") -> ArgumentError:
    """The error for a gate that a target cannot print."""
    operands = ", ".join(str(x.aval) for x in node.inputs)
    says = f"the target {target!r} cannot print the gate {node.primitive.name}({operands})" + (f": {why}" if why else "")
    # What C has no words for JavaScript has none for either; NumPy has the library's own evaluation.
    other = "" if target == "numpy" else "choose target='numpy', or "
    return ArgumentError(says, mend=f"{other}leave the gate out of the function")


@public
def source(f: Callable[..., Any] | Graph, /, *examples: Any, target: str = "numpy", wrt: Sequence[str] | None = None) -> str:
    '''A function and its gradient as flat code: forward statements, then the backward pass, gate by gate.

    Parameters
    ----------
    f : callable or Graph
    *examples : Tensor, array_like or containers of them
        Arguments of the shapes and dtypes for which the code is; none for a graph.
    target : {"numpy", "c", "javascript", "latex"}
        "numpy": a Python module that needs NumPy alone. It defines a function of the name of ``f`` that returns the value and a dict of
        the gradients by name, and a dict of what the function assigns (running statistics), if it does. "c": a C99 function that writes to
        memory of the caller, without allocation. "javascript": a function of the inputs and of values that replace computed ones. "latex":
        equations, local derivatives and gradients as formulas.
    wrt : sequence of str, optional
        Names of what to differentiate by. If not given, all tensors that require a gradient; if there are none, all real floating-point
        arguments.

    Returns
    -------
    str

    Raises
    ------
    ArgumentError
        If there is no such target or name, or if the target cannot print a gate.
    GradientError
        If the results do not depend on anything to differentiate by.

    Notes
    -----
    The result's own gradient is 1 if it is one scalar; else an argument ``grad_<result>`` of the code's function: the code is the
    vector-Jacobian product.

    What the function takes from outside (parameters, a generator's state) are further arguments, under the names that the program
    gives them; random numbers are printed as what they are, a function of that state, so that the code draws what the library draws.

    Examples
    --------
    >>> import chainrule as cr
    >>> def neuron(w, x):
    ...     s = w * x
    ...     y = cr.tanh(s)
    ...     return y
    >>> print(cr.source(neuron, 2.0, -1.0), end="")
    """neuron and its gradient, gate by gate: value, gradients = neuron(w, x)"""
    <BLANKLINE>
    import numpy as np
    <BLANKLINE>
    <BLANKLINE>
    @np.errstate(all="ignore")
    def neuron(w, x):
        """w: float32(), x: float32()"""
        s = w * x  # float32()
        y = np.tanh(s)  # float32()
    <BLANKLINE>
        # The backward pass is the forward pass reversed.
        grad_y = 1  # float32()
        grad_s = grad_y * (1 - y * y)  # float32()
        grad_w = grad_s * x  # float32()
        grad_x = grad_s * w  # float32()
    <BLANKLINE>
        return y, {"w": grad_w, "x": grad_x}
    '''
    if target not in TARGETS:
        raise ArgumentError(f"there is no target {target!r}", mend=f"choose among {', '.join(map(repr, TARGETS))}")
    write: Callable[[Listing], str] = import_module(TARGETS[target]).write
    return write(listed(f, *examples, wrt=wrt))


@enable_grad()
def listed(f: Callable[..., Any] | Graph, /, *examples: Any, wrt: Sequence[str] | None = None, whole: bool = False, seeded: bool = False) -> Listing:
    """The statements of a function and its gradient; see `source`.

    Parameters
    ----------
    f, *examples, wrt
        See `source`.
    whole : bool
        Keep forward statements on which no result depends, and checkpoints as one gate.
    seeded : bool
        Take the gradient of a scalar result as an input too.
    """
    # What is computed twice to save memory is the same thing once.
    graph = f if isinstance(f, Graph) else trace(f, *examples)
    if not whole:
        graph = without_barriers(opened(graph))
    required = {x for x, leaf in zip(graph.parameters, tree.leaves(examples), strict=False) if isinstance(leaf, Tensor) and leaf.requires_grad}
    chosen = _chosen(graph, required, wrt)
    results = [x for x in graph.returned if x.dtype.kind == "f"]
    if not results:
        raise GradientError(f"{graph.name} has no real floating-point result", mend="return what is to be differentiated")
    scalar = len(results) == 1 and not results[0].shape and not seeded
    tracer = _Follower()
    ends: dict[str, Any] = {}

    def both(*args: Tensor) -> tuple[Tensor, ...]:
        inputs, seeds = args[: len(graph.inputs)], list(args[len(graph.inputs) :])
        outs = graph.apply(inputs)
        tracer.turn = len(tracer.nodes)
        roots = [x for x, y in zip(outs, graph.returned, strict=False) if y.dtype.kind == "f"]
        seeds = [tracer.one(results[0].dtype)] if scalar else seeds
        nodes = {x: inputs[i]._node for i, x in enumerate(graph.inputs) if x in chosen}
        kept = [(x, ct) for x, ct in zip(roots, seeds, strict=True) if x._node is not None]
        if not kept:
            raise GradientError(f"the results of {graph.name} depend on nothing to differentiate by", mend="name other variables in wrt=")
        found = reverse([x for x, _ in kept], [ct for _, ct in kept], BASE, retain=True, wanted=[n for n in nodes.values() if n is not None])
        there = [(x, found[node]) for x, node in nodes.items() if node in found]
        ends["reached"] = [x for x, _ in there]
        return (*outs, *(ct for _, ct in there))

    avals = [*(x.aval for x in graph.inputs), *(x.aval for x in results if not scalar)]
    names = [*(x.name for x in graph.inputs), *(f"grad_{x.name}" for x in results if not scalar)]
    leaves = [x in chosen for x in graph.inputs] + [False] * (len(avals) - len(graph.inputs))
    _, structure = tree.flatten(tuple(0.0 for _ in avals))
    both.__name__ = graph.name
    made, _ = trace_with(both, avals, structure, names=names, tracer=tracer, leaves=leaves)
    count, assigned = len(graph.returned), len(graph.outputs)
    inputs = dict(zip(graph.inputs, made.inputs, strict=False))
    steps = _Steps(made, tracer)
    gradients = tuple((inputs[x], steps.end(inputs[x], ct)) for x, ct in zip(ends["reached"], made.outputs[assigned:], strict=True))
    updates = tuple(zip(_assigned_names(graph), made.outputs[count:assigned], strict=True))
    return steps.listing(made.outputs[:count], gradients, updates, whole=whole)


def _chosen(graph: Graph, required: set[Variable], wrt: Sequence[str] | None) -> set[Variable]:
    """The inputs to differentiate by."""
    floats = [x for x in graph.inputs if x.dtype.kind == "f"]
    if wrt is not None:
        by_name = {x.name: x for x in floats}
        for name in wrt:
            if name not in by_name:
                says = f"{graph.name} has no real floating-point input {name!r}"
                raise ArgumentError(says, mend=f"choose among {', '.join(by_name)}")
        return {by_name[name] for name in wrt}
    outside = zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True)
    required = required | {x for one, x in outside if isinstance(one, State) and one.tensor.requires_grad and one.tensor.is_leaf}
    return required or {x for x in graph.parameters if x.dtype.kind == "f"}


def _assigned_names(graph: Graph) -> list[str]:
    outside = dict(zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True))
    found: list[str] = []
    for i, target in enumerate(graph.updated):
        if isinstance(target, Argument):
            found.append(graph.inputs[target.position].name)
            continue
        held = outside.get(State(target.tensor))
        base = f"state_{i}" if held is None else held.name
        found.append(f"{base}.grad" if isinstance(target, Gradient) else base)
    return found


class _Follower(GraphTracer):
    """Notes when the backward pass reaches which value, and with which gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.reached: list[tuple[int, Variable | None, Any]] = []

    def one(self, dtype: Any) -> Tensor:
        """The number that a backward pass starts from, which is no other constant's."""
        start = Variable(Aval((), dtype), "", self.owner)
        self.constants[start] = dtype.type(1)
        return new(start)

    def gradient(self, node: Node | None, ct: Any) -> None:
        # Of sweeps inside the function nothing is told.
        if self.turn:
            value = None if node is None else self._values.get(node.order)
            self.reached.append((len(self.nodes), value, ct._value if isinstance(ct, Tensor) else None))
        super().gradient(node, ct)


class _Steps:
    """The nodes of a graph of both passes, with a name of its own for every gradient of a named value."""

    def __init__(self, made: Graph, tracer: _Follower) -> None:
        self.made = made
        self.turn = tracer.turn
        self.names: dict[Variable, str] = {}
        self.nodes = list(made.nodes[: self.turn])
        self._taken: set[str] = set()
        for x in (*made.inputs, *(x for node in self.nodes for x in node.outputs)):
            self._name(x, x.name)
        self._made_by = {x: node for node in self.nodes for x in node.outputs}
        # Cotangents of values, as they were traced, and the names under which they go on.
        self._raw = {value: ct for _, value, ct in tracer.reached if value is not None and ct is not None}
        self._gradient: dict[Variable, Variable] = {}
        self._steps: dict[Variable, Operation] = {}
        # What the backward pass computes may take a value's name, once.
        self._free = {x for node in made.nodes[self.turn :] for x in node.outputs}
        marks = [(self.turn, None, None), *tracer.reached, (len(made.nodes), None, None)]
        maker: Operation | None = None
        for (start, value, ct), (stop, _, _) in pairwise(marks):
            stands = self._reach(value, ct)
            # A gate of several outputs is entered after them, and is no value itself.
            maker = maker if value is None else self._made_by.get(value)
            for node in made.nodes[start:stop]:
                self.nodes.append(replace(node, inputs=tuple(stands.get(x, x) for x in node.inputs)))
                self._steps.update((x, maker) for x in node.outputs if maker is not None)
            if value is not None:
                self._hand_on(value)

    def _reach(self, value: Variable | None, ct: Variable | None) -> dict[Variable, Variable]:
        """The backward pass has come to a value, of which this is the cotangent: what stands for it behind."""
        if value is None or ct is None:
            return {}
        if value not in self._gradient:
            if ct in self._free:
                self._free.discard(ct)
                self._gradient[value] = ct
                self._name(ct, f"grad_{value.name}")
            else:
                self._call(value, ct, ct)
        return {ct: self._gradient[value]}

    def _hand_on(self, value: Variable) -> None:
        """What a value was computed from may have the same gradient: the function's inputs first."""
        maker, ct = self._made_by.get(value), self._raw.get(value)
        for x in sorted(dict.fromkeys(maker.inputs), key=lambda x: x in self._made_by) if maker is not None else ():
            if x not in self._gradient and ct is not None and self._raw.get(x) is ct:
                self._call(x, ct, self._gradient[value])
                if maker is not None and self._gradient[x] is not self._gradient[value]:
                    self._steps[self._gradient[x]] = maker

    def _call(self, value: Variable, ct: Variable, origin: Variable) -> None:
        """Give a gradient that is another value's too a name of its own, in a statement, unless the value has none."""
        if (unnamed(value) and origin not in self.made.constants) or self.names.get(origin) == f"grad_{value.name}":
            self._gradient[value] = origin
            return
        own = self._gradient[value] = Variable(ct.aval)
        self._name(own, f"grad_{value.name}")
        maker = self._made_by.get(value)
        if origin in self._steps:
            self._steps[own] = self._steps[origin]
        made = Operation(TABLE["positive"], (origin,), {}, (own,))
        self.nodes.append(made if maker is None else replace(made, scope=maker.scope, line=maker.line))

    def end(self, value: Variable, ct: Variable) -> Variable:
        return self._gradient.get(value, ct)

    def _name(self, x: Variable, name: str) -> None:
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        self.names[x] = found

    def listing(
        self,
        values: tuple[Variable, ...],
        gradients: tuple[tuple[Variable, Variable], ...],
        updates: tuple[tuple[str, Variable], ...],
        *,
        whole: bool,
    ) -> Listing:
        made = self.made
        outputs = (*values, *(g for _, g in gradients), *(x for _, x in updates))
        nodes = _plain_sums(self.nodes)
        if whole:
            nodes[: self.turn] = self.nodes[: self.turn]
        forward = set(nodes[: self.turn])
        wanted = set(_needed(nodes, outputs))
        nodes = [node for node in nodes if node in wanted or (whole and node in forward)]
        turn = sum(node in forward for node in nodes)
        used = {x for node in nodes for x in node.inputs} | set(outputs)
        constants = {x: value for x, value in made.constants.items() if x in used}
        for x, value in constants.items():
            if np.ndim(value):
                self._name(x, x.name or "c")
        count = 0
        for x in (x for node in nodes for x in node.outputs if x not in self.names):
            count += 1
            while f"t{count}" in self._taken:
                count += 1
            self._name(x, f"t{count}")
        _, results = tree.flatten((0.0,) * len(outputs))
        _, arguments = tree.flatten((0.0,) * len(made.inputs))
        graph = Graph(made.name, made.inputs, tuple(nodes), outputs, constants, arguments, results, {})
        there = {*made.inputs, *constants, *(x for node in nodes for x in node.outputs)}
        reached = {x: ct for x, ct in self._gradient.items() if x in there and ct in there}
        return Listing(graph, turn, self.names, values, gradients, updates, reached, self._steps)


def _plain_sums(nodes: Sequence[Operation]) -> list[Operation]:
    """Un-broadcasting as one sum, where it was a sum that keeps its axes and a reshape that drops them."""
    made = {node.outputs[0]: node for node in nodes if node.primitive.name == "sum" and node.params["keepdims"]}
    plain: list[Operation] = []
    for node in nodes:
        behind = made.get(node.inputs[0]) if node.primitive.name == "reshape" else None
        if behind is not None:
            axis, x = behind.params["axis"], behind.inputs[0]
            if node.params["shape"] == tuple(size for i, size in enumerate(x.shape) if i not in axis):
                node = replace(behind, params={**behind.params, "keepdims": False}, outputs=node.outputs)
        plain.append(node)
    return plain


def _needed(nodes: Sequence[Operation], outputs: Sequence[Variable]) -> list[Operation]:
    """The nodes that an output depends on."""
    wanted = set(outputs)
    kept: list[Operation] = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]
