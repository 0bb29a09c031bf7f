"""A graph as machine code: which kernels run on what, in what order, where their values lie, and where threads wait.

Every step of the graph becomes calls of kernels on values in memory. They stand one after the other in a function that all
threads run, each for its share of the units; threads wait for each other where a kernel reads what another has written, or writes
where another has read. A gate that nothing here can write is called back: the function ends before it, and another begins after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.fusion import Region, is_elementwise, regions
from chainrule.compiler.memory import Buffer, pack
from chainrule.compiler.native.contractions import Labels, Matched, labelled, matched, placed
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.epilogues import Fitting, epilogue, fitting
from chainrule.compiler.native.fused import REDUCTIONS, Fused, write_fused
from chainrule.compiler.native.gemm import Written, write_product
from chainrule.compiler.native.ir import I8, I64, PTR, VOID, Function, Module, Value
from chainrule.compiler.native.kernel import Call
from chainrule.compiler.native.loops import write_loops
from chainrule.compiler.native.scalars import NotLowered
from chainrule.compiler.native.views import View, contiguous, copied, moved, whole
from chainrule.core.aval import Aval, Shape
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["Program", "emit"]

SMALL = 60_000
"""Elements times operations below which one thread is quicker than several."""

_KINDS = frozenset("fiub")


class Segment(NamedTuple):
    """Kernels that run in one call: the name of a function of the module, and whether threads share it."""

    name: str
    shared: bool


class CallBack(NamedTuple):
    """A gate that Python evaluates between two segments."""

    node: Operation


class Program(NamedTuple):
    """A graph as machine code, not yet loaded.

    Attributes
    ----------
    text : str
        The module with the steps.
    loops : str
        A module of kernels that the steps call; its loops are still to be made vectors.
    constants : Mapping of Variable to array
        The graph's, and those of kernels.
    parts : tuple of Segment or CallBack
        In the order in which they run.
    slots : Mapping of Variable to int
        Which pointer of the argument block points to which value: inputs, constants, results.
    places : Mapping of Variable to int
        Where the other values lie in the arena, to which the pointer after those of the slots points; the last one points to the status.
    arena_bytes, unplanned_bytes : int
    views : Mapping of Variable to View
        How what is called back, and what is returned, finds its values.
    results : tuple of Variable
        Per output of the graph the value whose memory is given out: one that was made for it, an input, or a constant.
    shapes : Mapping of Variable to tuple of int
        In which shape it is given out, where it was made.
    """

    text: str
    loops: str
    constants: Mapping[Variable, Any]
    parts: tuple[Segment | CallBack, ...]
    slots: Mapping[Variable, int]
    places: Mapping[Variable, int]
    arena_bytes: int
    unplanned_bytes: int
    views: Mapping[Variable, View]
    results: tuple[Variable, ...]
    shapes: Mapping[Variable, Shape]

    @property
    def called_back(self) -> dict[str, int]:
        """How often a call runs which gates in Python."""
        return dict(Counter(part.node.primitive.name for part in self.parts if isinstance(part, CallBack)))


def emit(graph: Graph, target: Target) -> Program:
    """Write a graph as machine code.

    Parameters
    ----------
    graph : Graph
    target : Target
    """
    return _Emitter(graph, target).program()


class _Emitter:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
        self.lanes = target.nbytes // 4
        self.module, self.loops = Module(), Module()
        self.constants: dict[Variable, Any] = dict(graph.constants)
        self.status = Variable(Aval((), np.dtype(np.int64)), "status")
        self.views: dict[Variable, View] = {x: whole(x) for x in (*graph.inputs, *graph.constants)}
        self.given = {*graph.inputs, *graph.constants}
        self.shapes: dict[Variable, Shape] = {}
        self.tasks: list[Call | CallBack] = []
        self.work = 0
        self._number = 0

    def program(self) -> Program:
        order = regions(self.graph)
        hosts = self._hosts(order)
        for place, region in enumerate(order):
            if place not in hosts:
                self._region(region, [order[i].nodes[0] for i, host in hosts.items() if host == place])
        results = self._results()
        lifetimes = self._lifetimes(results)
        slots = {x: i for i, x in enumerate(dict.fromkeys((*self.graph.inputs, *self.constants, *results)))}
        inside = {x: buffer for x, buffer in lifetimes.items() if x not in slots}
        size = pack(list(inside.values()))
        places = {x: buffer.offset or 0 for x, buffer in inside.items()}
        parts = self._segments(slots, places)
        loops = self.loops.text() if self.loops.functions else ""
        unplanned = sum(x.nbytes for x in inside)
        return Program(
            self.module.text(), loops, self.constants, parts, slots, places, size, unplanned, self.views, results, self.shapes
        )  # fmt: skip

    # Kernels.

    def _hosts(self, order: Sequence[Region]) -> dict[int, int]:
        """Per product that is written with a region of elementwise gates behind it, alone to read it, the place of that region."""
        home = {x: place for place, region in enumerate(order) for node in region.nodes for x in node.outputs}
        readers: dict[Variable, set[int]] = {}
        for place, region in enumerate(order):
            for x in region.inputs:
                readers.setdefault(x, set()).add(place)
        ends = {*self.graph.outputs}
        found: dict[int, int] = {}
        for x, places in readers.items():
            place, reader = home.get(x), order[next(iter(places))]
            if place is None or order[place].nodes[0].primitive.kernel != "gemm" or len(places) > 1 or x in ends:
                continue
            if reader.shape == x.shape and is_elementwise(reader.nodes[0]):
                found[place] = next(iter(places))
        return found

    def _region(self, region: Region, products: Sequence[Operation]) -> None:
        """Gates that run as one loop, some of them in the registers of a product that nobody else reads."""
        nodes = region.nodes
        if region.shape is None:
            region = replace(region, shape=nodes[0].inputs[0].shape) if nodes[0].primitive in REDUCTIONS else region
        if region.shape is None:
            self._gate(nodes[0])
            return
        loops = [node for node in nodes if is_elementwise(node)]
        ends = [node for node in nodes if node.primitive in REDUCTIONS]
        others = [node for node in nodes if not is_elementwise(node) and node.primitive not in REDUCTIONS]
        read = {x for node in others for x in node.inputs} | {*region.outputs}
        stores = [x for node in loops for x in node.outputs if x in read]
        for node in products[:-1]:
            self._gate(node)
        if products and self._on_product(products[-1], region, loops, ends, stores):
            loops, stores = [], []
        elif products:
            self._gate(products[-1])
        if not self._fused(region, loops, ends, stores):
            for node in nodes:
                self._call_back(node)
            return
        for node in others:
            self._gate(node)

    def _on_product(
        self, product: Operation, region: Region, loops: Sequence[Operation], ends: Sequence[Operation], stores: Sequence[Variable]
    ) -> bool:
        """Write a product with the loops of a region on its results; False if they do not fit."""
        inner = {x for node in loops for x in node.outputs} | {product.output}
        kept = dict.fromkeys([*stores, *(x for node in ends for x in node.inputs if x in inner)])
        others = [x for node in region.nodes if not is_elementwise(node) and node.primitive not in REDUCTIONS for x in node.inputs]
        if not _known(loops) or product.output in others:
            return False
        views = {**self.views, **{x: whole(x) for x in kept}}
        mark = len(self.tasks)
        try:
            done = self._contracts(product, lambda labels, found: fitting(product.output, labels, found, loops, [*kept], views))
        except NotLowered:
            done = False
        if not done:
            del self.tasks[mark:]
            return False
        self.views.update((x, whole(x)) for x in kept)
        return True

    def _fused(self, region: Region, loops: Sequence[Operation], ends: Sequence[Operation], stores: Sequence[Variable]) -> bool:
        """Write the region's loops, one nest per set of axes that are reduced; False if that cannot be."""
        if not _known([*loops, *ends]):
            return False
        assert region.shape is not None
        sets: dict[tuple[int, ...], list[Operation]] = {}
        for node in ends:
            sets.setdefault(tuple(sorted(node.params["axis"])), []).append(node)
        nests = [Fused(region.shape, loops, stores if not number else (), found) for number, found in enumerate(sets.values() or [[]])]
        try:
            calls = [call for fused in nests if fused.stores or fused.ends for call in self._write(fused)]
        except NotLowered:
            return False
        self.tasks += calls
        return True

    def _write(self, fused: Fused) -> list[Call]:
        self.work += max(1, len(fused.nodes) + len(fused.ends)) * math.prod(fused.shape)
        for x in (*fused.stores, *(node.output for node in fused.ends)):
            self.views[x] = whole(x)
        return write_fused(self.module, self._name(), fused, self.views, self.lanes)

    def _name(self) -> str:
        self._number += 1
        return f"kernel{self._number}"

    def _gate(self, node: Operation) -> None:
        """A gate that is no loop over elements."""
        if node.primitive.kernel == "move" and len(node.inputs) == 1 and all(x.dtype.kind in _KINDS for x in node.inputs) and self._moves(node):
            return
        if node.primitive.kernel == "gemm" and self._contracts(node):
            return
        if not self._loops(node):
            self._call_back(node)

    def _loops(self, node: Operation) -> bool:
        """The loops that a gate writes itself, on values that lie row by row."""
        views = dict(self.views)
        for x in node.inputs:
            if views[x].strides != contiguous(x.shape):
                views[x] = self._copy(x, views[x])
        try:
            written = write_loops(self.loops, self._name(), node, views, self.status)
        except NotLowered:
            return False
        call = written.call
        self.module.declare(call.kernel.name, VOID, [*(PTR for _ in call.arguments), I64, I64])
        self.constants.update(written.constants)
        self.given.update(written.constants)
        self.views.update((x, whole(x)) for x in (*node.outputs, *written.constants))
        self.work += sum(x.size for x in (*node.inputs, *node.outputs))
        self.tasks.append(call)
        return True

    def _contracts(self, node: Operation, fit: Callable[[Labels, Matched], Fitting | None] | None = None) -> bool:
        """A contraction of two operands as a matrix product; with gates on its results, if they fit."""
        contraction = labelled(node)
        if contraction is None or node.output.dtype.name not in ("float32", "float64"):
            return False
        a, b = (self.views[x] for x in node.inputs)
        found = matched(contraction, a, b)
        if found is None and fit is None:
            a, b = (view if view.whole else self._copy(x, view) for x, view in zip(node.inputs, (a, b), strict=True))
            found = matched(contraction, a, b)
        if found is None:
            return False
        operands = {"a": a, "b": b}
        ending = None
        if fit is not None:
            fitted = fit(contraction.out, found)
            if fitted is None:
                return False
            ending = epilogue(fitted)
            operands.update((role, fitted.views[x]) for role, x in fitted.parameters.items())
            kept = [role for role, x in fitted.parameters.items() if x in fitted.stores]
            # The product itself is not kept, or under a name of the epilogue.
            operands["c"] = operands[kept[0]]
        else:
            shape, strides = placed(contraction, found.order, node.output.shape)
            own = node.output if found.order == contraction.out else Variable(Aval(shape, node.output.dtype), node.output.name)
            self.views[node.output] = View(own, node.output.shape, 0, strides)
            operands["c"] = whole(own)
            kept = ["c"]
        target = self.target
        written = write_product(self.module, self._name(), found.product, bits=8 * target.nbytes, registers=target.registers, epilogue=ending)
        self._product(written, operands, kept)
        self.work += found.product.m * found.product.k * found.product.n * math.prod(found.product.batch)
        return True

    def _product(self, written: Written, operands: Mapping[str, View], kept: Sequence[str]) -> None:
        """The calls of kernels whose pointers have roles."""
        roots = {role: view.root for role, view in operands.items()}
        if written.scratch:
            roots["scratch"] = Variable(Aval((written.scratch,), np.dtype(np.uint8)), "scratch")
        for kernel, roles in written.works:
            writes = tuple(roots[role] for role in roles if role in kept or role == "scratch")
            # An epilogue finds its elements by itself.
            offsets = tuple(operands[role].offset * operands[role].root.dtype.itemsize if role in ("a", "b") else 0 for role in roles)
            self.tasks.append(Call(kernel, tuple(roots[role] for role in roles), writes, offsets))

    def _moves(self, node: Operation) -> bool:
        """Read the same memory otherwise; what has no even strides is copied first."""
        view = self.views[node.inputs[0]]
        found = moved(node, view)
        if found is None and not view.whole:
            view = self._copy(node.inputs[0], view)
            found = moved(node, view)
        if found is None:
            return False
        self.views.update(zip(node.outputs, found, strict=True))
        return True

    def _copy(self, x: Variable, view: View) -> View:
        """The same elements in memory of their own."""
        own = Variable(x.aval, f"{x.name}_copy")
        self._store_as(own, x, view)
        return copied(own, view)

    def _store_as(self, own: Variable, x: Variable, view: View) -> None:
        self.views[own] = whole(own)
        fused = Fused(view.shape, (Operation(TABLE["stop_gradient"], (x,), {}, (own,)),), (own,), ())
        self.work += own.size
        self.tasks += write_fused(self.module, self._name(), fused, {**self.views, x: view}, self.lanes)

    def _call_back(self, node: Operation) -> None:
        self.views.update((x, whole(x)) for x in node.outputs)
        self.tasks.append(CallBack(node))

    # Memory.

    def _results(self) -> tuple[Variable, ...]:
        """Per output whose memory is given out; what does not lie in memory of its own is copied there."""
        results: list[Variable] = []
        for x in self.graph.outputs:
            view = self.views[x]
            own = view.root
            if x not in self.given:
                if own in self.given or not view.whole or self.shapes.get(own, x.shape) != x.shape:
                    own = Variable(x.aval, f"{x.name}_result")
                    self._store_as(own, x, view)
                self.shapes[own] = x.shape
            results.append(own)
        return tuple(results)

    def _lifetimes(self, results: Iterable[Variable]) -> dict[Variable, Buffer]:
        """From when to when the memory of each value is in use."""
        found: dict[Variable, Buffer] = {}
        for position, task in enumerate(self.tasks):
            for x in self._touched(task):
                if x is self.status:
                    continue
                if x not in found:
                    found[x] = Buffer(x.nbytes, position, position, values=[x])
                found[x].end = position
        for x in results:
            if x in found:
                found[x].end = len(self.tasks)
        return found

    def _touched(self, task: Call | CallBack) -> tuple[Variable, ...]:
        """The values in whose memory a task reads or writes."""
        if isinstance(task, Call):
            return task.arguments
        return tuple(dict.fromkeys(self.views[x].root for x in (*task.node.inputs, *task.node.outputs)))

    # The step.

    def _segments(self, slots: Mapping[Variable, int], places: Mapping[Variable, int]) -> tuple[Segment | CallBack, ...]:
        parts: list[Segment | CallBack] = []
        calls: list[Call] = []
        shared = self.work > SMALL
        for task in [*self.tasks, None]:
            if isinstance(task, Call):
                if task.kernel.units:
                    calls.append(task)
                continue
            if calls:
                parts.append(self._segment(f"step{len(parts)}", calls, slots, places, shared=shared and any(call.kernel.units > 1 for call in calls)))
                calls = []
            if task is not None:
                parts.append(task)
        return tuple(parts)

    def _segment(self, name: str, calls: Sequence[Call], slots: Mapping[Variable, int], places: Mapping[Variable, int], *, shared: bool) -> Segment:
        f = Function(self.module, name, [("args", PTR), ("thread", I64), ("threads", I64)])
        args, thread, threads = f.parameters
        pointers = {self.status: f.load(PTR, f.at(args, len(slots) + 1, PTR))}
        arena = f.load(PTR, f.at(args, len(slots), PTR)) if places else args
        for x in dict.fromkeys(x for call in calls for x in call.arguments if x is not self.status):
            pointers[x] = f.load(PTR, f.at(args, slots[x], PTR)) if x in slots else f.at(arena, places[x], I8)
        if shared:
            self.module.declare("pool_barrier", VOID, [I64, I64])
        waiting = _Hazards(places)
        for call in calls:
            units = call.kernel.units
            if shared and waiting.clash(call):
                f.call("pool_barrier", VOID, thread, threads)
                waiting.clear()
            waiting.add(call)
            first, last = _share(f, units, thread, threads) if shared else (Value("0", I64), Value(str(units), I64))
            offsets = call.offsets or (0,) * len(call.arguments)
            given = [f.at(pointers[x], offset, I8) for x, offset in zip(call.arguments, offsets, strict=True)]
            f.call(call.kernel.name, VOID, *given, first, last)
        f.close()
        return Segment(name, shared)


def _share(f: Function, units: int, thread: Value, threads: Value) -> tuple[Value, Value]:
    """The units of a thread: of few the first threads have one each; of one the first has it."""
    if units == 1:
        here = f.compare("eq", thread, Value("0", I64))
        return Value("0", I64), f.cast("zext", here, I64)
    first = f.binary("udiv", f.binary("mul", thread, Value(str(units), I64)), threads)
    after = f.binary("add", thread, Value("1", I64))
    return first, f.binary("udiv", f.binary("mul", after, Value(str(units), I64)), threads)


class _Hazards:
    """What has been read and written since threads last waited for each other."""

    def __init__(self, places: Mapping[Variable, int]) -> None:
        self.places = places
        self.clear()

    def clear(self) -> None:
        self.seen: list[tuple[Variable, bool, bool]] = []

    def add(self, call: Call) -> None:
        self.seen += [(x, x in call.writes, call.kernel.units == 1) for x in call.arguments]

    def clash(self, call: Call) -> bool:
        """Whether a thread may meet in this call what another one has not finished."""
        alone = call.kernel.units == 1
        return any(
            (wrote or x in call.writes) and not (alone and solo) and self._same_memory(x, y) for x in call.arguments for y, wrote, solo in self.seen
        )

    def _same_memory(self, x: Variable, y: Variable) -> bool:
        if x is y:
            return True
        a, b = self.places.get(x), self.places.get(y)
        return a is not None and b is not None and a < b + y.nbytes and b < a + x.nbytes


def _known(nodes: Iterable[Operation]) -> bool:
    """Whether all values are of dtypes that registers hold."""
    return all(x.dtype.kind in _KINDS and x.dtype.itemsize <= 8 for node in nodes for x in (*node.inputs, *node.outputs))
