"""Graph: a function written down as gates applied one after another, every value named once.

A graph is immutable. It can be run with any values, in any mode: on Tensors it records history, inside another
trace it becomes part of that graph. What it took from outside (parameters, a generator's state) it reads
each time it runs, and what the function assigned to such tensors it assigns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval, promote
from chainrule.core.errors import ArgumentError, ChainruleError, MissingExtraError, TraceError
from chainrule.core.interp import current, no_grad
from chainrule.core.primitive import Primitive, functions
from chainrule.core.variable import Variable
from chainrule.graph.naming import name_all, unnamed
from chainrule.graph.text import inner_graphs, render
from chainrule.ops.gate import made
from chainrule.tape import bind
from chainrule.tensor import Tensor

# Containers of Tensors have no narrower type.
Tree = Any


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A gate applied to named values.

    Attributes
    ----------
    primitive : Primitive
    inputs, outputs : tuple of Variable
    params : Mapping
        The gate's keyword arguments; control flow has graphs among them.
    scope : tuple of str
        The path of the layer that it belongs to.
    line : (str, int)
        File and line number of the caller's code.
    """

    primitive: Primitive
    inputs: tuple[Variable, ...]
    params: Mapping[str, Any]
    outputs: tuple[Variable, ...]
    scope: tuple[str, ...] = ()
    line: tuple[str, int] = ("", 0)

    @property
    def output(self) -> Variable:
        """The only output."""
        (out,) = self.outputs
        return out


class Captured(Protocol):
    """Something outside of the function that it reads, or assigns to."""

    @property
    def tensor(self) -> Tensor:
        """The tensor that it belongs to."""
        ...

    def read(self) -> Tensor | None:
        """What it is now."""
        ...

    def write(self, value: Tensor | None) -> None:
        """Let it be ``value`` from now on."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """A tensor that the function took from outside."""

    tensor: Tensor

    def read(self) -> Tensor:
        return self.tensor

    def write(self, value: Tensor | None) -> None:
        with no_grad():
            self.tensor.assign(value)  # pyright: ignore[reportArgumentType] - a tensor is never assigned None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


@dataclass(frozen=True, slots=True)
class Gradient:
    """The ``.grad`` of a tensor that the function took from outside."""

    tensor: Tensor

    def read(self) -> Tensor | None:
        return self.tensor.grad

    def write(self, value: Tensor | None) -> None:
        self.tensor.grad = None if value is None else value.detach()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gradient) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor) + 1


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor among the arguments, which the function assigns to."""

    position: int


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced function.

    Made by `chainrule.trace`. The first inputs are the function's arguments, in the order in which nested containers
    are walked; after them comes what it took from outside. Likewise outputs: results, then what is assigned.

    Attributes
    ----------
    name : str
        The function's.
    inputs : tuple of Variable
    nodes : tuple of Operation
        In the order in which they run.
    outputs : tuple of Variable
    constants : Mapping of Variable to array
    arguments, results : tree.Structure
        How arguments and results are nested.
    statics : Mapping of int to value
        Results that are no tensors, by position among all results.
    captured : tuple of Captured
        To which the last inputs belong.
    updated : tuple of Captured or Argument
        To which the last outputs are assigned.
    cleared : tuple of Captured
        What is set to None.
    absent : tuple of Gradient
        Gradients that the function asked for when it was traced, and that were None.
    layers : Mapping of str to str
        What the layers that it went through are, by their paths: Dense, say.

    Examples
    --------
    >>> import chainrule as cr
    >>> def f(x, y):
    ...     z = x * y
    ...     return z + 1.0
    >>> graph = cr.trace(f, 2.0, 3.0)
    >>> print(graph)
    def f(x: float32(), y: float32()):
        z = x * y  # float32()
        t1 = z + 1.0  # float32()
        return t1
    >>> graph.run(4.0, 5.0)
    tensor(21.)
    """

    name: str
    inputs: tuple[Variable, ...]
    nodes: tuple[Operation, ...]
    outputs: tuple[Variable, ...]
    constants: Mapping[Variable, Any]
    arguments: tree.Structure
    results: tree.Structure
    statics: Mapping[int, Any]
    captured: tuple[Captured, ...] = ()
    updated: tuple[Captured | Argument, ...] = ()
    cleared: tuple[Captured, ...] = ()
    absent: tuple[Gradient, ...] = ()
    layers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        # Numbers, which are written where they are used, come last.
        name_all((*self.inputs, *(x for node in self.nodes for x in node.outputs), *self.constants))

    @property
    def parameters(self) -> tuple[Variable, ...]:
        """The inputs that are arguments."""
        return self.inputs[: len(self.inputs) - len(self.captured)]

    @property
    def returned(self) -> tuple[Variable, ...]:
        """The outputs that are results."""
        return self.outputs[: len(self.outputs) - len(self.updated)]

    def with_nodes(self, nodes: Sequence[Operation], outputs: Sequence[Variable], constants: Mapping[Variable, Any] | None = None) -> Graph:
        """The same function computed otherwise."""
        used = self.constants if constants is None else constants
        return replace(self, nodes=tuple(nodes), outputs=tuple(outputs), constants=used)

    def grad(self, wrt: int | str | Sequence[int | str] | None = None) -> Graph:
        """The gradient, as a graph of the same kind: forward values first, then their gradients in reverse.

        Parameters
        ----------
        wrt : int, str or sequence of them, optional
            Positions or names of the arguments to differentiate by; all real floating-point ones if not given.

        Returns
        -------
        Graph
            Of the same arguments. Its result is the gradient, nested like the argument; a tuple of them where
            ``wrt`` is a sequence or not given.

        Raises
        ------
        GradientError
            If the result is not one scalar tensor, or an argument is not real floating point.
        ArgumentError
            If there is no such argument.

        Examples
        --------
        >>> import chainrule as cr
        >>> def f(x, y):
        ...     z = x * y
        ...     return cr.sin(z)
        >>> print(cr.trace(f, 2.0, 3.0).grad())
        def grad_f(x: float32(), y: float32()):
            z = x * y  # float32()
            t1 = sin(z)  # float32()
            t2 = cos(z)  # float32()
            grad_z = 1.0 * t2  # float32()
            grad_x = grad_z * y  # float32()
            grad_y = grad_z * x  # float32()
            return (grad_x, grad_y)
        """
        return functions.gradient_of_graph(self, wrt)

    # Running.

    def run(self, *args: Tree) -> Tree:
        """The function's results for these arguments, and its assignments.

        Parameters
        ----------
        *args : Tensor, array_like or containers of them
            Nested, and of the shapes and dtypes, as the examples with which the graph was traced.

        Raises
        ------
        ArgumentError
            If the arguments are nested otherwise or have other shapes or dtypes, or if a tensor that is assigned to
            is an argument twice, or an argument and read from outside too.
        """
        leaves, structure = tree.flatten(args)
        if structure != self.arguments:
            says = f"{self.name} was traced with arguments {tree.describe(self.arguments)}, not {tree.describe(structure)}"
            raise ArgumentError(says, mend="nest the arguments as the examples were, or trace anew")
        given = [self._fitting(leaf, variable) for leaf, variable in zip(leaves, self.parameters, strict=True)]
        twice = self.twice_given(leaves)
        if twice is not None:
            says = f"{self.name}: the tensor that is assigned to and given as {twice.name} is an input under another name too"
            raise ArgumentError(says, mend="pass a copy, x.detach()")
        outs = self.apply([*given, *self.read()])
        self.write(outs[len(self.returned) :], leaves)
        return self.rebuild(outs)

    def read(self) -> list[Tensor]:
        """What the function takes from outside, as it is now.

        Raises
        ------
        ArgumentError
            If there is a gradient where there was none when the function was traced, or the reverse.
        """
        for source in self.absent:
            if source.read() is not None:
                what = (
                    f"{self.name} was traced when the .grad of a tensor {Aval(source.tensor.shape, source.tensor.dtype)} was None, and it is not now"
                )
                raise ArgumentError(what, mend="call zero_grad() inside the function, or before each run; or trace the function anew")
        outside = [*zip(self.captured, self.inputs[len(self.parameters) :], strict=True)]
        tracer = current().tracer
        if tracer is not None:
            for source, x in outside:
                if isinstance(source, State) and not unnamed(x):
                    tracer.call(source.tensor, x.name)
        return [_present(source, x) for source, x in outside]

    def write(self, values: Sequence[Tensor], arguments: Sequence[Any] = ()) -> None:
        """Assign what the function assigns, to what is outside and to its arguments' leaves."""
        for target, value in zip(self.updated, values, strict=True):
            if not isinstance(target, Argument):
                target.write(value)
            elif isinstance(arguments[target.position], Tensor):
                with no_grad():
                    arguments[target.position].assign(value)
        for target in self.cleared:
            target.write(None)

    def rebuild(self, values: Sequence[Any]) -> Tree:
        """The function's result from the values of its tensors."""
        found = iter(values)
        return self.results.rebuild(self.statics[i] if i in self.statics else next(found) for i in range(self.results.leaf_count))

    def apply(self, values: Sequence[Any], apply: Callable[..., Any] = bind) -> list[Any]:
        """All outputs for Tensors in the place of all inputs; nothing is assigned."""
        # Under names of their own: an output may be an input, and what is assigned may be another output.
        env: dict[Variable, Any] = {x: copy(value) if isinstance(value, Tensor) else value for x, value in zip(self.inputs, values, strict=True)}
        mode = current()
        told = mode.watch if mode.tracer is None else mode.tracer
        for variable, value in self.constants.items():
            env[variable] = made(value)
        last = self.last_uses()
        for position, node in enumerate(self.nodes):
            if told is not None:
                told.follow(node)
            out = apply(node.primitive, [env[x] for x in node.inputs], node.params)
            if node.primitive.outputs:
                env.update(zip(node.outputs, out, strict=True))
            else:
                env[node.outputs[0]] = out
            for x in last[position]:
                del env[x]
        if told is not None:
            told.follow(None)
        return [env[x] for x in self.outputs]

    def last_uses(self) -> list[list[Variable]]:
        """Per node the values that nothing later needs."""
        found = self.__dict__.get("_last")
        if found is None:
            found = [[] for _ in self.nodes]
            seen = set(self.outputs)
            for position in range(len(self.nodes) - 1, -1, -1):
                node = self.nodes[position]
                for x in (*node.inputs, *node.outputs):
                    if x not in seen:
                        seen.add(x)
                        found[position].append(x)
            self.__dict__["_last"] = found
        return found

    def twice_given(self, leaves: Sequence[Any]) -> Variable | None:
        """An argument that is assigned to and an input under another name too: an assignment shows under both, but a graph takes them for two."""
        targets = [leaves[target.position] if isinstance(target, Argument) else target.tensor for target in self.updated]
        assigned = {id(x) for x in targets if isinstance(x, Tensor)}
        if not assigned:
            return None
        outside = {id(source.tensor) for source in (*self.captured, *self.updated) if isinstance(source, State)}
        names = Counter([*map(id, leaves), *outside])
        return next((variable for x, variable in zip(leaves, self.parameters, strict=True) if id(x) in assigned and names[id(x)] > 1), None)

    def _fitting(self, given: Any, wanted: Variable) -> Any:
        x = functions.asarray(given)
        if x.shape != wanted.shape or x.dtype != wanted.dtype:
            if x.shape == wanted.shape and not hasattr(given, "dtype") and promote(x.dtype, wanted.dtype).kind == wanted.dtype.kind:
                return functions.asarray(given, dtype=wanted.dtype)
            says = f"{self.name}: argument {wanted.name} is {Aval(x.shape, x.dtype)}, but the graph was traced with {wanted.aval}"
            raise ArgumentError(says, mend="convert it, or trace the function with an example like it")
        return x

    # Looking.

    def __str__(self) -> str:
        return render(self)

    def __repr__(self) -> str:
        return f"<graph of {self.name}: {len(self.parameters)} inputs, {len(self.nodes)} nodes, {len(self.returned)} outputs>"

    def text(self, *, lines: bool = False) -> str:
        """The graph as code; with ``lines``, each with the file and line that it comes from."""
        return render(self, lines=lines)

    def source(self, *, target: str = "numpy", wrt: Sequence[str] | None = None) -> str:
        """The graph and its gradient as flat code; see `chainrule.source`."""
        return functions.source(self, target=target, wrt=wrt)

    def draw(self, *examples: Tree, **options: Any) -> Any:
        """A picture of the graph, with values and gradients if there are examples; see `chainrule.draw`."""
        return functions.draw(self, *examples, **options)

    def _repr_svg_(self) -> str | None:
        """What Jupyter shows; without Graphviz it shows the text."""
        try:
            return self.draw().svg
        except MissingExtraError:
            return None

    def verify(self) -> Graph:
        """Check that every value is defined once and before its uses, and has the shape and dtype that its gate gives it.

        Raises
        ------
        TraceError
            If not; it shows the offending line.
        """
        known = {*self.inputs, *self.constants}
        if len(known) != len(self.inputs) + len(self.constants):
            raise TraceError(f"{self.name}: a value is an input twice, or an input and a constant", mend="give every input a Variable of its own")
        for node in self.nodes:
            wrong = _fault(node, known)
            if wrong:
                raise TraceError(f"{self.name}: {wrong}, in\n    {render(self, only=node)}", mend="mend the pass that made this graph")
            known.update(node.outputs)
        for x in self.outputs:
            if x not in known:
                raise TraceError(f"{self.name}: the output {x} is not defined", mend="mend the pass that made this graph")
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    def key(self) -> tuple[Any, ...]:
        """What graphs that compute the same in the same way have in common: names do not count."""
        found = self.__dict__.get("_key")
        if found is None:
            numbers: dict[Variable, int] = {}
            for x in (*self.inputs, *self.constants):
                numbers[x] = len(numbers)
            rows: list[Any] = []
            for node in self.nodes:
                rows.append((node.primitive.name, tuple(numbers[x] for x in node.inputs), frozen(node.params)))
                for x in node.outputs:
                    numbers[x] = len(numbers)
            found = self.__dict__["_key"] = (
                tuple(x.aval for x in self.inputs),
                tuple(frozen(value) for value in self.constants.values()),
                tuple(rows),
                tuple(numbers[x] for x in self.outputs),
                self.arguments, self.results, frozen(self.statics), self.captured, self.updated, self.cleared, self.absent,
            )  # fmt: skip
        return found


def frozen(value: Any) -> Any:
    """A hashable stand-in that is equal for equal values."""
    if isinstance(value, Mapping):
        return ("dict", *sorted(((repr(key), frozen(part)) for key, part in value.items()), key=itemgetter(0)))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(frozen, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    if value.__class__ in (bool, int, float, complex):
        # True == 1 == 1.0, and -0.0 == 0.0.
        return (value.__class__.__name__, repr(value))
    try:
        hash(value)
    except TypeError:
        return ("object", id(value))
    return value


def _present(source: Captured, variable: Variable) -> Tensor:
    value = source.read()
    if value is None:
        says = f"the gradient {variable.name}, which the function reads, is None now"
        raise ArgumentError(says, mend="run backward first, or trace the function anew")
    return value


def _fault(node: Operation, known: set[Variable]) -> str:
    for x in node.inputs:
        if x not in known:
            return f"{x} is used before it is defined"
    for x in node.outputs:
        if x in known:
            return f"{x} is defined twice"
    gate = node.primitive
    if not gate.variadic and len(node.inputs) != len(gate.inputs):
        return f"{gate.name} takes {len(gate.inputs)} inputs, not {len(node.inputs)}"
    try:
        avals = gate.aval(*(x.aval for x in node.inputs), **node.params)
        for _, inner in inner_graphs(node):
            inner.verify()
    except ChainruleError as error:
        return error.what
    except TypeError as error:
        return f"{gate.name}: {error}"
    avals = avals if gate.outputs else (avals,)
    if len(avals) != len(node.outputs):
        return f"{gate.name} gives {len(avals)} outputs, not {len(node.outputs)}"
    for x, aval in zip(node.outputs, avals, strict=True):
        if x.aval != aval:
            return f"{x} is {x.aval}, but its gate gives {aval}"
    return ""
