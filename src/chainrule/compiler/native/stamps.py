"""A step that says when: before every kernel and every wait each thread writes down what it turns to, and the time.

The log is one more input of the graph, which no gate reads. What the times mean is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from chainrule.compiler.native.clock import write_now
from chainrule.compiler.native.ir import I64, PTR, Function, Module, index
from chainrule.compiler.native.kernel import Call
from chainrule.compiler.native.step import Block, Step, alone, taken
from chainrule.core.aval import Aval
from chainrule.core.variable import Variable

__all__ = ["BEGIN", "END", "WAIT", "Stamp", "Stamps"]

BEGIN, END, WAIT = -1, -2, -3
"""What a thread turns to besides kernels, which are counted from 0."""

_HEAD = 8
"""Words before the stamps of a thread, the first of which counts them: threads never write to one cache line."""


class Stamp(NamedTuple):
    """A thread turns to something, at a time in nanoseconds."""

    thread: int
    what: int
    time: int


class Stamps:
    """The log of a step, and which kernels its stamps mean.

    Parameters
    ----------
    threads : int
        That may run the step.
    room : int
        How many stamps of a thread there is memory for.

    Attributes
    ----------
    calls : list of Call
        Of kernels, as they are numbered.
    log : Variable
        To be an input of the graph.
    """

    def __init__(self, threads: int, room: int) -> None:
        self.room = room
        self.calls: list[Call] = []
        self.log = Variable(Aval((threads, _HEAD + 2 * room), np.dtype(np.int64)), "log")

    def step(self, module: Module, name: str, block: Block, *, shared: bool) -> Step:
        """What writes a function of the step (see `write_steps`)."""
        if "stamp" not in module.functions:
            _write_stamp(module, self.room)
        return _Stamped(module, name, block, self, shared=shared)

    def missing(self, log: np.ndarray) -> int:
        """For how many stamps more there should have been room."""
        return max(0, int(log[:, 0].max()) - self.room)

    def read(self, log: np.ndarray) -> Iterator[Stamp]:
        """The stamps, thread by thread, as they were made."""
        for thread, row in enumerate(log):
            for what, at in row[_HEAD : _HEAD + 2 * int(row[0])].reshape(-1, 2).tolist():
                yield Stamp(thread, what, at)

    def shares(self, number: int, thread: int, threads: int) -> bool:
        """Whether a thread may have anything to do in a kernel."""
        call = self.calls[number]
        units = call.kernel.units
        return thread == 0 if alone(call) else taken(call) or thread * units // threads < (thread + 1) * units // threads


class _Stamped(Step):
    def __init__(self, module: Module, name: str, block: Block, stamps: Stamps, *, shared: bool) -> None:
        super().__init__(module, name, block, shared=shared)
        self.stamps = stamps

    def begin(self) -> None:
        f, stamps = self.f, self.stamps
        log = f.load(PTR, f.at(self.args, self.block.slots[stamps.log], PTR))
        self.row = f.at(log, f.mul(self.thread, stamps.log.shape[1]), I64)
        self.stamp(BEGIN)

    def end(self) -> None:
        self.stamp(END)

    def kernel(self, call: Call) -> None:
        self.stamp(len(self.stamps.calls))
        self.stamps.calls.append(call)
        super().kernel(call)

    def barrier(self) -> None:
        self.stamp(WAIT)
        super().barrier()

    def stamp(self, what: int) -> None:
        self.f.write(f"call void @stamp({self.row}, {index(what)})")


def _write_stamp(module: Module, room: int) -> None:
    """The function that writes one down, if there is room; it counts in any case."""
    f = Function(module, "stamp", [("row", PTR), ("what", I64)], linkage="internal")
    row, what = f.parameters
    count = f.load(I64, row)
    f.store(f.binary("add", count, index(1)), row)
    with f.when(f.compare("ult", count, index(room))):
        at = f.at(row, f.add(f.mul(count, 2), _HEAD), I64)
        f.store(what, at)
        f.store(write_now(f), f.at(at, 1, I64))
    f.close()
