"""A compiled step once more, with the time noted before everything that it does, in machine code and in NumPy code.

The step that runs otherwise has no part in it. What the times say is the business of `profile`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.backend import Executable, Run
from chainrule.compiler.native import engine
from chainrule.compiler.native.backend import Caller, caller
from chainrule.compiler.native.clock import now
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.emit import Program, emit
from chainrule.compiler.native.space import debugging
from chainrule.compiler.native.stamps import BEGIN, END, WAIT, Stamps
from chainrule.compiler.numpy_code import Printer, Source, load, print_source
from chainrule.compiler.plan import Step
from chainrule.core.errors import ArgumentError
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["NativeTiming", "NumpyTiming", "Span", "Work"]

_ROOM = 1 << 12
"""Stamps per thread that there is memory for at first."""

Nodes = tuple[Operation, ...]


class Span(NamedTuple):
    """What a thread did, from when to when.

    Attributes
    ----------
    thread : int
        0 is the caller's.
    region : int or None
        Which of the profile's regions it worked on; None where it waited for other threads.
    kernel : str
        Which of the region's kernels ran, in machine code.
    begin, end : int
        Nanoseconds since the step began.
    """

    thread: int
    region: int | None
    kernel: str
    begin: int
    end: int


class Work(NamedTuple):
    """What a region's time is noted for: its gates, and what they write."""

    nodes: Nodes
    written: tuple[Variable, ...]


class NativeTiming:
    """The step as machine code with time stamps."""

    def __init__(self, executable: Executable) -> None:
        if debugging():
            raise ArgumentError("in debug mode a step has other memory than otherwise", mend="profile it without CHAINRULE_NATIVE_DEBUG")
        self.graph = executable.graph
        self.works: list[Work] = []
        self._make(_ROOM)

    def _make(self, room: int) -> None:
        self.stamps = Stamps(engine.pool().threads, room)
        graph = replace(self.graph, inputs=(*self.graph.inputs, self.stamps.log))
        program = emit(graph, Target.of(engine.host()), step=self.stamps.step)
        self.log = np.zeros(self.stamps.log.shape, np.int64)
        self.run: Run = caller(graph, program, parts=_Watched)
        self.places = self._places(program)

    def _places(self, program: Program) -> dict[Any, int]:
        """Per kernel, and per gate that is called back, its region."""
        regions: dict[Nodes, set[Variable]] = {}
        keys: dict[Any, Nodes] = {}
        for number, call in enumerate(self.stamps.calls):
            nodes = keys[number] = program.gates[call.kernel.name]
            regions.setdefault(nodes, set()).update(call.writes)
        for part in program.parts:
            node = getattr(part, "node", None)
            if node is not None:
                keys[node] = (node,)
                regions[node,] = set(node.outputs)
        own = {x for nodes in regions for node in nodes for x in node.outputs}
        self.works[:] = [Work(nodes, tuple(sorted(wrote & own, key=lambda x: x.name))) for nodes, wrote in regions.items()]
        order = {nodes: number for number, nodes in enumerate(regions)}
        return {key: order[nodes] for key, nodes in keys.items()}

    def __call__(self, arrays: Sequence[Any]) -> tuple[int, int, list[Span]]:
        self.log[:, 0] = 0
        begin = now()
        self.run(*arrays, self.log)
        end = now()
        if missing := self.stamps.missing(self.log):
            self._make(self.stamps.room + 2 * missing)
            return self(arrays)
        return begin, end, [span._replace(begin=span.begin - begin, end=span.end - begin) for span in self._spans()]

    def _spans(self) -> Iterator[Span]:
        found = list(self.stamps.read(self.log))
        threads = 1 + max((stamp.thread for stamp in found), default=0)
        for stamp, after in pairwise(found):
            if stamp.what in (BEGIN, END) or stamp.thread != after.thread:
                continue
            if stamp.what == WAIT:
                yield Span(stamp.thread, None, "", stamp.time, after.time)
            elif self.stamps.shares(stamp.what, stamp.thread, threads):
                kernel = self.stamps.calls[stamp.what].kernel.name
                yield Span(stamp.thread, self.places[stamp.what], kernel, stamp.time, after.time)
        if isinstance(self.run, _Watched):
            yield from (Span(0, self.places[node], "", began, ended) for node, began, ended in self.run.seen)


class _Watched(Caller):
    """Notes when gates are called back."""

    seen: list[tuple[Operation, int, int]]

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        self.seen = []
        return super().__call__(*arrays)

    def call_back(self, node: Operation, memory: Mapping[Variable, np.ndarray], arena: np.ndarray) -> None:
        began = now()
        super().call_back(node, memory, arena)
        self.seen.append((node, began, now()))


class NumpyTiming:
    """The step as NumPy code with time stamps."""

    def __init__(self, executable: Executable) -> None:
        self.works: list[Work] = []
        self.noted: list[tuple[int, int]] = []
        source = Source()
        arena = "memory" not in executable.stats
        name, _ = print_source(executable.graph, {}, source, arena=arena, printer=lambda graph, source: _Stamped(graph, source, self))
        self.run = load(source, name)

    def note(self, number: int) -> None:
        self.noted.append((number, perf_counter_ns()))

    def __call__(self, arrays: Sequence[Any]) -> tuple[int, int, list[Span]]:
        self.noted.clear()
        begin = perf_counter_ns()
        self.run(*arrays)
        end = perf_counter_ns()
        ends = [at for _, at in self.noted[1:]] + [end]
        return begin, end, [Span(0, number, "", at - begin, after - begin) for (number, at), after in zip(self.noted, ends, strict=False)]


class _Stamped(Printer):
    """Prints a line that notes the time before each gate."""

    def __init__(self, graph: Graph, source: Source, owner: NumpyTiming) -> None:
        super().__init__(graph, source)
        self.owner = owner

    def statement(self, step: Step, owned: Mapping[Variable, str], views: Mapping[Variable, str]) -> Iterator[str]:
        works = self.owner.works
        yield f"{self.space.bound('note', self.owner.note)}({len(works)})"
        works.append(Work((step.node,), step.node.outputs))
        yield from super().statement(step, owned, views)
