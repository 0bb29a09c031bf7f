"""A graph as tasks: which kernels compute each of its gates, on what memory.

Elementwise gates and reductions become fused nests; those behind a product are done in its registers; gates that only move elements
become views; products, convolutions and poolings have kernels of their own; other gates write their own loops; what is left is called back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from chainrule.autodiff.cost import floating_operations
from chainrule.compiler.fusion import PRODUCTS, Region, is_elementwise, regions
from chainrule.compiler.native.alike import Alike
from chainrule.compiler.native.contractions import Contraction, Labels, Matched, labelled, matched, placed
from chainrule.compiler.native.conv import write_conv
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.epilogues import Fitting, epilogue, fitting, steps_of
from chainrule.compiler.native.fused import REDUCTIONS, Fused, write_fused
from chainrule.compiler.native.gemm import Product, Written, folded, rounding_pays, write_product
from chainrule.compiler.native.ir import I64, PTR, VOID, Module
from chainrule.compiler.native.joint import Turns, side_by_side, take_turns, taking_turns
from chainrule.compiler.native.kernel import Call
from chainrule.compiler.native.loops import write_loops
from chainrule.compiler.native.places import JOINING, parts_of, wishes
from chainrule.compiler.native.pooling import write_pool
from chainrule.compiler.native.scalars import NotLowered
from chainrule.compiler.native.tasks import CallBack, Task
from chainrule.compiler.native.turning import is_turned, write_turned_copy
from chainrule.compiler.native.views import View, contiguous, copied, moved, whole
from chainrule.compiler.native.walks import Walk, of_nest, of_product
from chainrule.core.aval import Aval, Shape
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["COPY", "Code", "Lowering"]

COPY = TABLE["stop_gradient"]
"""The gate that gives what it gets."""
_KINDS = frozenset("fiub")
ROW = 64
"""Elements from which on rows are computed one by one where they may go through the rounds of a loop by themselves."""


def _matrix(node: Operation) -> tuple[Labels, Matched]:
    """The result of a convolution or pooling as that of a product: a row for each position, a column for each channel."""
    *rows, columns = node.output.shape
    labels = tuple(f"p{i}" for i in range(len(rows)))
    product = Product(math.prod(rows), 1, columns, node.output.dtype, (1, 1), (1, 1), columns)
    return (*labels, "f"), Matched(product, (*labels, "f"), tuple(zip(labels, rows, strict=True)), (("f", columns),))


@dataclass(eq=False)
class Code:
    """What a graph and all graphs inside of it are written to.

    Attributes
    ----------
    target : Target
    module : Module
        Kernels with their vectors written out, and the step.
    loops : Module
        Kernels whose loops are still to be made vectors.
    constants : dict of Variable to array
        That kernels read.
    status : Variable
        An i64 that kernels set where something is wrong.
    work : int
        About how many operations there are.
    gates : dict of str to tuple of Operation
        Per kernel what it computes, or takes part in; that of a copy is `COPY`.
    """

    target: Target
    module: Module = field(default_factory=Module)
    loops: Module = field(default_factory=Module)
    constants: dict[Variable, Any] = field(default_factory=dict[Variable, Any])
    status: Variable = field(default_factory=lambda: Variable(Aval((), np.dtype(np.int64)), "status"))
    work: int = 0
    gates: dict[str, tuple[Operation, ...]] = field(default_factory=dict[str, tuple[Operation, ...]])
    _number: int = 0

    def __post_init__(self) -> None:
        self.alike = Alike(self.module, self.name, self.constants)

    @property
    def lanes(self) -> int:
        """Of vectors of float32."""
        return self.target.nbytes // 4

    def name(self) -> str:
        """Of a new kernel."""
        self._number += 1
        return f"kernel{self._number}"

    def note(self, calls: Iterable[Call], nodes: Iterable[Operation]) -> list[Call]:
        """Keep in mind which gates the kernels are for."""
        kept = list(calls)
        self.gates.update(dict.fromkeys((call.kernel.name for call in kept), tuple(nodes)))
        return kept


class Lowering:
    """One graph.

    Parameters
    ----------
    graph : Graph
    code : Code
    given : Mapping of Variable to View
        Where its inputs lie.
    inner : bool
        Whether it stands inside of another one; nothing can be called back then.
    steady : collection of Variable, optional
        Where it is done in every round of a loop: in whose memory nothing changes from one round to the next.

    Attributes
    ----------
    tasks : list of Task
    views : dict of Variable to View
        Where its values lie.
    """

    def __init__(
        self, graph: Graph, code: Code, given: Mapping[Variable, View], *, inner: bool = False, steady: Collection[Variable] | None = None
    ) -> None:
        self.graph, self.code, self.inner, self.steady = graph, code, inner, steady
        code.constants.update(graph.constants)
        self.views: dict[Variable, View] = {**given, **{x: whole(x) for x in graph.constants}}
        self.tasks: list[Task] = []
        self._wishes = wishes(graph)
        self._taken: set[Variable] = set()
        self.walks: dict[str, Walk] = {}

    def run(self) -> Self:
        """Write all kernels."""
        order = regions(self.graph)
        hosts = self._hosts(order)
        for place, region in enumerate(order):
            if place not in hosts:
                self._region(region, [order[i].nodes[0] for i, host in hosts.items() if host == place])
        if self.steady is None:
            self.tasks = self.turns()
        return self

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
            if place is None or order[place].nodes[0].primitive.kernel not in PRODUCTS or len(places) > 1 or x in ends:
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
        for x in region.inputs:
            if x in self.views and is_turned(self.views[x]):
                self.views[x] = self.copy(x, self.views[x])
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
                self._gate(node)
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
        mark = len(self.tasks)

        def fit(labels: Labels, found: Matched) -> Fitting | None:
            places = ({**self.views, **{x: place(x) for x in kept}} for place in (self._place, whole))
            fits = (fitting(product.output, labels, found, loops, [*kept], views) for views in places)
            return next((fitted for fitted in fits if fitted), None)

        try:
            done = (self._contracts if product.primitive.kernel == "gemm" else self._slides)(product, fit)
        except NotLowered:
            done = False
        if not done:
            del self.tasks[mark:]
            return False
        return True

    def _place(self, x: Variable) -> View:
        """Where a value is best written."""
        return self._wishes.get(x) or whole(x)

    def _fused(self, region: Region, loops: Sequence[Operation], ends: Sequence[Operation], stores: Sequence[Variable]) -> bool:
        """Write the region's loops, one nest per set of axes that are reduced; False if that cannot be."""
        if not _known([*loops, *ends]):
            return False
        assert region.shape is not None
        sets: dict[tuple[int, ...], list[Operation]] = {}
        for node in ends:
            sets.setdefault(tuple(sorted(node.params["axis"])), []).append(node)
        nests = [self._nest(region.shape, loops, stores if not number else (), found) for number, found in enumerate(sets.values() or [[]])]
        try:
            written = [(fused, self._write(fused)) for fused in nests if fused.stores or fused.ends]
        except NotLowered:
            return False
        for fused, calls in written:
            self._walk(of_nest(fused, self.views, calls))
            self.tasks += calls
        return True

    def _nest(self, shape: Shape, nodes: Sequence[Operation], stores: Sequence[Variable], ends: Sequence[Operation]) -> Fused:
        """Row by row where rows may go through the rounds of a loop by themselves."""
        return Fused(shape, nodes, stores, ends, rows=self.steady is not None and math.prod(shape[1:]) >= ROW)

    def _walk(self, walk: Walk | None) -> None:
        """Keep in mind which places calls go through."""
        if walk:
            self.walks[walk.calls[0].kernel.name] = walk

    def turns(self, outside: Iterable[Variable] = ()) -> list[Task]:
        """The tasks, of which those that take turns at the same places are one; others than them read what lies ``outside``, too."""
        seen = [x for task in self.tasks if isinstance(task, CallBack) for x in task.node.inputs]
        elsewhere = [*outside, *(self.views[x].root for x in (*self.graph.outputs, *seen))]
        return taking_turns(self.tasks, self.walks, elsewhere, self.in_turns)

    def in_turns(self, turns: Turns, alone: frozenset[Variable]) -> Call:
        """The call of a kernel that takes turns; ``alone`` is what nobody else touches."""
        gates = dict.fromkeys(node for call in turns.calls for node in self.code.gates.pop(call.kernel.name))
        (call,) = self.code.note([take_turns(self.code.module, self.code.name(), turns, alone)], gates)
        return call

    def _write(self, fused: Fused) -> list[Call]:
        self.code.work += max(1, len(fused.nodes) + len(fused.ends)) * math.prod(fused.shape)
        for x in (*fused.stores, *(node.output for node in fused.ends)):
            self.views[x] = self._place(x)
        code, views = self.code, self.views
        calls = code.alike.calls(fused, views, lambda name: write_fused(code.module, name, fused, views, code.lanes))
        return code.note(calls, [*fused.needed()[0], *fused.ends])

    def _gate(self, node: Operation) -> None:
        """A gate that is no loop over elements."""
        if not any(x.size for x in node.outputs):
            self.views.update((x, whole(x)) for x in node.outputs)
            return
        if node.primitive.kernel == "move" and len(node.inputs) == 1 and all(x.dtype.kind in _KINDS for x in node.inputs) and self._moves(node):
            return
        if node.primitive.kernel == "gemm" and self._contracts(node):
            return
        if node.primitive.kernel in ("conv", "pool") and self._slides(node):
            return
        if node.primitive in JOINING and _known([node]) and self._joins(node):
            return
        if not self.flow(node) and not self._loops(node):
            self._call_back(node)

    def flow(self, node: Operation) -> bool:
        """A gate that holds graphs (`flow.Flow`)."""
        return False

    def _joins(self, node: Operation) -> bool:
        """Values put together: those that do not lie in their places are copied there."""
        out = self._place(node.output)
        parts = parts_of(node, out)
        if any(part is None and x.size for x, part in zip(node.inputs, parts, strict=True)):
            return False
        found = [(part, x, self.views[x]) for x, part in zip(node.inputs, parts, strict=True) if part is not None]
        calls = [call for to, x, view in found if view != to for call in self._copying(to, x, view)]
        if calls and self.steady is None:
            calls = [side_by_side(self.code.module, self.code.name(), calls)]
        self.tasks += self.code.note(calls, [node])
        self.views[node.output] = out
        return True

    def _loops(self, node: Operation) -> bool:
        """The loops that a gate writes itself, on values that lie row by row."""
        code, views = self.code, {**self.views, **self._rows(node)}

        def write(name: str) -> list[Call]:
            call, constants = write_loops(code.loops, name, node, views, code.status, inner=self.inner)
            code.module.declare(call.kernel.name, VOID, [*(PTR for _ in call.arguments), I64, I64])
            code.constants.update(constants)
            return [call]

        try:
            calls = code.alike.calls((node, self.inner, code.status), views, write)
        except NotLowered:
            return False
        self.views.update((x, whole(x)) for x in node.outputs)
        code.work += sum(x.size for x in (*node.inputs, *node.outputs))
        self.tasks += code.note(calls, [node])
        return True

    def _rows(self, node: Operation) -> dict[Variable, View]:
        """Its inputs, each in memory without gaps."""
        found = {x: self.views[x] for x in node.inputs}
        return {x: view if view.strides == contiguous(x.shape) else self.copy(x, view) for x, view in found.items()}

    def _slides(self, node: Operation, fit: Callable[[Labels, Matched], Fitting | None] | None = None) -> bool:
        """A convolution or a pooling; with gates on its results, if they fit."""
        if any(x.dtype.name not in ("float32", "float64") or not x.size for x in (*node.inputs, *node.outputs)):
            return False
        out, ending, kept, fitted = node.output, None, ["c"], None
        behind: Sequence[Operation] = ()
        operands: dict[str, View] = {"c": whole(out)}
        if fit is not None:
            labels, found = _matrix(node)
            fitted = fit(labels, found)
            if fitted is None:
                return False
            ending, behind, kept = epilogue(fitted), fitted.nodes, fitted.kept
            operands.update(fitted.operands)
        given = self._rows(node)
        write = write_conv if node.primitive.kernel == "conv" else write_pool
        avals = [x.aval for x in node.inputs]
        of = node.primitive.name, avals, out.aval, node.params
        written = self.code.alike.written((of, fitted), lambda name: write(self.code.module, name, *of, self.code.target, ending))
        self.views.update(((x, fitted.views[x]) for x in fitted.stores) if fitted else [(out, whole(out))])
        operands.update((role, given[x]) for role, x in zip("abd", node.inputs, strict=False))
        self.code.note(self._product(written, operands, kept, fitted), [node, *behind])
        self.code.work += int(floating_operations(node))
        return True

    def _contracts(self, node: Operation, fit: Callable[[Labels, Matched], Fitting | None] | None = None) -> bool:
        """A contraction of two operands as a matrix product; with gates on its results, if they fit."""
        contraction = labelled(node)
        if contraction is None or node.output.dtype.name not in ("float32", "float64"):
            return False
        a, b = (self.views[x] for x in node.inputs)
        found = self._matched(contraction, a, b)
        if found is None and fit is None:
            a, b = (view if view.whole else self.copy(x, view) for x, view in zip(node.inputs, (a, b), strict=True))
            found = self._matched(contraction, a, b)
        if found is None:
            return False
        operands = {"a": a, "b": b}
        ending = fitted = None
        behind: Sequence[Operation] = ()
        if fit is not None:
            fitted = fit(contraction.out, found)
            if fitted is None:
                return False
            ending, behind, kept = epilogue(fitted), fitted.nodes, fitted.kept
            operands.update(fitted.operands)
            self.views.update((x, fitted.views[x]) for x in fitted.stores)
        elif wished := self._wished(node, contraction, a, b):
            found, operands = wished
            self.views[node.output] = operands["c"]
            kept = ["c"]
        else:
            shape, strides = placed(contraction, found.order, node.output.shape)
            own = node.output if found.order == contraction.out else Variable(Aval(shape, node.output.dtype), node.output.name)
            self.views[node.output] = View(own, node.output.shape, 0, strides)
            operands["c"] = whole(own)
            kept = ["c"]
        module, target = self.code.module, self.code.target
        product = found.product if fitted or found.strips > 1 else folded(found.product)
        bits, registers, halves = 8 * target.nbytes, target.registers, target.halves
        often = self.steady is not None and operands["b"].root in self.steady
        written = self.code.alike.written(
            (product, fitted, often),
            lambda name: write_product(module, name, product, bits=bits, registers=registers, epilogue=ending, halves=halves, often=often),
        )
        calls = self.code.note(self._product(written, operands, kept, fitted), [node, *behind])
        self._walk(of_product(product, operands, fitted, written.works, calls))
        self.code.work += found.product.m * found.product.k * found.product.n * math.prod(found.product.batch)
        return True

    def _wished(self, node: Operation, contraction: Contraction, a: View, b: View) -> tuple[Matched, dict[str, View]] | None:
        """The product that writes its result where that is best, and its operands: of one turned over if rows are to be columns."""
        wish = self._wishes.get(node.output)
        if wish is None:
            return None
        for labels, first, second in ((contraction, a, b), (contraction.turned, b, a)):
            found = self._matched(labels, first, second)
            steps = steps_of(wish.strides, labels.out, found) if found else None
            if found and steps and steps.column == 1:
                product = found.product._replace(c=steps.row, c_batch=steps.batch)
                return found._replace(product=product), {"a": first, "b": second, "c": wish}
        return None

    def _matched(self, contraction: Contraction, a: View, b: View) -> Matched | None:
        """As a product, in strips where these may go through the rounds of a loop by themselves; what is worth rounding has all rows in one."""
        found = matched(contraction, a, b)
        if found is None or self.steady is None or (self.code.target.halves and rounding_pays(found.product, 8 * self.code.target.nbytes)):
            return found
        return found.in_strips()

    def _product(self, written: Written, operands: Mapping[str, View], kept: Sequence[str], fitted: Fitting | None) -> list[Call]:
        """The calls of kernels whose pointers have roles."""
        factors = {operands[role].root for role in "abd" if role in operands}
        meeting = frozenset(pair for pair in fitted.meeting if not factors.intersection(pair)) if fitted else frozenset[tuple[Variable, Variable]]()
        roots = {role: view.root for role, view in operands.items()}
        if written.scratch:
            roots["scratch"] = Variable(Aval((written.scratch,), np.dtype(np.uint8)), "scratch")
        calls: list[Call] = []
        for work in written.works:
            kernel, roles = work
            writes = tuple(roots[role] for role in roles if role in kept or (role == "scratch" and work.packs))
            # An epilogue finds its elements by itself.
            offsets = tuple(operands[role].offset * operands[role].root.dtype.itemsize if role in "abcd" else 0 for role in roles)
            calls.append(Call(kernel, tuple(roots[role] for role in roles), writes, offsets, meeting))
        self.tasks += calls
        return calls

    def _moves(self, node: Operation) -> bool:
        """Read the same memory otherwise; what has no even strides is copied first."""
        view = self.views[node.inputs[0]]
        found = moved(node, view)
        if found is None and not view.whole:
            view = self.copy(node.inputs[0], view)
            found = moved(node, view)
        if found is None:
            return False
        self.views.update(zip(node.outputs, found, strict=True))
        return True

    def copy(self, x: Variable, view: View) -> View:
        """The same elements in memory of their own."""
        own = Variable(x.aval, f"{x.name}_copy")
        self.store_as(own, x, view)
        return copied(own, view)

    def store_as(self, own: Variable, x: Variable, view: View) -> None:
        """The same elements in the memory of another value."""
        self.views[own] = whole(own)
        self.copy_to(whole(own), x, view)

    def copy_to(self, to: View, x: Variable, view: View) -> None:
        """The same elements elsewhere."""
        self.tasks += self.code.note(self._copying(to, x, view), [Operation(COPY, (x,), {}, (to.root,))])

    def _copying(self, to: View, x: Variable, view: View) -> list[Call]:
        """The call that copies elements."""
        code = self.code
        code.work += x.size
        if is_turned(view) and to.strides == contiguous(to.shape):
            return [write_turned_copy(code.module, code.name(), to, view, code.target.nbytes)]
        own = Variable(x.aval, to.root.name)
        fused, views = self._nest(view.shape, (Operation(COPY, (x,), {}, (own,)),), (own,), ()), {x: view, own: to}
        calls = code.alike.calls(fused, views, lambda name: write_fused(code.module, name, fused, views, code.lanes))
        self._walk(of_nest(fused, views, calls))
        return calls

    def _call_back(self, node: Operation) -> None:
        if self.inner:
            raise NotLowered(f"{node.primitive.name} inside of a loop")
        self.views.update((x, whole(x)) for x in node.outputs)
        self.tasks.append(CallBack(node))


def _known(nodes: Iterable[Operation]) -> bool:
    """Whether all values are of dtypes that registers hold."""
    return all(x.dtype.kind in _KINDS and x.dtype.itemsize <= 8 for node in nodes for x in (*node.inputs, *node.outputs))
