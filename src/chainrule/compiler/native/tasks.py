"""What a step does, before it is a function: calls of kernels, loops and choices around them, and gates that are called back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from chainrule.compiler.native.ir import I8, Function, Index, Value
from chainrule.compiler.native.kernel import Call
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

__all__ = ["Again", "CallBack", "Check", "Choice", "Element", "Rounds", "Slice", "Sweep", "Task", "calls_of", "touched"]


class CallBack(NamedTuple):
    """A gate that Python evaluates, between two functions."""

    node: Operation


class Check(NamedTuple):
    """All threads end here if a kernel before has said that something is wrong."""


class Slice(NamedTuple):
    """A value that lies, in every round of a loop, in another part of the memory of ``whole``.

    Attributes
    ----------
    x : Variable
        As the loop's tasks know it.
    whole : Variable
    offset, step : int
        Bytes: where the first part begins, and from one part to the next.
    turns : int
        After so many parts it is the first one's turn again; 0 if never.
    """

    x: Variable
    whole: Variable
    offset: int
    step: int
    turns: int = 0

    def at(self, f: Function, whole: Value, number: Index) -> Value:
        """Where it lies in the round with that number, counted from the first part on."""
        turn = f.rem(number, self.turns) if self.turns else number
        return f.at(whole, f.add(f.mul(turn, self.step), self.offset), I8)


class Element(NamedTuple):
    """One boolean in memory: in that of ``root``, so many bytes behind its beginning."""

    root: Variable
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """A loop of so many rounds."""

    count: int
    reverse: bool
    slices: Sequence[Slice]
    tasks: Sequence[Task]

    def number(self, f: Function, turn: Index) -> Index:
        """Of the part whose turn it is."""
        return f.sub(self.count - 1, turn) if self.reverse else turn


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One of two sequences of tasks."""

    condition: Element
    yes: Sequence[Task]
    no: Sequence[Task]


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """A loop as long as a condition holds, which tasks of its own compute first."""

    test: Sequence[Task]
    condition: Element
    tasks: Sequence[Task]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A loop as long as a condition holds, whose carries are kept in rows, and as many rounds back through them.

    Attributes
    ----------
    rows : Variable
        An i64 that says where the rows lie: how many there will be, nobody knows before.
    nbytes : int
        Of a row.
    status : Variable
        Is set if there is no memory for another row.
    slices : sequence of Slice
        Of the row that a round reads, and of the next one.
    first : sequence of Task
        What fills the first row.
    test, tasks, back : sequence of Task
    condition : Element
    """

    rows: Variable
    nbytes: int
    status: Variable
    slices: Sequence[Slice]
    first: Sequence[Task]
    test: Sequence[Task]
    condition: Element
    tasks: Sequence[Task]
    back: Sequence[Task]

    @property
    def there(self) -> Sequence[Task]:
        """What is done before the way back."""
        return [*self.first, *self.test, *self.tasks]


Task = Call | CallBack | Check | Rounds | Choice | Again | Sweep


def calls_of(tasks: Sequence[Task]) -> Iterator[Call]:
    """All calls, those inside of loops and choices included."""
    for task in tasks:
        match task:
            case Call():
                yield task
            case Rounds():
                yield from calls_of(task.tasks)
            case Choice():
                yield from calls_of([*task.yes, *task.no])
            case Again():
                yield from calls_of([*task.test, *task.tasks])
            case Sweep():
                yield from calls_of([*task.there, *task.back])
            case CallBack() | Check():
                pass


def touched(task: Task) -> Iterator[Variable]:
    """The values in whose memory a task reads or writes."""
    match task:
        case Call():
            yield from task.arguments
        case Rounds():
            yield from (part.whole for part in task.slices)
            yield from chain.from_iterable(map(touched, task.tasks))
        case Choice():
            yield task.condition.root
            yield from chain.from_iterable(map(touched, [*task.yes, *task.no]))
        case Again():
            yield task.condition.root
            yield from chain.from_iterable(map(touched, [*task.test, *task.tasks]))
        case Sweep():
            yield from (task.rows, task.status, task.condition.root)
            yield from chain.from_iterable(map(touched, [*task.there, *task.back]))
        case CallBack() | Check():
            pass
