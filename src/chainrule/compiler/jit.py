"""cr.compile: a Python function, a training step and all, becomes one compiled call per signature.

The function is traced once for every combination of shapes, dtypes and other arguments, and again when something that
the trace took for granted has changed; every such time says why. What a call costs beside its work is one generated
function (`compiler.signature`).
"""

from __future__ import annotations

import sys
import time
import tracemalloc
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, update_wrapper
from itertools import starmap
from types import MethodType
from typing import Any, overload

import numpy as np

from chainrule.compiler.call import How, call
from chainrule.compiler.guards import Attributes, Name, names_of
from chainrule.compiler.pipeline import Executable, build, check_backend
from chainrule.compiler.signature import MISS, Fixed, Signature, Step, Traced, hand_over, replaced_gradients, state_nodes, uninterrupted, word
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, ChainruleError, CompileWarning
from chainrule.core.interp import BASE, EVERYDAY, QUIET, current, evaluate, settings
from chainrule.core.lock import Lock
from chainrule.core.primitive import functions
from chainrule.core.size import parse_bytes
from chainrule.graph.ir import Argument, Graph, State
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import GraphTracer, Unbuilt, trace_with
from chainrule.tensor import Tensor, new

__all__ = ["Compiled", "Entry", "compile"]

_MOST = 64
"""Signatures that one function keeps; the one that was used longest ago goes first."""
_ALIKE = 4
"""Compiled steps that are kept of one signature, for what they take for granted: a training and an evaluation mode, say."""
_MANY = 16
"""Compilations of one function after which it is told that they may be too many."""
_TOLD = 1024
"""Compilations that `Compiled.stats` tells of: the latest."""


class Entry:
    """A step compiled for one signature."""

    def __init__(self, signature: Signature, graph: Graph, executable: Executable, tracer: GraphTracer, names: Sequence[Name], how: How) -> None:
        self.how = how
        self.signature = signature
        self.graph = graph
        self.executable = executable
        self.names = names
        self.attributes = [Attributes(owner, label) for owner, label in tracer.owners]
        self.required = self._requires()
        # Whether what is returned, or assigned, may have a history where no argument has one.
        self.carried = tracer.carried
        self.taped = any((*tracer.live, *tracer.carried))
        self.measured: dict[str, float] = {}
        # Of the arguments when it was traced.
        self.computed: set[int] = set()
        self._hooks = [dict(_hooks(tensor)) for tensor in self._captured()]
        self._nodes = state_nodes(graph)
        self._replaced = replaced_gradients(graph)
        self._version = [settings.version]
        self._absent = tracer.missing_gradients()
        taped = partial(call, graph, how) if self.taped else None
        step = Step(graph, executable.run, taped, self._nodes, self._absent, names, settings, self._version)
        # A tensor that takes over a history has another node after every call; an argument that requires a gradient has one.
        required = any(isinstance(leaf, Traced) and leaf.requires_grad for leaf in signature.leaves)
        self.hand_over = _nothing if required or any(self.carried) else hand_over(signature, step)

    def change(self) -> str:
        """What the trace took for granted and is not so any more, in words; '' if all is as it was."""
        for name in self.names:
            if not name.holds():
                return name.change()
        for attributes in self.attributes:
            change = attributes.change()
            if change:
                return change
        for source, required in zip(self.graph.captured, self.required, strict=True):
            if source.tensor.requires_grad != required:
                return f"a tensor from outside {'no longer requires' if required else 'requires'} a gradient"
            if not isinstance(source, State) and source.tensor.grad is None:
                return "a gradient that was there is None"
        if any(tensor.grad is not None for tensor in self._absent):
            return "a gradient that was None is there"
        if any(before != _hooks(tensor) for before, tensor in zip(self._hooks, self._captured(), strict=True)):
            return "hooks on a tensor from outside"
        return ""

    def _captured(self) -> list[Tensor]:
        return [source.tensor for source in self.graph.captured]

    def _requires(self) -> list[bool]:
        return [source.tensor.requires_grad for source in self.graph.captured]

    def refresh(self) -> None:
        """Take what is outside as it is now: it was found right."""
        self._nodes[:] = state_nodes(self.graph)
        self._version[0] = settings.version

    def tensors(self, leaves: Sequence[Any]) -> list[Any]:
        """The arguments that are the graph's."""
        return [x for x, leaf in zip(leaves, self.signature.leaves, strict=True) if isinstance(leaf, Traced)]

    def assigns_otherwise(self, leaves: Sequence[Any]) -> bool:
        """Whether an argument that is assigned to is a leaf and was none, or the reverse."""
        own = {target.position for target in self.graph.updated if isinstance(target, Argument)}
        return bool(own) and not own.isdisjoint(_computed(self.tensors(leaves)) ^ self.computed)

    def run(self, leaves: Sequence[Any]) -> Any:
        """The result, the long way: with histories, whatever the arguments carry."""
        arguments = self.tensors(leaves)
        given = [functions.asarray(x) for x in arguments]
        tracked = current().tracking
        captured = self.graph.read()
        wanted = any(x._node is not None and x._node.tags & tracked for x in given) or self.taped
        wanted = wanted or any(x._node is not None and x._node.tags & tracked & ~BASE for x in captured)
        if wanted:
            return self._end(call(self.graph, self.how, [*given, *captured]), arguments, [*given, *captured])
        for x in self._replaced:
            x.grad = None
        run, done = self.executable.run, list[tuple[Any, ...]]()
        if not uninterrupted(run):
            return self._end([new(value) for value in run(*(x._value for x in (*given, *captured)))], arguments, [*given, *captured])
        try:
            # As the short way does it (`signature._run`).
            done.extend(starmap(run, (tuple(x._value for x in (*given, *captured)),)))
        finally:
            out = self._end([new(value) for value in done[0]], arguments, [*given, *captured]) if done else None
        return out

    def _end(self, outs: Sequence[Any], arguments: Sequence[Any], given: Sequence[Any]) -> Any:
        """Write the state; returns the result."""
        count = len(self.graph.returned)
        # What is assigned has a history where it has one without compiling; a tensor that is assigned as it is has its own.
        nodes = {x: tensor._node for x, tensor in zip(self.graph.inputs, given, strict=True)}
        ends = zip(self.graph.outputs[count:], outs[count:], self.carried, strict=True)
        assigned = [new(out._value, out._node if carried else nodes.get(x)) for x, out, carried in ends]
        self.graph.write(assigned, arguments)
        if self._requires() == self.required:
            # What the step itself assigned has new nodes, and is as right as before.
            self._nodes[:] = state_nodes(self.graph)
        return self.graph.rebuild(outs[:count])


class Compiled:
    """A function that runs compiled; made by `chainrule.compile`."""

    __name__: str

    def __init__(self, function: Callable[..., Any], backend: str, memory_budget: int | None, matmul_precision: str) -> None:
        self.__name__ = type(function).__name__
        self.function = function
        self.backend = backend
        self.memory_budget = memory_budget
        self.matmul_precision = matmul_precision
        # Of one signature, the latest first.
        self._entries: OrderedDict[Signature, list[Entry]] = OrderedDict()
        # By what is tracked: nothing, or what requires a gradient.
        self._latest: list[Callable[[tuple[Any, ...], dict[str, Any]], Any]] = [_nothing, _nothing]
        self._lock = Lock()
        self._history: deque[dict[str, Any]] = deque(maxlen=_TOLD)
        self._source: Callable[[], str] | None = None
        update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result; compiled first, if it is not yet for such arguments."""
        mode = current()
        if mode is EVERYDAY or mode is QUIET:
            try:
                out = self._latest[mode.tracking](args, kwargs)
            except Exception as error:
                raise self._clear(error, args, kwargs) from None
            if out is not MISS:
                return out
        return self._call(args, kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else MethodType(self, owner)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """As functions are, it is found by its name where it stands under it; another copy compiles for itself."""
        name: str = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is self else (Compiled, (self.function, self.backend, self.memory_budget, self.matmul_precision))

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mode = current()
        if mode.tracer is not None or mode.watch is not None or mode.interpret is evaluate:
            # Inside another trace it becomes part of that graph; who watches gates sees the caller's own.
            return self.function(*args, **kwargs)
        try:
            entry, leaves = self.entry(args, kwargs)
        except Unbuilt:
            # Layers make their parameters in the order in which an eager call would.
            return self.function(*args, **kwargs)
        if entry.graph.twice_given(entry.tensors(leaves)) is not None or entry.assigns_otherwise(leaves):
            # What one name is assigned has to show under the other, and a leaf stays one, as they do eagerly.
            return self.function(*args, **kwargs)
        try:
            return entry.run(leaves) if self.memory_budget is None or entry.measured else _measured(entry, leaves)
        except Exception as error:
            raise self._clear(error, args, kwargs) from None

    def entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Entry, list[Any]]:
        """What is compiled for such arguments, now if it is not yet, and the arguments without their containers.

        Raises
        ------
        Unbuilt
            If a layer has no parameters yet.
        """
        tracking = current().tracking & BASE
        leaves, structure = tree.flatten((args, kwargs))
        signature = Signature(structure, tuple(self._leaf(x, i, args, kwargs) for i, x in enumerate(leaves)), tracking)
        with self._lock.here:
            known = self._entries.get(signature, [])
            entry = next((entry for entry in known if not entry.change()), None)
            if entry is None:
                entry = self._compile(signature, leaves, known[0].change() if known else "", args, kwargs)
            entry.refresh()
            self._entries[signature] = [entry, *(other for other in self._entries.get(signature, []) if other is not entry)][:_ALIKE]
            self._entries.move_to_end(signature)
            self._latest[tracking] = entry.hand_over
        return entry, leaves

    def _leaf(self, x: Any, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced | Fixed:
        if isinstance(x, (Tensor, np.ndarray, np.generic)):
            requires = isinstance(x, Tensor) and x._node is not None and x._node.tags & current().tracking != 0
            return Traced(Aval(x.shape, x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")), requires)
        try:
            hash(x)
        except TypeError:
            name = self._argument_names(args, kwargs)[position]
            says = f"{self.__name__}: the argument {name}, a {type(x).__name__}, can be neither traced nor compared"
            raise ArgumentError(
                says, mend="pass tensors, numbers, strings, or containers of them; let the function find other objects outside"
            ) from None
        return Fixed.of(x)

    def _argument_names(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        return [*leaf_names(self.function, args), *(name for key, part in kwargs.items() for name in leaf_names(key, (part,)))]

    def _compile(self, signature: Signature, leaves: Sequence[Any], reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        began = time.perf_counter()
        names = self._argument_names(args, kwargs)
        tracer = GraphTracer(may_build=False)
        traced = [i for i, leaf in enumerate(signature.leaves) if isinstance(leaf, Traced)]
        kinds: list[Traced] = [leaf for leaf in signature.leaves if isinstance(leaf, Traced)]

        def fill(tensors: list[Tensor]) -> list[Any]:
            full = list(leaves)
            for i, x in zip(traced, tensors, strict=True):
                full[i] = x
            return full

        def body(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return self.function(*args, **kwargs)

        body.__name__ = self.__name__
        graph, tracer = trace_with(
            body,
            [leaf.aval for leaf in kinds],
            signature.structure,
            names=[names[i] for i in traced],
            tracer=tracer,
            fill=fill,
            leaves=[leaf.requires_grad and signature.tracking != 0 for leaf in kinds],
            computed=_computed([leaves[i] for i in traced]),
            assigns=True,
        )
        seconds = time.perf_counter() - began
        how = How(self.backend, self.matmul_precision == "bfloat16", self.memory_budget)
        executable = build(graph, **how._asdict(), donate=_donations(graph))
        # As the trace left them.
        given = [x for x, leaf in zip(leaves, signature.leaves, strict=True) if isinstance(leaf, Fixed)]
        entry = Entry(signature, graph, executable, tracer, names_of(self.function, given, tracer.owners), how)
        entry.computed = _computed(entry.tensors(leaves))
        why = reason or self._why(signature, names)
        while len(self._entries) >= _MOST and signature not in self._entries:
            self._entries.popitem(last=False)
        milliseconds = 1e3 * (time.perf_counter() - began)
        told = {"why": why, "milliseconds": milliseconds, "trace": 1e3 * seconds, "arguments": _describe(signature, names)}
        # Not the entry itself, which holds what it was compiled for.
        self._history.append({**told, **executable.stats, "measured": entry.measured})
        self._source = executable.source
        if len(self._history) == _MANY:
            warnings.warn(
                f"{self.__name__} was compiled {_MANY} times; lately because of {why}. It keeps the {_MOST} latest."
                " Pass tensors for numbers that change, and pad or bucket shapes that do.",
                CompileWarning,
                stacklevel=4,
            )
        return entry

    def _why(self, signature: Signature, names: Sequence[str]) -> str:
        if not self._entries:
            return "first call"
        nearest = min(reversed(self._entries), key=signature.distance)
        return signature.difference(nearest, names)

    def _clear(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception:
        """The error that the gates themselves give, which says where."""
        if isinstance(error, (ChainruleError, MemoryError)):
            return error
        try:
            leaves, structure = tree.flatten((args, kwargs))
            signature = Signature(structure, tuple(self._leaf(x, i, args, kwargs) for i, x in enumerate(leaves)), current().tracking & BASE)
            entry = self._entries[signature][0]
            given = [functions.asarray(x).detach() for x, leaf in zip(leaves, signature.leaves, strict=True) if isinstance(leaf, Traced)]
            entry.graph.apply([*given, *(x.detach() for x in entry.graph.read())])
        except Exception as clear:
            return clear if isinstance(clear, ChainruleError) else error
        return error

    def stats(self) -> Stats:
        """What was compiled, why, how long it took, and what came of it."""
        return Stats(self.__name__, self._history, len(self._entries))

    def source(self) -> str:
        """Exactly what runs for the arguments of the latest compilation.

        Raises
        ------
        ArgumentError
            Before the first call.
        """
        if self._source is None:
            raise ArgumentError(f"{self.__name__} is not compiled yet", mend="call it once: it is compiled for the arguments that it gets")
        return self._source()

    def __repr__(self) -> str:
        return f"<compiled {self.__name__}: {len(self._entries)} signatures>"


def _measured(entry: Entry, leaves: Sequence[Any]) -> Any:
    """The first run under a budget, with what it took, to be told beside the forecast."""
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        began = time.perf_counter()
        out = entry.run(leaves)
        entry.measured.update(milliseconds=1e3 * (time.perf_counter() - began), peak_bytes=tracemalloc.get_traced_memory()[1] - before)
    finally:
        if not running:
            tracemalloc.stop()
    return out


def _hooks(tensor: Tensor) -> Mapping[int, Any]:
    node = tensor._node
    return {} if node is None or node.cell is None else node.cell.hooks


def _computed(tensors: Sequence[Any]) -> set[int]:
    """Which tensors have been computed of what requires a gradient."""
    return {i for i, x in enumerate(tensors) if isinstance(x, Tensor) and not x.is_leaf}


def _nothing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return MISS


def _donations(graph: Graph) -> dict[int, int]:
    """Per output that is assigned to a tensor, the input that holds its old value."""
    places = {id(source.tensor): i for i, source in enumerate(graph.captured, len(graph.parameters)) if isinstance(source, State)}
    first = len(graph.returned)
    states = [(i, id(target.tensor)) for i, target in enumerate(graph.updated, first) if isinstance(target, State)]
    return {i: places[key] for i, key in states if key in places}


def _describe(signature: Signature, names: Sequence[str]) -> str:
    words = (
        f"{name}: {leaf.aval}" if isinstance(leaf, Traced) else f"{name}={word(leaf)}" for name, leaf in zip(names, signature.leaves, strict=True)
    )
    return ", ".join(words)


class Stats:
    """What happened when a function was compiled; prints as a table.

    Attributes
    ----------
    compilations : list of dict
        In order: "arguments"; "why"; "backend"; "milliseconds" in all, of which "trace"; "passes", per pass the
        milliseconds and the nodes before and after; "arena_bytes"; "called_back", the gates without printed code; "matmul_precision", if
        another was asked for. Under a memory budget also "memory", the forecast, and "measured", the peak of what the first run allocated and
        its milliseconds.
    signatures : int
        How many are kept.
    """

    def __init__(self, name: str, history: Iterable[Mapping[str, Any]], signatures: int) -> None:
        self.name = name
        self.signatures = signatures
        self.compilations = [{key: value for key, value in one.items() if key != "measured" or value} for one in history]

    @property
    def milliseconds(self) -> float:
        """Spent compiling, in all."""
        return sum(one["milliseconds"] for one in self.compilations)

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.compilations)} compilations in {self.milliseconds:.1f} ms, {self.signatures} signatures kept"]
        for number, one in enumerate(self.compilations, 1):
            lines.append(f"{number}. {one['why']}: {one['arguments']}")
            lines.append(f"   {one['milliseconds']:.1f} ms, of which tracing {one['trace']:.1f}")
            lines += [f"   {key}: {value}" for key, value in one.items() if key not in ("why", "arguments", "milliseconds", "trace")]
        return "\n".join(lines)

    __repr__ = __str__


@overload
def compile(
    f: Callable[..., Any], /, *, backend: str = "auto", memory_budget: int | str | None = None, matmul_precision: str = "float32"
) -> Compiled: ...
@overload
def compile(
    *, backend: str = "auto", memory_budget: int | str | None = None, matmul_precision: str = "float32"
) -> Callable[[Callable[..., Any]], Compiled]: ...
def compile(
    f: Callable[..., Any] | None = None, /, *, backend: str = "auto", memory_budget: int | str | None = None, matmul_precision: str = "float32"
) -> Any:
    """Compile a function: one call of flat code in the place of one per gate.

    Also a decorator, with or without arguments. The function is traced when it is first called with arguments of new
    shapes or dtypes; a whole training step may stand in it, with ``loss.backward()``, ``optimizer.step()``, dropout and
    running statistics. Tensors that it finds outside (parameters, state) are read anew at every call, and what it
    assigns to them is assigned, with the history that it has without compiling: one that is made of parameters leads back to them
    (where it should not, assign ``value.detach()``; its calls are quicker, too). Results are the same as without compiling. NumPy arrays from
    outside are part of the program: pass those that change as arguments, or keep them in tensors.

    Parameters
    ----------
    f : callable
        A function of tensors, arrays, and nested containers of them. Other arguments are part of the program: a new value
        compiles anew.
    backend : {"auto", "numpy", "native"}
        What runs the step: "numpy" is flat NumPy code, "native" machine code, which needs llvmlite (``pip install 'chainrule[cpu]'``);
        "auto" takes the latter where that is installed, and says once where it is not.
    memory_budget : int or str, optional
        Bytes, or text like "200MB", that all values between arguments and results may take at most, results included, at any
        moment; what does not fit is computed again.
    matmul_precision : {"float32", "bfloat16"}
        With "bfloat16", machine code rounds the operands of large matrix products and convolutions of float32 to bfloat16 (8 bits of precision)
        where the processor multiplies those faster, and adds up in float32. Values, parameters and gradients stay float32. Elsewhere it
        changes nothing.

    Returns
    -------
    Compiled
        Called like ``f``; with ``stats()`` and ``source()``.

    Raises
    ------
    TraceError
        When called: if the function asks for the value of a traced tensor, to branch on it, say.
    ArgumentError
        For an unknown backend or precision; when called, if the memory budget is less than possible.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor(3.0, requires_grad=True)
    >>> optimizer = cr.optim.SGD([w], lr=0.1)
    >>> @cr.compile
    ... def step(x):
    ...     optimizer.zero_grad()
    ...     loss = (w * x - 1.0) ** 2
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> [round(step(cr.tensor(1.0)).item(), 4) for _ in range(3)]
    [4.0, 2.56, 1.6384]
    >>> step.stats().compilations[0]["why"]
    'first call'
    """
    if f is None:
        return lambda function: compile(function, backend=backend, memory_budget=memory_budget, matmul_precision=matmul_precision)
    check_backend(backend)
    if matmul_precision not in ("float32", "bfloat16"):
        raise ArgumentError(f"there is no matmul_precision {matmul_precision!r}", mend="choose 'float32' or 'bfloat16'")
    if not callable(f):
        raise ArgumentError(f"compile takes a function, not a {type(f).__name__}", mend="use it as a decorator, or write cr.compile(f)")
    return Compiled(f, backend, None if memory_budget is None else parse_bytes(memory_budget), matmul_precision)
