"""Tracing: a function is called with names in the place of numbers, and every gate is written down.

Tensors from outside are never touched: while the trace runs, a traced Tensor stands for each, with a leaf of its own
where the other is one, so that an assignment, a backward pass or an error in the function leaves everything outside as it was.
What was assigned is read off the stand-ins at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, ChainruleError, TraceError
from chainrule.core.interp import BASE, Mode, Tag, Tracer, current, using
from chainrule.core.node import Cell, Node, leaf
from chainrule.core.primitive import TABLE, Primitive, functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Argument, Captured, Gradient, Graph, Operation, State
from chainrule.graph.naming import caller, leaf_names, name_in_caller, name_in_layer, unnamed
from chainrule.tape import record
from chainrule.tensor import Tensor, new

__all__ = ["trace"]

# Containers of Tensors have no narrower type.
Tree = Any
_DEPTH = 3
_SMALL = 16


class _StandInCell(Cell):
    """Where gradients of a stand-in arrive; tells what ``.grad`` was before, and whether anyone asked."""

    __slots__ = ("_grad", "before", "changed", "observed", "stands_in", "tracer")

    def __init__(self, tracer: GraphTracer, before: Tensor) -> None:
        self.tracer = tracer
        self.before = before
        self.stands_in = not before.is_leaf
        self.changed = self.observed = False
        self._grad: Any = None
        super().__init__(retains=True)
        self.changed = False

    @property
    def grad(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride] - it is written like one
        if not self.changed and not self.observed:
            self.observed = True
            self._grad = self.tracer.gradient_before(self.before)
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        self.changed = True
        self._grad = value


class _ArgumentCell(Cell):
    """Of an argument that requires a gradient: its ``.grad`` is no part of the graph."""

    __slots__ = ("of", "stands_in")

    def __init__(self, of: Variable, *, computed: bool) -> None:
        self.of = of
        self.stands_in = computed
        super().__init__(retains=True)

    @property
    def grad(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride] - it is written like one
        raise TraceError(
            f"the .grad of the argument {self.of}, {self.of.aval}, is read or filled inside of the function, which a graph cannot do",
            mend="let the function return the gradient, with cr.grad or cr.autograd.grad; pass x.detach(), or take a parameter from outside",
        )

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            _ = self.grad


class GraphTracer:
    """Writes one function down.

    Parameters
    ----------
    may_build : bool
        Whether layers that are met may make their parameters now.
    within : Tracer, optional
        Of the function that is being traced around this one.
    at_once : bool
        Whether what is traced runs once, and now.
    """

    def __init__(self, *, may_build: bool = True, within: Tracer | None = None, at_once: bool = False) -> None:
        self.owner = object()
        self.nodes: list[Operation] = []
        self.constants: dict[Variable, Any] = {}
        self.layer_names: dict[int, dict[int, str]] = {}
        self.may_build = may_build
        self.at_once = at_once
        self._within = within
        self._numbers: dict[Any, Variable] = {}
        self._stand_ins: dict[int, tuple[Tensor, Tensor, Variable]] = {}
        self._gradients: dict[int, tuple[Tensor, Variable | None]] = {}
        self._cells: list[_StandInCell] = []
        self._values: dict[int, Variable] = {}
        self._makers: dict[Variable, Operation] = {}
        self._swept: Operation | None = None
        self._followed: Operation | None = None
        self._called: dict[int, tuple[Tensor, str]] = {}
        # Nothing carries this tag: where it is not tracked, `no_grad` is in force, and no derivative of the graph may pass.
        self.tag = Tag()
        self._untracked: set[Variable] = set()
        self._severed: dict[Variable, Variable] = {}
        self._owners: dict[int, tuple[Any, str]] = {}
        self.live: tuple[bool, ...] = ()
        self.carried: tuple[bool, ...] = ()

    # What the library asks of a tracer.

    def apply(self, primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        """Write down a gate: the interpreter in force while a function is traced."""
        given = [self.seen(x) if isinstance(x, Tensor) else self.constant(x) for x in inputs]
        tracking = current().tracking
        if tracking & self.tag.bit and self._untracked:
            given = [self._without_history(x) for x in given]
        values: list[Variable] = [x._value for x in given]
        try:
            avals = primitive.aval(*(value.aval for value in values), **params)
        except ChainruleError:
            raise
        except Exception as error:
            operands = ", ".join(str(value.aval) for value in values)
            raise ArgumentError(f"{primitive.name}({operands}): {error}", mend="pass operands that the gate takes") from None
        several = primitive.outputs
        outputs = tuple(Variable(aval, "", self.owner) for aval in (avals if several else (avals,)))
        self._write(primitive, tuple(values), params, outputs)
        if not tracking & self.tag.bit:
            self._untracked.update(outputs)
        out = record(primitive, given, values, outputs if several else outputs[0], params, tracking)
        for one in out if several else (out,):
            if one._node is not None:
                self._values[one._node.order] = one._value
        return out

    def _without_history(self, x: Tensor) -> Tensor:
        """What `no_grad` kept from having a history has none either when the graph is differentiated."""
        value = x._value
        if value not in self._untracked or value.dtype.kind not in "fc":
            return x
        if value not in self._severed:
            made, out = self._makers[value], Variable(value.aval, "", self.owner)
            self.nodes.append(Operation(TABLE["stop_gradient"], (value,), {}, (out,), made.scope, made.line))
            self._severed[value] = out
        return new(self._severed[value], x._node)

    def seen(self, x: Tensor) -> Tensor:
        """The traced Tensor that stands for ``x``."""
        value = x._value
        if value.__class__ is Variable and value.owner is self.owner:
            return x
        known = self._stand_ins.get(id(x))
        if known is None:
            return self._stand_in(x)
        if not known[2].name:
            known[2].name = self._outside_name(x)
        return known[1]

    def readable(self, x: Tensor) -> bool:
        """Whether a tensor from outside may be read as numbers: what is traced runs at once, and has not assigned to it."""
        known = self._stand_ins.get(id(x))
        return self.at_once and (known is None or known[1]._value is known[2]) and (self._within is None or self._within.readable(x))

    def constant(self, value: Any) -> Tensor:
        """A traced Tensor of a fixed value."""
        value = value if isinstance(value, (np.ndarray, np.generic)) else np.asarray(value)
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size <= _SMALL else None
        variable = None if key is None else self._numbers.get(key)
        if variable is None:
            variable = Variable(Aval(value.shape, value.dtype), "" if value.ndim == 0 else "c", self.owner)
            self.constants[variable] = value
            if key is not None:
                self._numbers[key] = variable
        return new(variable)

    def named(self, node: Node, value: Any) -> None:
        """Remember the value of a node of the tape."""
        self._values[node.order] = value

    def gradient(self, node: Node | None, ct: Any) -> None:
        """Name a cotangent after the value that it belongs to; what carries it on stands where the value was made."""
        value = None if node is None else self._values.get(node.order)
        self._swept = None if value is None else self._makers.get(value)
        if value is None or not value.name or not isinstance(ct, Tensor):
            return
        own = ct._value
        if isinstance(own, Variable) and not own.name and own not in self.constants:
            own.name = f"grad_{value.name}"

    def follow(self, operation: Operation | None) -> None:
        """Give what is written next the names of an operation of another graph."""
        self._followed = operation

    def call(self, x: Tensor, name: str) -> None:
        """Say what a tensor from outside is called."""
        self._called[id(x)] = (x, name)
        if self._within is not None:
            self._within.call(x, name)

    def assigned(self, x: Any, value: Any) -> None:
        """A traced value takes the place, and the name, of another."""
        if not value.name and value not in self.constants:
            value.name = x.name

    def returning(self, out: Tree, layer: Any = None) -> None:
        """The function that called this, maybe a layer, returns ``out``: the caller's names for it hold."""
        if layer is not None:
            self.returned(layer, out)
        leaves = [x._value for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor)]
        names, _ = caller(2)
        for x, name in zip(leaves, names if len(names) == len(leaves) else (), strict=False):
            if x.__class__ is Variable and not x.name and x not in self.constants:
                x.name = name

    def returned(self, layer: Any, out: Tree) -> None:
        """A layer was called; whoever watches layers takes this up."""
        if self._within is not None:
            self._within.returned(layer, out)

    def building(self) -> None:
        """A layer is about to make its parameters."""
        if self._within is not None:
            self._within.building()
        if not self.may_build:
            raise Unbuilt

    def depends(self, owner: Any, label: str) -> None:
        """What is traced may read the attributes of ``owner``."""
        self._owners.setdefault(id(owner), (owner, label))
        if self._within is not None:
            self._within.depends(owner, label)

    @property
    def owners(self) -> list[tuple[Any, str]]:
        """The layers and option groups that the function went through, and what to call them."""
        return list(self._owners.values())

    # Stand-ins.

    def _stand_in(self, x: Tensor) -> Tensor:
        variable = Variable(Aval(x.shape, x.dtype), self._outside_name(x), self.owner)
        stand_in = new(variable)
        node = x._node
        if node is not None and node.tags & BASE and current().running & BASE:
            cell = _StandInCell(self, x)
            if node.cell is not None:
                cell.hooks = dict(node.cell.hooks)
            self._cells.append(cell)
            stand_in._node = leaf(x.shape, x.dtype, BASE, cell)
            self._values[stand_in._node.order] = variable
        self._stand_ins[id(x)] = (x, stand_in, variable)
        return stand_in

    def _outside_name(self, x: Tensor) -> str:
        if id(x) in self._called:
            return self._called[id(x)][1]
        mode = current()
        known = name_in_layer(mode.layer, x)
        return "_".join((*mode.scope, known)).replace(".", "_") if known else name_in_caller(_DEPTH, x)

    def gradient_before(self, x: Tensor) -> Tensor | None:
        """The traced Tensor for the ``.grad`` that a tensor from outside has already."""
        outside = x if self._within is None else self._within.seen(x)
        cell = None if outside._node is None else outside._node.cell
        before = None if cell is None else cell.grad
        if before is None:
            self._gradients[id(x)] = (x, None)
            return None
        name = self._stand_ins[id(x)][2].name if id(x) in self._stand_ins else ""
        variable = Variable(Aval(before.shape, before.dtype), f"{name}_grad" if name else "", self.owner)
        self._gradients[id(x)] = (x, variable)
        return new(variable)

    # Writing.

    def _write(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], outputs: tuple[Variable, ...]) -> None:
        followed = self._swept or self._followed
        if followed is None:
            names, line = caller(_DEPTH)
            scope = current().scope
        else:
            scope, line = followed.scope, followed.line
            same = followed is self._followed and followed.primitive is primitive
            names = tuple("" if unnamed(x) else x.name for x in followed.outputs) if same else ()
        if len(names) == len(outputs):
            for x, name in zip(outputs, names, strict=True):
                x.name = name
        made = Operation(primitive, inputs, params, outputs, scope, line)
        self.nodes.append(made)
        self._makers.update(dict.fromkeys(outputs, made))

    def finish(
        self, name: str, inputs: Sequence[Variable], arguments: tree.Structure, out: Tree, assigned: Sequence[tuple[Argument, Tensor]] = ()
    ) -> Graph:
        """The graph, once the function has returned ``out`` and ``assigned`` to arguments."""
        leaves, results = tree.flatten(out)
        statics = {i: x for i, x in enumerate(leaves) if not isinstance(x, Tensor)}
        ends = [self._without_history(self.seen(x)) for x in leaves if isinstance(x, Tensor)]
        returned = [x._value for x in ends]
        self.live = tuple(_differentiable(x._node) for x in ends)
        updated: list[tuple[Captured | Argument, Variable]] = [(argument, x._value) for argument, x in assigned]
        nodes = [x._node for _, x in assigned]
        cleared: list[Captured] = []
        for x, stand_in, variable in self._stand_ins.values():
            if stand_in._value is not variable:
                # An inner graph's state goes on to its next step, where it is to have no history that it has not here.
                updated.append((State(x), (stand_in if self._within is None else self._without_history(stand_in))._value))
                nodes.append(stand_in._node)
        for cell in self._cells:
            if not cell.changed:
                continue
            if not cell.before.is_leaf and cell._grad is not None:
                what = self._stand_ins[id(cell.before)][2]
                raise TraceError(
                    f"{name}: a backward pass inside reaches {what.name or 'a tensor'}, {what.aval}, which was computed outside, and ends there",
                    mend="compute it inside of the function, or detach it",
                )
            _, before = self._gradients.get(id(cell.before), (None, None))
            after = cell._grad
            if after is None:
                cleared.append(Gradient(cell.before))
            elif after._value is not before:
                updated.append((Gradient(cell.before), after._value))
                nodes.append(None)
        self.carried = tuple(node is not None and node.primitive is not None and _differentiable(node) for node in nodes)
        captured: list[tuple[Captured, Variable]] = [(State(x), variable) for x, _, variable in self._stand_ins.values()]
        captured += [(Gradient(x), variable) for x, variable in self._gradients.values() if variable is not None]
        return Graph(
            name,
            (*inputs, *(variable for _, variable in captured)),
            tuple(self.nodes),
            (*returned, *(variable for _, variable in updated)),
            self.constants,
            arguments,
            results,
            statics,
            tuple(source for source, _ in captured),
            tuple(target for target, _ in updated),
            tuple(cleared),
            tuple(Gradient(x) for x in self.missing_gradients()),
            {path: type(owner).__name__ for owner, path in self.owners},
        )

    def let_go(self) -> None:
        """The trace is over: cells and their tracer would hold each other, and what is outside."""
        self._cells.clear()
        self._stand_ins.clear()

    def missing_gradients(self) -> list[Tensor]:
        """Tensors from outside whose ``.grad`` was asked for and None."""
        return [x for x, variable in self._gradients.values() if variable is None]


def _differentiable(node: Node | None) -> bool:
    """Whether a backward pass can start from here: gradients are recorded, and none has gone through."""
    if node is None or not node.tags & BASE:
        return False
    seen = {node}
    stack = [node]
    while stack:
        one = stack.pop()
        if one.saved is None:
            return False
        fresh = [source for source in one.inputs if source is not None and source not in seen]
        seen.update(fresh)
        stack += fresh
    return True


class Unbuilt(Exception):  # noqa: N818, it never leaves the library
    """A layer would have made its parameters in a trace that must not."""


def trace(f: Callable[..., Tree], /, *examples: Tree) -> Graph:
    """Write a function down as a graph.

    The function is called once, with traced tensors in the place of the examples. Values get the names of the variables
    in which the function keeps them. Layers make their parameters if they have none yet.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    *examples : Tensor, array_like or containers of them
        Arguments of the shapes and dtypes with which the graph will be run; their values do not matter.

    Returns
    -------
    Graph

    Raises
    ------
    TraceError
        If the function asks for the value of a traced tensor, to branch on it, say; it quotes the line and names the mend.

    Examples
    --------
    >>> import chainrule as cr
    >>> def neuron(w, x):
    ...     s = w * x
    ...     return cr.sigmoid(s)
    >>> print(cr.trace(neuron, 2.0, -1.0))
    def neuron(w: float32(), x: float32()):
        s = w * x  # float32()
        t1 = sigmoid(s)  # float32()
        return t1
    """
    if not callable(f):
        raise ArgumentError(f"trace takes a function, not a {type(f).__name__}", mend="pass the function and examples of its arguments")
    leaves, structure = tree.flatten(examples)
    avals = [_aval_of(x) for x in leaves]
    tracked = current().tracking & BASE
    required = [isinstance(x, Tensor) and x._node is not None and x._node.tags & tracked != 0 for x in leaves]
    graph, _ = trace_with(f, avals, structure, names=leaf_names(f, examples), assigns=True, leaves=required)
    return graph


def trace_with(
    f: Callable[..., Tree],
    avals: Sequence[Aval],
    structure: tree.Structure,
    *,
    names: Sequence[str] = (),
    tracer: GraphTracer | None = None,
    examples: tuple[Any, ...] | None = None,
    fill: Callable[[list[Tensor]], Sequence[Any]] | None = None,
    leaves: Sequence[bool] = (),
    computed: Collection[int] = (),
    assigns: bool = False,
    at_once: bool = False,
) -> tuple[Graph, GraphTracer]:
    """Trace a function of arguments of these avals.

    Parameters
    ----------
    leaves : sequence of bool, optional
        Which arguments require a gradient: leaves, but for those at the positions ``computed``.
    names : sequence of str, optional
        Of the arguments.
    tracer : GraphTracer, optional
    examples : tuple, optional
        See `core.interp.Mode`; those in force if not given.
    fill : callable, optional
        Makes the leaves of the arguments from the traced Tensors; they are those if not given.
    at_once : bool
        Whether the graph runs once, and now, so that numbers outside may be taken as they are.
    assigns : bool
        Whether an argument that the function assigns to is assigned to when the graph runs, too.
    """
    mode = current()
    tracer = GraphTracer(within=mode.tracer, at_once=at_once) if tracer is None else tracer
    names = names or ("",) * len(avals)
    inputs = [Variable(aval, name, tracer.owner) for aval, name in zip(avals, names, strict=True)]
    tensors = [new(x) for x in inputs]
    for i, x in compress(enumerate(tensors), leaves):
        x._node = leaf(x.shape, x.dtype, BASE, _ArgumentCell(x._value, computed=i in computed))
        tracer.named(x._node, x._value)
    own = tracer.tag.bit
    tracking = mode.tracking & BASE | own
    inside = Mode(tracking, tracer.apply, BASE | own, 0, None, tracer, mode.scope, mode.layer, mode.examples if examples is None else examples)
    try:
        with using(inside):
            out = f(*structure.rebuild(tensors if fill is None else fill(tensors)))
            assigned = [(Argument(i), x) for i, (x, was) in enumerate(zip(tensors, inputs, strict=True)) if assigns and x._value is not was]
            graph = tracer.finish(_name_of(f), inputs, structure, out, assigned)
    finally:
        tracer.let_go()
    return graph, tracer


def _name_of(f: Callable[..., Any]) -> str:
    name = str(getattr(f, "__name__", type(f).__name__))
    return name if name.isidentifier() else "f"


def _aval_of(x: Any) -> Aval:
    x = functions.asarray(x)
    return Aval(x.shape, x.dtype)
