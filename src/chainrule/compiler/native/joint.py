"""Kernels that become one: several side by side, or taking turns at the same places while what they hand on is near."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from chainrule.compiler.native.fused import BLOCK
from chainrule.compiler.native.ir import I8, I64, PTR, VOID, Function, Index, Module, Value, index
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.tasks import Task, touched
from chainrule.compiler.native.walks import Access, Reach, Walk
from chainrule.core.variable import Variable

__all__ = ["Turns", "side_by_side", "take_turns", "taking_turns"]

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
    def reads(self) -> list[tuple[Variable, Reach]]:
        """Of what they read which elements at each place."""
        return [(access.root, self._reach(walk, access)) for walk in self.walks for access in walk.reads]

    @cached_property
    def writes(self) -> dict[Variable, Reach]:
        return {access.root: self._reach(walk, access) for walk in self.walks for access in walk.writes}

    def _reach(self, walk: Walk, access: Access) -> Reach:
        return access.reach(walk.sizes, walk.depth(self.places) or 0)

    def and_then(self, walk: Walk) -> Turns | None:
        """With another one behind them; None if it cannot take turns with them, or has nothing to do with them."""
        both = Turns((*self.walks, walk), min(self.places, walk.places))
        made = {access.root for one in self.walks for access in one.writes}
        known = made.union(access.root for one in self.walks for access in one.reads)
        if any(access.root in made for access in walk.writes) or not any(access.root in known for access in walk.reads):
            return None
        if any(one.depth(both.places) is None for one in both.walks):
            return None
        own = all(both.writes.get(x, reach) == reach for x, reach in both.reads)
        return both if own and both.nbytes <= CACHE else None

    @property
    def together(self) -> int:
        """How many places at a time."""
        return max(NEAR // max(reach.size for _, reach in self.reads), 1)

    @property
    def nbytes(self) -> int:
        """That they touch at one place."""
        sizes: dict[Variable, int] = {}
        for x, reach in (*self.reads, *self.writes.items()):
            sizes[x] = max(reach.size * x.dtype.itemsize, sizes.get(x, 0))
        return sum(sizes.values())

    @property
    def pays(self) -> bool:
        """Whether threads have as much to share as before, or enough, and what is handed on would go far."""
        if len(self.walks) == 1:
            return False
        read = {x for x, _ in self.reads}
        handed = sum(reach.size * self.places * x.dtype.itemsize for x, reach in self.writes.items() if x in read)
        return all(call.kernel.units <= self.places for call in self.calls) or (self.places >= FEW and handed >= FAR)


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
    apart: list[Task | Walk] = []
    left = deque(tasks)
    while left or turns:
        task = left.popleft() if left else None
        both = turns.and_then(task) if turns and isinstance(task, Walk) and fit(turns, task) else None
        if turns and both and (not apart or turns.writes.keys() & {access.root for access in both.walks[-1].reads}):
            found += apart
            turns, apart = both, []
        elif turns and task and len(apart) < AHEAD and _independent(turns, task):
            apart.append(task)
        elif turns:
            found += _written(turns, users, write)
            left.extendleft(reversed([*apart, task] if task else apart))
            turns, apart = None, []
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
    for x, reach in turns.writes.items():
        nbytes = together * reach.step * x.dtype.itemsize
        if x in alone and 0 < nbytes <= room:
            steps[x] = reach.step * x.dtype.itemsize
            room -= nbytes
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
