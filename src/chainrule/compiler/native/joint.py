"""Kernels that become one: several side by side, or taking turns at the same places while what they hand on is near."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from chainrule.compiler.native.fused import BLOCK
from chainrule.compiler.native.ir import I8, I64, PTR, VOID, Function, Index, Module, Value, index
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.tasks import Rounds, Slice, Task, touched
from chainrule.compiler.native.walks import Access, Reach, Walk, apart, step_of
from chainrule.core.variable import Variable

__all__ = ["Turns", "go_through", "side_by_side", "take_turns", "taking_turns", "through_rounds", "unchanging"]

NEAR = BLOCK // 8
"""Elements at the places that all calls go through before the next ones: some such pieces stay in the first cache."""

CACHE = 4 << 20
"""Bytes that all of them touch at one place, up to which they stay in what a thread has of the second and third cache."""

FAR = 512 << 10
"""Bytes handed on at all places, from which on they would not stay there if each call went through all of them first."""

FEW = 8
"""Places below which threads would not get equal shares."""

LINE = I64.wide(8)
"""As memory on the stack is aligned."""

AHEAD = 4
"""Calls that are put before others, at most."""

STACK = 256 << 10
"""Bytes of what nobody else wants that lie on a thread's stack."""


def side_by_side(module: Module, name: str, calls: Sequence[Call]) -> Call:
    """One kernel that does the units of several, none of which reads or writes what another writes."""
    if len(calls) == 1:
        return calls[0]
    joint = _Joint(module, name, calls)
    start = 0
    for call in calls:
        units = call.kernel.units
        first, last = (joint.f.least(joint.f.most(joint.f.sub(x, start), 0), units) for x in joint.f.parameters[-2:])
        joint.call(call, first, last)
        start += units
    return joint.close(start)


@dataclass(frozen=True, eq=False)
class Turns:
    """Walks that go together, all of them at one place before the next: what one reads of another was made at the same place.

    Attributes
    ----------
    walks : tuple of Walk
    places : int
        How many there are.
    """

    walks: tuple[Walk, ...]
    places: int

    @property
    def calls(self) -> list[Call]:
        return [call for walk in self.walks for call in walk.calls]

    @cached_property
    def reads(self) -> dict[Variable, list[Reach]]:
        """Of what they read which elements at each place, access by access."""
        return self._reaches(lambda walk: walk.reads)

    @cached_property
    def writes(self) -> dict[Variable, list[Reach]]:
        return self._reaches(lambda walk: walk.writes)

    def _reaches(self, accesses: Callable[[Walk], Sequence[Access]]) -> dict[Variable, list[Reach]]:
        found: dict[Variable, list[Reach]] = {}
        for walk in self.walks:
            depth = walk.depth(self.places) or 0
            for access in accesses(walk):
                found.setdefault(access.root, []).append(access.reach(walk.sizes, depth))
        return found

    def touched(self, x: Variable) -> list[Reach]:
        """Of a value that they read or write."""
        return [*self.reads.get(x, ()), *self.writes.get(x, ())]

    def and_then(self, walk: Walk) -> Turns | None:
        """With another one behind them; None if it cannot take turns with them, or has nothing to do with them."""
        known = any(access.root in self.writes or access.root in self.reads for access in walk.reads)
        return turns_of((*self.walks, walk)) if known else None

    @property
    def together(self) -> int:
        """How many places at a time."""
        largest = max((reach.size for found in self.reads.values() for reach in found), default=1)
        return max(NEAR // max(largest, 1), 1)

    @property
    def nbytes(self) -> int:
        """That they touch at one place."""
        return sum(max(reach.size for reach in self.touched(x)) * x.dtype.itemsize for x in {**self.reads, **self.writes})

    @property
    def pays(self) -> bool:
        """Whether threads have as much to share as before, or enough, and what is handed on would go far."""
        if len(self.walks) == 1:
            return False
        handed = sum(self.places * reach.size * x.dtype.itemsize for x, found in self.writes.items() for reach in found if x in self.reads)
        return all(call.kernel.units <= self.places for call in self.calls) or (self.places >= FEW and handed >= FAR)


def turns_of(walks: Sequence[Walk]) -> Turns | None:
    """All of them at as many places as the one that has fewest, if they can take turns there."""
    places = min(walk.places for walk in walks)
    cut = [one for walk in walks if (one := walk.cut(places))]
    turns = Turns(tuple(cut), places)
    own = len(cut) == len(walks) and all(apart(turns.touched(x)) for x in turns.writes)
    return turns if own and turns.nbytes <= CACHE else None


def taking_turns(
    tasks: Sequence[Task], walks: Mapping[str, Walk], elsewhere: Iterable[Variable], write: Callable[[Turns, frozenset[Variable]], Call]
) -> list[Task]:
    """Tasks of which those that can take turns are one.

    Parameters
    ----------
    tasks : sequence of Task
    walks : Mapping of str to Walk
        Calls that go through places, by the name of the first one's kernel.
    elsewhere : iterable of Variable
        What is read by others than the tasks.
    write : callable
        ``write(turns, alone)`` gives the call of a kernel that takes turns; ``alone`` is what nobody else touches.
    """
    found: list[Task | Walk] = []
    left = iter(tasks)
    for task in left:
        walk = walks.get(task.kernel.name) if isinstance(task, Call) else None
        found.append(walk or task)
        for _ in walk.calls[1:] if walk else ():
            next(left)
    # Rows with rows first, these then with matrices.
    found = _grouped(found, lambda turns, walk: turns.walks[0].sizes == walk.sizes, elsewhere, write)
    found = _grouped(found, lambda turns, walk: True, elsewhere, write)
    return [task for x in found for task in (x.calls if isinstance(x, Walk) else (x,))]


def _grouped(
    tasks: Sequence[Task | Walk],
    fit: Callable[[Turns, Walk], bool],
    elsewhere: Iterable[Variable],
    write: Callable[[Turns, frozenset[Variable]], Call],
) -> list[Task | Walk]:
    """Walks that follow one another, fit and can take turns, as one."""
    users = Counter(elsewhere)
    for task in tasks:
        users.update(x for call in task.calls for x in call.arguments) if isinstance(task, Walk) else users.update(touched(task))
    found: list[Task | Walk] = []
    turns: Turns | None = None
    # What stands behind them and has nothing to do with them: it may run before them, if they go on.
    meanwhile: list[Task | Walk] = []
    left = deque(tasks)
    while left or turns:
        task = left.popleft() if left else None
        both = turns.and_then(task) if turns and isinstance(task, Walk) and fit(turns, task) else None
        if turns and both and (not meanwhile or turns.writes.keys() & {access.root for access in both.walks[-1].reads}):
            found += meanwhile
            turns, meanwhile = both, []
        elif turns and task and len(meanwhile) < AHEAD and _independent(turns, task):
            meanwhile.append(task)
        elif turns:
            found += _written(turns, users, write)
            left.extendleft(reversed([*meanwhile, task] if task else meanwhile))
            turns, meanwhile = None, []
        elif isinstance(task, Walk):
            turns = Turns((task,), task.places)
        elif task:
            found.append(task)
    return found


def _calls(task: Task | Walk) -> Sequence[Call]:
    return task.calls if isinstance(task, Walk) else (task,) if isinstance(task, Call) else ()


def _independent(turns: Turns, task: Task | Walk) -> bool:
    """Whether a task may as well run before them."""
    pairs = [(call, other) for call in _calls(task) for other in turns.calls]
    return bool(pairs) and not any({*call.writes} & {*other.arguments} or {*other.writes} & {*call.arguments} for call, other in pairs)


def _written(turns: Turns, users: Counter[Variable], write: Callable[[Turns, frozenset[Variable]], Call]) -> Sequence[Task | Walk]:
    """As one kernel, if that pays."""
    if not turns.pays:
        return turns.walks
    own = Counter(x for call in turns.calls for x in call.arguments)
    return [_as_one(turns, write(turns, frozenset(x for x, count in own.items() if count == users[x])))]


def _as_one(turns: Turns, call: Call) -> Walk | Call:
    """What takes turns, as a walk itself where all have the same axes."""
    sizes = turns.walks[0].sizes
    if any(walk.sizes != sizes for walk in turns.walks):
        return call
    reads = [access for walk in turns.walks for access in walk.reads]
    writes = [access for walk in turns.walks for access in walk.writes]
    made = {access.root for access in writes}
    outside = tuple(access for access in reads if access.root not in made)
    return Walk((call,), sizes, outside, tuple(access for access in writes if access.root in call.writes))


def take_turns(module: Module, name: str, turns: Turns, alone: frozenset[Variable]) -> Call:
    """One kernel that takes some places at a time through all calls; what is ``alone`` theirs lies on the stack, as far as there is room."""
    count, together, room = turns.places, turns.together, STACK
    steps: dict[Variable, int] = {}
    for x in turns.writes:
        step = step_of(turns.touched(x)) * x.dtype.itemsize
        if x in alone and 0 < together * step <= room:
            steps[x] = step
            room -= together * step
    joint = _Joint(module, name, turns.calls, steps)
    f = joint.f
    near = {x: f.allocate(LINE, -(-together * step // LINE.nbytes)) for x, step in steps.items()}
    with f.loop(f.parameters[-2], f.parameters[-1], together) as loop:
        first, last = loop.index, f.least(f.add(loop.index, together), f.parameters[-1])
        # Calls look for a place where it would lie among all.
        joint.pointers.update((x, f.at(memory, f.mul(first, -steps[x]), I8)) for x, memory in near.items())
        for call in turns.calls:
            units = call.kernel.units // count
            joint.call(call, f.mul(first, units), f.mul(last, units))
    return joint.close(count, together)


def unchanging(loop: Rounds, status: Variable) -> tuple[list[Task], list[Task]]:
    """The tasks of a loop that do the same in every round, so that once before it is enough, and the others; what fails stays inside."""
    changed = {status, *(part.x for part in loop.slices)}
    before: list[Task] = []
    again = list(loop.tasks)
    while again != before:
        before = again
        again = [task for task in loop.tasks if not isinstance(task, Call) or not changed.isdisjoint(task.arguments)]
        changed.update(*(task.writes if isinstance(task, Call) else touched(task) for task in again))
    return [task for task in loop.tasks if task not in again], again


def through_rounds(loop: Rounds, walks: Mapping[str, Walk]) -> Turns | None:
    """The tasks of a loop, if each place can go through all rounds by itself: what a round writes no other place touches in any round."""
    calls = [task for task in loop.tasks if isinstance(task, Call)]
    found = [walks[call.kernel.name] for call in calls if call.kernel.name in walks]
    if not found or len(calls) < len(loop.tasks) or [call for walk in found for call in walk.calls] != calls:
        return None
    turns = turns_of(found)
    return turns if turns and turns.places > 1 and _stays(turns, loop.slices) else None


def _stays(turns: Turns, slices: Sequence[Slice]) -> bool:
    """Whether every place has the same part of all slices of what is written."""
    reaches = {part.x: turns.touched(part.x) for part in slices}
    for changed in {part.whole for part in slices if part.x in turns.writes}:
        parts = [part for part in slices if part.whole is changed]
        step = step_of([reach for part in parts for reach in reaches[part.x]]) * changed.dtype.itemsize
        if not step or any(part.step % (turns.places * step) or part.offset % (turns.places * step) for part in parts):
            return False
    return True


def go_through(module: Module, name: str, call: Call, loop: Rounds) -> Call:
    """A loop as one kernel, whose units go through all rounds; ``call`` is what is done in each."""
    parts = {part.x: part for part in loop.slices}
    home = lambda x: parts[x].whole if x in parts else x
    arguments = tuple(dict.fromkeys(map(home, call.arguments)))
    f = Function(module, name, [*((f"p{i}", PTR) for i in range(len(arguments))), ("first", I64), ("last", I64)], linkage="internal")
    pointers = dict(zip(arguments, f.parameters, strict=False))
    with f.loop(0, loop.count) as rounds:
        number = loop.number(f, rounds.index)
        given = [parts[x].at(f, pointers[home(x)], number) if x in parts else pointers[x] for x in call.arguments]
        f.call(call.kernel.name, VOID, *given, *f.parameters[-2:])
    f.close()
    return Call(Kernel(name, call.kernel.units), arguments, tuple(dict.fromkeys(map(home, call.writes))))


class _Joint:
    """Writes a kernel that calls others; what is ``inside`` has no pointer from without."""

    def __init__(self, module: Module, name: str, calls: Sequence[Call], inside: Collection[Variable] = ()) -> None:
        self.calls, self.inside = calls, inside
        self.arguments = tuple(dict.fromkeys(x for call in calls for x in call.arguments if x not in inside))
        parameters = [*((f"p{i}", PTR) for i in range(len(self.arguments))), ("first", I64), ("last", I64)]
        self.f = Function(module, name, parameters, linkage="internal")
        self.pointers: dict[Variable, Value] = dict(zip(self.arguments, self.f.parameters, strict=False))

    def call(self, call: Call, first: Index, last: Index) -> None:
        offsets = call.offsets or (0,) * len(call.arguments)
        given = [self.f.at(self.pointers[x], offset, I8) for x, offset in zip(call.arguments, offsets, strict=True)]
        self.f.call(call.kernel.name, VOID, *given, index(first), index(last))

    def close(self, units: int, together: int = 1) -> Call:
        self.f.close()
        # What only one of them touches may still lie in the memory of what it replaces.
        touched = [x for call in self.calls for x in dict.fromkeys(call.arguments)]
        alone = frozenset(pair for call in self.calls for pair in call.meeting if all(touched.count(x) == 1 for x in pair))
        writes = tuple(dict.fromkeys(x for call in self.calls for x in call.writes if x not in self.inside))
        return Call(Kernel(self.f.name, units, together), self.arguments, writes, meeting=alone)
