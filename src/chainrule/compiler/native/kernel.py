"""What the kernels of the native backend have in common: functions of pointers that do a share of equal units of work."""

from __future__ import annotations

from typing import NamedTuple


class Kernel(NamedTuple):
    """A function in a module: ``void name(ptr, ..., i64 first, i64 last)`` does the units ``first`` to ``last - 1`` of its work.

    Units are the same however many threads share them, and no unit writes what another reads or writes: bits do not depend on
    the number of threads. A kernel may be called with ``first == last``, and does nothing then.

    Attributes
    ----------
    name : str
    units : int
    """

    name: str
    units: int
