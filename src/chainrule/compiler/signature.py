"""Signatures: for which arguments a compiled step is right, and the code that checks it and hands over.

The check is the cost of every call, so it is written out as straight Python for each signature: containers are
taken apart, shapes and dtypes compared, state read, the step run, state written and the results nested.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, starmap
from types import BuiltinFunctionType, CellType
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.guards import Name, same
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.graph.ir import Argument, Gradient, Graph, State
from chainrule.tensor import Tensor, new

MISS: Any = object()
"""What a hand-over returns if the arguments are not those that it is for."""


class Traced(NamedTuple):
    """An argument that is a tensor."""

    aval: Aval
    requires_grad: bool


class Fixed(NamedTuple):
    """An argument that is part of the program: a number, a flag, a layer."""

    kind: type
    # Of floating-point numbers the text, for 0.0 == -0.0.
    value: Any

    @classmethod
    def of(cls, value: Any) -> Fixed:
        return cls(type(value), repr(value) if value.__class__ in (float, complex) else value)


class Signature(NamedTuple):
    """What a step was compiled for; hashable, equal for equal calls."""

    structure: tree.Structure
    leaves: tuple[Traced | Fixed, ...]
    tracking: int

    def difference(self, before: Signature, names: Sequence[str]) -> str:
        """What sets this signature apart from an earlier one, in words."""
        if self.structure != before.structure:
            return f"arguments {tree.describe(before.structure)} -> {tree.describe(self.structure)}"
        for name, now, then in zip(names, self.leaves, before.leaves, strict=True):
            if now != then:
                return _change(name, then, now)
        return "gradients are recorded" if self.tracking else "inside no_grad"

    def distance(self, other: Signature) -> int:
        """In how many places two signatures differ."""
        if self.structure != other.structure:
            return len(self.leaves) + len(other.leaves)
        return sum(a != b for a, b in zip(self.leaves, other.leaves, strict=True))


def _change(name: str, then: Traced | Fixed, now: Traced | Fixed) -> str:
    if isinstance(then, Traced) and isinstance(now, Traced):
        if then.requires_grad != now.requires_grad:
            return f"{name} {'requires' if now.requires_grad else 'no longer requires'} a gradient"
        if then.aval.dtype != now.aval.dtype:
            return f"dtype of {name}: {then.aval.dtype} -> {now.aval.dtype}"
        if then.aval.ndim != now.aval.ndim:
            return f"shape of {name}: {then.aval.shape} -> {now.aval.shape}"
        axes = [i for i in range(now.aval.ndim) if then.aval.shape[i] != now.aval.shape[i]]
        return ", ".join(f"axis {i} of {name}: {then.aval.shape[i]} -> {now.aval.shape[i]}" for i in axes)
    return f"{name}: {word(then)} -> {word(now)}"


def word(leaf: Traced | Fixed) -> str:
    """An argument in messages."""
    if isinstance(leaf, Traced):
        return str(leaf.aval)
    return leaf.value if leaf.kind in (float, complex) else repr(leaf.value)


class Step(NamedTuple):
    """What a hand-over needs of a compiled graph."""

    graph: Graph
    run: Callable[..., tuple[Any, ...]]
    # Tensors to Tensors with a history, if there may be one.
    taped: Callable[[Sequence[Any]], Sequence[Any]] | None
    # Nodes of the captured tensors, in order, as they were when the step was last found right.
    nodes: list[Any]
    # Captured gradients that must be None, because the trace found them so.
    absent: Sequence[Tensor]
    guards: Sequence[Name]
    settings: Any
    version: list[int]


def hand_over(signature: Signature, step: Step) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """Python code for a call with this signature: ``call(args, kwargs)`` returns the result, or `MISS`."""
    writer = _Writer()
    names = _take_apart(writer, signature, arrays=not any(isinstance(target, Argument) for target in step.graph.updated))
    given = _check_state(writer, step)
    outs = [f"o{i}" for i in range(len(step.graph.outputs))]
    results = len(step.graph.returned)
    target = f"({', '.join(outs)},)" if outs else "_"
    arguments = [f"a{name[1:]}" for name in names]
    _check_names(writer, step.graph, arguments)
    _make_gradients(writer, step.graph)
    if step.taped is None:
        _run(writer, step, [*names, *given], target, partial(_write_state, writer, step.graph, arguments, outs[results:]))
        named = [f"r{i}" for i in range(results)]
        # As `new` does, without a call.
        for name, out in zip(named, outs, strict=False):
            writer.line(f"{name} = Tensor(); {name}._value = {out}; {name}._node = None")
    else:
        tensors = [*arguments, *(value.removesuffix("._value") for value in given)]
        writer.line(f"{target} = {writer.constant(step.taped, 'taped')}([{', '.join(tensors)}])")
        named = outs
        _write_state(writer, step.graph, arguments, [f"{out}._value" for out in outs[results:]])
    _nest(writer, step.graph, named[:results])
    return writer.function()


def uninterrupted(run: Callable[..., Any]) -> bool:
    """Whether Ctrl-C is heard only when the call of a step has ended: not while Python code runs."""
    return isinstance(run, BuiltinFunctionType)


def _run(writer: _Writer, step: Step, given: Sequence[str], target: str, write_state: Callable[[], None]) -> None:
    """Run the step and write the state."""
    run = writer.constant(step.run, "run")
    if not uninterrupted(step.run) or not step.graph.updated:
        _release(writer, step.graph)
        writer.line(f"{target} = {run}({', '.join(given)})")
        write_state()
        return
    # Ctrl-C is heard when a call has ended. The step may have updated parameters in place by then, so that its results must not be lost:
    # `extend` is one call, which runs the step and keeps them, and what stands behind it calls nothing.
    writer.line("done = []")
    writer.line(f"turn = starmap({run}, (({', '.join(given)}{',' * (len(given) == 1)}),))")
    _release(writer, step.graph)
    writer.line("try: done.extend(turn)")
    with writer.block("finally:"), writer.block("if done:"):
        writer.line(f"{target}, = done")
        write_state()


class _Writer:
    """Lines of a function and the objects that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "Tensor": Tensor,
            "MISS": MISS,
            "new": new,
            "same": same,
            "ndarray": np.ndarray,
            "array": np.array,
            "starmap": starmap,
        }
        self.depth = 1

    def line(self, text: str) -> None:
        self.lines.append(f"{'    ' * self.depth}{text}")

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """What is written inside stands under this line."""
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1

    def demand(self, condition: str) -> None:
        self.line(f"if not ({condition}): return MISS")

    def constant(self, value: Any, base: str) -> str:
        name = f"{base}_{len(self.names)}"
        self.names[name] = value
        return name

    def function(self) -> Callable[..., Any]:
        text = "\n".join(["def call(args, kwargs):", *self.lines])
        # As locals, names are found faster than as globals.
        words = ", ".join(self.names)
        source = f"def make({words}):\n    " + text.replace("\n", "\n    ") + "\n    return call"
        scope: dict[str, Any] = {}
        exec(compile(source, f"{__file__}: call", "exec"), scope)  # noqa: S102, of text made here alone
        # A function in its own namespace would keep itself, and all that it names, alive.
        return scope.pop("make")(**self.names)


def _take_apart(writer: _Writer, signature: Signature, *, arrays: bool) -> list[str]:
    """Unpack the arguments into variables and check them; returns the names of the tensors' values. NumPy's ``arrays`` may stand for tensors."""
    given, options = signature.structure.children
    leaves = iter(signature.leaves)
    values: list[str] = []
    numbers = count()
    pending: list[tuple[tree.Structure, str]] = []

    def take(children: Sequence[tree.Structure], source: str) -> None:
        parts = [f"a{next(numbers)}" for _ in children]
        if parts:
            writer.line(f"{', '.join(parts)}, = {source}")
        pending.extend(reversed([*zip(children, parts, strict=True)]))

    if options.keys:
        pending.append((options, "kwargs"))
    else:
        writer.demand("not kwargs")
    writer.demand(f"len(args) == {len(given.children)}")
    take(given.children, "args")
    while pending:
        structure, place = pending.pop()
        if structure.kind is None:
            values.extend(_check_leaf(writer, next(leaves), place, arrays=arrays))
        elif structure.kind is type(None):
            writer.demand(f"{place} is None")
        elif structure.kind is dict:
            keys = writer.constant(list(structure.keys), "keys")
            writer.demand(f"{place}.__class__ is dict and list({place}) == {keys}")
            take(structure.children, f"{place}.values()")
        else:
            kind = writer.constant(structure.kind, "kind")
            writer.demand(f"{place}.__class__ is {kind} and len({place}) == {len(structure.children)}")
            take(structure.children, place)
    return values


def _check_leaf(writer: _Writer, leaf: Traced | Fixed, place: str, *, arrays: bool) -> list[str]:
    if isinstance(leaf, Fixed):
        value = writer.constant(leaf.value, "fixed")
        kind = writer.constant(leaf.kind, "kind")
        if leaf.kind in (float, complex):
            writer.demand(f"{place}.__class__ is {kind} and repr({place}) == {value}")
        elif leaf.kind in (int, str, bytes):
            writer.demand(f"{place}.__class__ is {kind} and {place} == {value}")
        else:
            writer.demand(f"{place} is {value}")
        return []
    name = f"v{place[1:]}"
    shape, dtype = writer.constant(leaf.aval.shape, "shape"), writer.constant(leaf.aval.dtype, "dtype")
    if arrays:
        # What can still be written to is copied, as eagerly.
        if leaf.aval.shape:
            writer.line(
                f"if {place}.__class__ is ndarray and {place}.shape == {shape} and {place}.dtype is {dtype}: {place} = new(array({place}, order='C'))"
            )
        else:
            writer.line(f"if {place}.__class__ is {writer.constant(leaf.aval.dtype.type, 'kind')}: {place} = new({place})")
    # Arguments with a history, and other arrays, take the long way.
    writer.demand(f"{place}.__class__ is Tensor and {place}._node is None")
    writer.line(f"{name} = {place}._value")
    same = f"{name}.shape == {shape} and {name}.dtype is {dtype}"
    if not leaf.aval.shape:
        same = f"{name}.__class__ is {writer.constant(leaf.aval.dtype.type, 'kind')} or {same}"
    writer.demand(same)
    return [name]


def _check_state(writer: _Writer, step: Step) -> list[str]:
    """Check what the trace took for granted; returns expressions for the values of what is captured."""
    writer.demand(f"{writer.constant(step.settings, 'settings')}.version == {writer.constant(step.version, 'version')}[0]")
    for name in step.guards:
        writer.demand(_guard(writer, name))
    values: list[str] = []
    nodes = writer.constant(step.nodes, "nodes")
    position = 0
    checks: list[str] = []
    for source in step.graph.captured:
        tensor = writer.constant(source.tensor, "state")
        if isinstance(source, State):
            checks.append(f"{tensor}._node is {nodes}[{position}]")
            position += 1
            values.append(f"{tensor}._value")
        else:
            checks.append(f"{tensor}._node is not None and {tensor}._node.cell.grad is not None")
            values.append(f"{tensor}._node.cell.grad._value")
    checks += [f"{writer.constant(tensor, 'state')}._node.cell.grad is None" for tensor in step.absent]
    for check in checks:
        writer.demand(check)
    return values


def _check_names(writer: _Writer, graph: Graph, arguments: Sequence[str]) -> None:
    """What is assigned to must have one name only; tensors with two take the long way (see `Graph.twice_given`)."""
    own = {target.position for target in graph.updated if isinstance(target, Argument)}
    if own and len(arguments) > 1:
        writer.demand(f"len({{{', '.join(f'id({x})' for x in arguments)}}}) == {len(arguments)}")
    # The graph keeps them alive, so nothing else has their identity.
    assigned = {id(target.tensor) for target in graph.updated if not isinstance(target, Argument)}
    outside = assigned | {id(source.tensor) for source in graph.captured}
    for i, x in enumerate(arguments):
        taken = outside if i in own else assigned
        if taken:
            writer.demand(f"id({x}) not in {writer.constant(taken, 'taken')}")


def _guard(writer: _Writer, name: Name) -> str:
    place, wanted = writer.constant(name.owner, "owner"), writer.constant(name.value, "wanted")
    now = f"{place}.cell_contents" if isinstance(name.owner, CellType) else f"{place}.get({name.key!r})"
    return f"{now} is {wanted} or same({wanted}, {now})"


def _make_gradients(writer: _Writer, graph: Graph) -> None:
    """Tensors for new gradients, before anything is written: nothing is called then any more."""
    for i, target in enumerate(graph.updated):
        if isinstance(target, Gradient):
            writer.line(f"g{i} = Tensor(); g{i}._node = None")


def _release(writer: _Writer, graph: Graph) -> None:
    """Let go of gradients that are replaced, so that new ones may take their memory."""
    for tensor in replaced_gradients(graph):
        writer.line(f"{writer.constant(tensor, 'state')}._node.cell.grad = None")


def _write_state(writer: _Writer, graph: Graph, arguments: Sequence[str], values: Sequence[str]) -> None:
    outside = {x: source.tensor for source, x in zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True) if isinstance(source, State)}
    for i, (target, value, x) in enumerate(zip(graph.updated, values, graph.outputs[len(graph.returned) :], strict=True)):
        if isinstance(target, Argument):
            writer.line(f"{arguments[target.position]}._value = {value}")
            if x in outside:
                # It is another name for that tensor now; states keep the nodes that they were found to have.
                writer.line(f"{arguments[target.position]}._node = {writer.constant(outside[x], 'state')}._node")
            continue
        tensor = writer.constant(target.tensor, "state")
        if isinstance(target, State):
            writer.line(f"{tensor}._value = {value}")
        else:
            writer.line(f"g{i}._value = {value}; {tensor}._node.cell.grad = g{i}")
    for target in graph.cleared:
        writer.line(f"{writer.constant(target.tensor, 'state')}._node.cell.grad = None")


def _nest(writer: _Writer, graph: Graph, values: Sequence[str]) -> None:
    found = iter(values)
    leaves: list[str] = []
    for i in range(graph.results.leaf_count):
        if i in graph.statics:
            leaves.append(writer.constant(graph.statics[i], "static"))
        else:
            leaves.append(next(found))
    writer.line(f"return {_expression(writer, graph.results, iter(leaves))}")


def _expression(writer: _Writer, structure: tree.Structure, leaves: Any) -> str:
    if structure.kind is None:
        return next(leaves)
    if structure.kind is type(None):
        return "None"
    inside = [_expression(writer, child, leaves) for child in structure.children]
    if structure.kind is dict:
        return "{" + ", ".join(f"{writer.constant(key, 'key')}: {text}" for key, text in zip(structure.keys, inside, strict=True)) + "}"
    if structure.kind is list:
        return f"[{', '.join(inside)}]"
    if structure.kind is tuple:
        return f"({', '.join(inside)}{',' * (len(inside) == 1)})"
    return f"{writer.constant(structure.kind, 'kind')}({', '.join(inside)})"


def state_nodes(graph: Graph) -> list[Any]:
    """The nodes that the captured tensors have now."""
    return [source.tensor._node for source in graph.captured if isinstance(source, State)]


def replaced_gradients(graph: Graph) -> list[Tensor]:
    """The tensors whose ``.grad`` the graph gives anew without having read it."""
    read = {id(x) for x in captured_gradients(graph)}
    return [target.tensor for target in graph.updated if isinstance(target, Gradient) and id(target.tensor) not in read]


def captured_gradients(graph: Graph) -> list[Tensor]:
    """The tensors whose ``.grad`` the graph reads."""
    return [source.tensor for source in graph.captured if isinstance(source, Gradient)]
