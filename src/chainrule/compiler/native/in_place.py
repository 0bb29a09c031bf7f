"""Results in the memory of inputs: a parameter's new value where its old one lay.

A step that cannot go on must leave its inputs as they were, so what may fail comes before everything that writes to them, and is checked there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainrule.compiler.native.kernel import Call
from chainrule.compiler.native.tasks import CallBack, Check, Task, touched
from chainrule.core.variable import Variable

__all__ = ["in_place"]


def in_place(tasks: Sequence[Task], donors: Mapping[Variable, Variable], status: Variable) -> tuple[Sequence[Task], dict[Variable, Variable]]:
    """Which results may lie in the memory of inputs that are not needed any more, and the tasks with a check before the first that does.

    Parameters
    ----------
    tasks : sequence of Task
    donors : Mapping of Variable to Variable
        Per result an input of the same shape and dtype that is no result itself.
    status : Variable
        What a task touches that may fail.

    Returns
    -------
    tasks : sequence of Task
    donors : dict of Variable to Variable
        Those that hold, none of them twice.
    """
    if any(isinstance(task, CallBack) for task in tasks):
        return tasks, {}
    first: dict[Variable, int] = {}
    last: dict[Variable, int] = {}
    for place, task in enumerate(tasks):
        for x in touched(task):
            first.setdefault(x, place)
            last[x] = place
    failing = last.get(status, -1)
    found: dict[Variable, Variable] = {}
    for out, given in donors.items():
        begin, end = first.get(out, -1), last.get(given, -1)
        if given not in found.values() and failing < begin and (end < begin or (end == begin and _meet(tasks[begin], given, out))):
            found[out] = given
    if not found or failing < 0:
        return tasks, found
    place = min(first[out] for out in found)
    return [*tasks[:place], Check(), *tasks[place:]], found


def _meet(task: Task, given: Variable, out: Variable) -> bool:
    return isinstance(task, Call) and (given, out) in task.meeting
