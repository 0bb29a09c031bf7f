"""What the kernels of the native backend have in common: functions of pointers that do a share of equal units of work."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from chainrule.core.variable import Variable


class Kernel(NamedTuple):
    """A function in a module: ``void name(ptr, ..., i64 first, i64 last)`` does the units ``first`` to ``last - 1`` of its work.

    Units are the same however many threads share them, and no unit writes what another reads or writes: bits do not depend on
    the number of threads. A kernel may be called with ``first == last``, and does nothing then.

    Attributes
    ----------
    name : str
    units : int
    together : int
        So many units at once are quicker than one after the other.
    """

    name: str
    units: int
    together: int = 1


class Call(NamedTuple):
    """A kernel, and the values that its pointers point to.

    Attributes
    ----------
    kernel : Kernel
    arguments : tuple of Variable
        In whose memory each pointer points.
    writes : tuple of Variable
        Those of the arguments that it changes.
    offsets : tuple of int
        How many bytes behind the beginning each pointer points; nowhere else if there are none.
    meeting : frozenset of (Variable, Variable)
        Pairs of what is read and what is written that may be one and the same memory: of the first nothing is read but the elements at the
        places that the second is written at next.
    """

    kernel: Kernel
    arguments: tuple[Variable, ...]
    writes: tuple[Variable, ...]
    offsets: tuple[int, ...] = ()
    meeting: frozenset[tuple[Variable, Variable]] = frozenset()


def meeting(read: Iterable[tuple[Variable, Hashable]], written: Iterable[tuple[Variable, Hashable]]) -> frozenset[tuple[Variable, Variable]]:
    """The pairs of what is read and what is written at the same places alone; given are values with a place for each access."""
    before, after = (_places(accesses) for accesses in (read, written))
    return frozenset((x, y) for x, a in before.items() for y, b in after.items() if len(a) == 1 and a == b)


def _places(accesses: Iterable[tuple[Variable, Hashable]]) -> dict[Variable, set[Hashable]]:
    found: dict[Variable, set[Hashable]] = {}
    for x, place in accesses:
        found.setdefault(x, set()).add(place)
    return found
