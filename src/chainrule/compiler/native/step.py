"""Tasks as functions that all threads run: where values lie, who does what, and where threads wait for each other.

A thread has its share of each kernel's units, and takes what others have not begun of theirs when it is done. Threads wait where a kernel reads
what another has written, or writes where another has read. A gate that is called back ends a function,
and another begins after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from chainrule.compiler.memory import Buffer
from chainrule.compiler.native.ir import I1, I8, I64, PTR, VOID, Function, Kind, Module, Value, index, literal
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.loops import status_of
from chainrule.compiler.native.pool_code import WORKS
from chainrule.compiler.native.tasks import Again, CallBack, Check, Choice, Element, Rounds, Sweep, Task, calls_of, touched
from chainrule.compiler.native.views import View
from chainrule.core.variable import Variable

__all__ = ["Block", "Segment", "Step", "alone", "lifetimes", "taken", "write_steps"]


SMALL = 8192
"""Bytes up to which a kernel's values are one thread's work."""
LARGE = 128 << 10
"""Bytes from which on threads take units from each other, so that nobody waits for one that the machine slows down."""
ROOM = 1 << 14
"""Bytes of rows with which a sweep begins, if they are at least two."""
PAIR = Kind("{ i64, i64 }")
NULL = Value("null", PTR)


class Segment(NamedTuple):
    """Tasks that run in one call: the name of a function of the module, and whether threads share it."""

    name: str
    shared: bool


class Block(NamedTuple):
    """Where pointers of the argument block point.

    Attributes
    ----------
    slots : Mapping of Variable to int
        Which pointer is to which value: inputs, constants, results.
    places : Mapping of Variable to int
        Where the other values lie in the arena, to which the pointer after those of the slots points.
    status : Variable
        What the last pointer is to.
    donors : Mapping of Variable to Variable
        Per result the input whose memory it may be given.
    """

    slots: Mapping[Variable, int]
    places: Mapping[Variable, int]
    status: Variable
    donors: Mapping[Variable, Variable] = MappingProxyType({})


class _Rows(NamedTuple):
    """Where a thread notes how many rows of a sweep are full, for how many there is room, and where they lie."""

    full: Value
    room: Value
    memory: Value


# Memory.


def lifetimes(tasks: Sequence[Task], results: Iterable[Variable], views: Mapping[Variable, View], status: Variable) -> dict[Variable, Buffer]:
    """From when to when the memory of each value is in use."""
    found: dict[Variable, Buffer] = {}
    end = _Clock(found, views, {status}).run(tasks, 0)
    for x in results:
        if x in found:
            found[x].end = end
    return found


class _Clock(NamedTuple):
    """Counts the tasks, and notes when each value is first and last touched."""

    found: dict[Variable, Buffer]
    views: Mapping[Variable, View]
    elsewhere: set[Variable]

    def run(self, tasks: Sequence[Task], now: int) -> int:
        for task in tasks:
            match task:
                case Call():
                    self.touch(task.arguments, now)
                case CallBack():
                    self.touch((self.views[x].root for x in (*task.node.inputs, *task.node.outputs)), now)
                case Rounds():
                    self.elsewhere.update(part.x for part in task.slices)
                    self.touch((part.whole for part in task.slices), now)
                    now = self.again(task.tasks, now)
                    self.touch((part.whole for part in task.slices), now)
                case Choice():
                    self.touch((task.condition.root,), now)
                    now = self.run([*task.yes, *task.no], now + 1)
                case Again():
                    now = self.again([*task.test, *task.tasks], now)
                case Sweep():
                    self.elsewhere.update(part.x for part in task.slices)
                    self.touch((task.rows,), now)
                    now = self.again(task.there, now)
                    now = self.again(task.back, now)
                    self.touch((task.rows,), now)
                case Check():
                    pass
            now += 1
        return now

    def again(self, tasks: Sequence[Task], now: int) -> int:
        """What was there before a loop is there in its last round too."""
        before = set(self.found)
        end = self.run(tasks, now + 1)
        self.touch(before & set(chain.from_iterable(map(touched, tasks))), end)
        return end

    def touch(self, xs: Iterable[Variable], now: int) -> None:
        for x in xs:
            if x not in self.elsewhere:
                buffer = self.found.setdefault(x, Buffer(x.nbytes, now, now, values=[x]))
                buffer.end = now


# Functions.


def write_steps(
    module: Module, tasks: Sequence[Task], block: Block, *, shared: bool, step: Callable[..., Step] | None = None
) -> tuple[Segment | CallBack, ...]:
    """Write the functions between gates that are called back; ``shared``: whether there is enough to do for several threads.

    ``step`` makes what writes a function, a `Step` if not given.
    """
    parts: list[Segment | CallBack] = []
    pending: list[Task] = []
    for task in [*tasks, None]:
        if task is not None and not isinstance(task, CallBack):
            pending.append(task)
            continue
        if any(True for _ in calls_of(pending)):
            both = shared and any(call.kernel.units > 1 for call in calls_of(pending))
            parts.append((step or Step)(module, f"step{len(parts)}", block, shared=both).write(pending))
        pending = []
        if task is not None:
            parts.append(task)
    return tuple(parts)


class Step:
    """Writes a function. Who wants more in it than the tasks overrides `begin`, `kernel`, `barrier` or `end`."""

    def __init__(self, module: Module, name: str, block: Block, *, shared: bool) -> None:
        self.f = f = Function(module, name, [("args", PTR), ("thread", I64), ("threads", I64)], hasty=True)
        self.args, self.thread, self.threads = f.parameters
        self.block, self.shared = block, shared
        self.hazards = _Hazards(block)
        slots = block.slots
        self.arena = f.load(PTR, f.at(self.args, len(slots), PTR)) if block.places else self.args
        self.pointers = {block.status: f.load(PTR, f.at(self.args, len(slots) + 1, PTR))}
        self.works = 0
        """That have been shared out since threads last waited for each other."""
        if shared:
            module.declare("pool_barrier", VOID, [I64, I64])
            module.declare("pool_take", PAIR, [I64] * 6)

    def write(self, tasks: Sequence[Task]) -> Segment:
        fixed = dict.fromkeys((call.kernel.units, alone(call)) for call in calls_of(tasks) if not taken(call))
        self.shares = {share: self.share(*share) for share in fixed}
        self.begin()
        self.run(tasks)
        self.end()
        self.f.close()
        return Segment(self.f.name, self.shared)

    def pointer(self, x: Variable) -> Value:
        """Where a value lies. It is found anew where it is wanted: there are more of them than registers."""
        f, block = self.f, self.block
        if x in self.pointers:
            return self.pointers[x]
        return f.load(PTR, f.at(self.args, block.slots[x], PTR)) if x in block.slots else f.at(self.arena, block.places[x], I8)

    def begin(self) -> None:
        """What stands before all tasks."""

    def end(self) -> None:
        """What stands behind all tasks."""

    def run(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            match task:
                case Call():
                    self.call(task)
                case Rounds():
                    self.rounds(task)
                case Choice():
                    self.choose(task)
                case Again():
                    self.again(task)
                case Sweep():
                    self.sweep(task)
                case Check():
                    self.check()
                case CallBack():
                    raise AssertionError("a gate inside of a loop cannot be called back")

    def wait(self) -> None:
        """Threads wait for each other, unless nothing has happened since they did."""
        if self.shared and self.hazards.seen:
            self.barrier()
        self.hazards.clear()
        self.works = 0

    def barrier(self) -> None:
        self.f.call("pool_barrier", VOID, self.thread, self.threads)

    def call(self, call: Call) -> None:
        if not call.kernel.units:
            return
        if self.shared and self.hazards.clash(call):
            self.wait()
        self.hazards.add(call)
        self.kernel(call)

    def kernel(self, call: Call) -> None:
        """Each thread does its share of the units, or takes some after the other where there is much to do."""
        f = self.f
        offsets = call.offsets or (0,) * len(call.arguments)
        given = [f.at(self.pointer(x), offset, I8) for x, offset in zip(call.arguments, offsets, strict=True)]
        if self.shared and self.works < WORKS and taken(call):
            self.take(call.kernel, given)
        else:
            share = call.kernel.units, alone(call)
            f.call(call.kernel.name, VOID, *given, *(self.shares.get(share) or self.share(*share)))

    def take(self, kernel: Kernel, given: Sequence[Value]) -> None:
        """Each thread takes some units after the other, of others' shares too when its own is done."""
        f = self.f
        done = f.allocate(I64)
        f.store(index(0), done)
        head, body, left = (f.fresh(stem) for stem in ("take", "do", "left"))
        f.jump(head)
        f.label(head)
        work = (index(self.works), self.thread, self.threads, index(kernel.units), index(kernel.together))
        units = f.call("pool_take", PAIR, *work, f.load(I64, done))
        first, last = (f.value(I64, f"extractvalue {units}, {i}") for i in range(2))
        f.branch(f.compare("ult", first, last), body, left)
        f.label(body)
        f.store(last, done)
        f.call(kernel.name, VOID, *given, first, last)
        f.jump(head)
        f.label(left)
        self.works += 1

    def share(self, units: int, solitary: bool) -> tuple[Value, Value]:
        """The units of a thread; the first has all that are not shared."""
        f = self.f
        if not self.shared:
            return index(0), index(units)
        if solitary:
            return index(0), f.select(self.leads(), index(units), index(0))
        first = f.binary("udiv", f.binary("mul", self.thread, index(units)), self.threads)
        after = f.binary("add", self.thread, index(1))
        return first, f.binary("udiv", f.binary("mul", after, index(units)), self.threads)

    def rounds(self, task: Rounds) -> None:
        f = self.f
        self.wait()
        with f.loop(0, task.count) as loop:
            number = task.number(f, loop.index)
            for part in task.slices:
                self.pointers[part.x] = part.at(f, self.pointer(part.whole), number)
            self.run(task.tasks)
            self.wait()

    def choose(self, task: Choice) -> None:
        f = self.f
        self.wait()
        holds = self.read(task.condition)
        for tasks, condition in ((task.yes, holds), (task.no, f.binary("xor", holds, literal(1, I1)))):
            with f.when(condition):
                self.hazards.note(task.condition)
                self.run(tasks)
                self.wait()

    def again(self, task: Again) -> None:
        f = self.f
        head, body, done = (f.fresh(stem) for stem in ("test", "body", "done"))
        self.wait()
        f.jump(head)
        f.label(head)
        self.run(task.test)
        self.wait()
        # What is computed from garbage need not end.
        f.branch(f.binary("and", self.read(task.condition), self.fine()), body, done)
        f.label(body)
        self.hazards.note(task.condition)
        self.hazards.watch(self.block.status)
        self.run(task.tasks)
        self.wait()
        f.jump(head)
        f.label(done)
        self.hazards.note(task.condition)

    def sweep(self, task: Sweep) -> None:
        """Each thread counts the rounds and knows where the rows lie; the first one gets the memory, and frees it."""
        f = self.f
        rows = _Rows(*(f.allocate(kind) for kind in (I64, I64, PTR)))
        for x, place in zip((index(0), index(0), NULL), rows, strict=True):
            f.store(x, place)
        self.ahead(task, rows)
        rounds, base = f.load(I64, rows.full), f.load(PTR, rows.memory)
        self.wait()
        with f.loop(0, rounds) as loop:
            number = f.sub(f.sub(rounds, 1), loop.index)
            self.pointers.update((part.x, part.at(f, base, number)) for part in task.slices)
            self.run(task.back)
            self.wait()
        with f.when(self.leads()):
            f.call("free", VOID, base)

    def ahead(self, task: Sweep, rows: _Rows) -> None:
        """Each round reads one row and writes the next, for which there is room before it begins."""
        f = self.f
        head, test, body, done = (f.fresh(stem) for stem in ("head", "test", "body", "done"))
        self.wait()
        f.jump(head)
        f.label(head)
        number = f.load(I64, rows.full)
        following = index(f.add(number, 1))
        with f.when(f.compare("uge", following, f.load(I64, rows.room))):
            self.grow(task, rows)
        f.branch(self.fine(), test, done)
        f.label(test)
        base = f.load(PTR, rows.memory)
        self.pointers.update((part.x, part.at(f, base, number)) for part in task.slices)
        with f.when(f.compare("eq", number, index(0))):
            self.run(task.first)
            self.wait()
        self.hazards.watch(task.status)
        self.run(task.test)
        self.wait()
        f.branch(self.read(task.condition), body, done)
        f.label(body)
        self.hazards.note(task.condition)
        self.run(task.tasks)
        self.wait()
        f.store(following, rows.full)
        f.jump(head)
        f.label(done)
        self.hazards.note(task.condition)

    def grow(self, task: Sweep, rows: _Rows) -> None:
        """One thread asks for twice as much memory, and tells the others where it lies."""
        f = self.f
        f.module.declare("realloc", PTR, [PTR, I64])
        f.module.declare("free", VOID, [PTR])
        more = index(f.most(f.mul(f.load(I64, rows.room), 2), max(ROOM // task.nbytes, 2)))
        told = self.pointer(task.rows)
        with f.when(self.leads()):
            old = f.load(PTR, rows.memory)
            new = f.call("realloc", PTR, old, index(f.mul(more, task.nbytes)))
            missing = f.compare("eq", new, NULL)
            with f.when(missing):
                f.store(status_of(MemoryError), self.pointer(task.status))
            f.store(f.select(missing, old, new), told)
        if self.shared:
            self.barrier()
        f.store(f.load(PTR, told), rows.memory)
        f.store(more, rows.room)

    def leads(self) -> Value:
        """Whether this is the first thread."""
        return self.f.compare("eq", self.thread, index(0))

    def fine(self) -> Value:
        """Whether nothing has gone wrong so far."""
        return self.f.compare("eq", self.f.load(I64, self.pointers[self.block.status]), index(0))

    def check(self) -> None:
        f = self.f
        self.wait()
        left, further = f.fresh("left"), f.fresh("further")
        f.branch(self.fine(), further, left)
        f.label(left)
        f.write("ret void")
        f.label(further)

    def read(self, condition: Element) -> Value:
        byte = self.f.load(I8, self.f.at(self.pointer(condition.root), condition.offset, I8))
        return self.f.compare("ne", byte, literal(0, I8))


def alone(call: Call) -> bool:
    """Whether one thread does it all: there is but one unit, or waiting for another thread would take longer than its share."""
    return call.kernel.units == 1 or sum(x.nbytes for x in call.arguments) <= SMALL


def taken(call: Call) -> bool:
    """Whether threads take units of what is another's share."""
    return not alone(call) and sum(x.nbytes for x in call.arguments) >= LARGE


_Memory = tuple[Variable | None, int, int]
"""A value's own memory, or a part of the arena: from where to where."""


class _Hazards:
    """What has been read and written since threads last waited for each other."""

    def __init__(self, block: Block) -> None:
        self.places, self.donors = block.places, block.donors
        self.seen: set[tuple[_Memory, bool, bool]] = set()

    def clear(self) -> None:
        self.seen.clear()

    def add(self, call: Call) -> None:
        self.seen.update((self._memory(x), x in call.writes, alone(call)) for x in call.arguments)

    def note(self, condition: Element) -> None:
        """Its memory is not written again before all threads have gone the way it tells."""
        self.seen.add((self._memory(condition.root), False, False))

    def watch(self, status: Variable) -> None:
        """It is not set before all threads have seen what it is."""
        self.seen.add((self._memory(status), True, False))

    def clash(self, call: Call) -> bool:
        """Whether a thread may meet in this call what another one has not finished."""
        solitary = alone(call)
        for x in call.arguments:
            (own, begin, end), writes = self._memory(x), x in call.writes
            for (other, start, stop), wrote, solo in self.seen:
                if own is other and begin < stop and start < end and (wrote or writes) and not (solitary and solo):
                    return True
        return False

    def _memory(self, x: Variable) -> _Memory:
        place = self.places.get(x)
        return (self.donors.get(x, x), 0, 1) if place is None else (None, place, place + max(x.nbytes, 1))
