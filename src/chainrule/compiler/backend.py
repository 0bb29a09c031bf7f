"""What every backend gives back, and what backends that run in Python share: who owns an array, arenas, silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from sys import getrefcount
from typing import Any

import numpy as np

from chainrule.compiler.memory import ALIGNMENT
from chainrule.core.aval import Dtype, Shape
from chainrule.graph.ir import Graph

__all__ = ["Executable", "Run", "arena_of", "getrefcount", "heard", "held_by_owner", "held_by_slot", "unheard"]

# Arrays and NumPy scalars.
Run = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Executable:
    """A compiled graph.

    Attributes
    ----------
    run : callable
        ``run(*arrays)``: one per input of the graph, positional, values without axes as NumPy scalars; a tuple with one per
        output. Results are new memory, views of it, fixed values, or inputs; no later call changes them. Several
        threads may call it at once.
    text : callable
        ``text()`` is what runs.
    graph : Graph
        What came out of the passes, which is what runs.
    stats : Mapping
        "backend", which; "passes": per pass its milliseconds and the nodes before and after; "arena_bytes", kept for inner values;
        "unplanned_bytes", what they would take if each had memory of its own; "called_back": how often a call runs
        which gates that have no printed form.
    """

    run: Run
    text: Callable[[], str]
    graph: Graph
    stats: Mapping[str, Any]

    def source(self) -> str:
        """Exactly what runs."""
        return self.text()


class _Slot:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@cache
def held_by_owner(arguments: int) -> int:
    """References to an array that is passed from a Tensor's slot, and is nobody else's, as the function that gets it counts them.

    ``run(state._value, ...)``: the slot holds one, the function's argument one, and counting may itself hold one; where there are
    many arguments, Python passes them in a tuple, which holds another. An array that anything else holds (another Tensor, a
    tape, a view, a list) has more. Whoever begins to read it after the count was taken, in another thread, is not seen: what a step
    updates belongs to one thread at a time. Without reference counts (free-threaded Python) nobody can tell: 0.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return 0
    names = ", ".join(f"x{i}" for i in range(arguments))
    given = ", ".join(["slot.value", *["None"] * (arguments - 1)])
    space: dict[str, Any] = {"getrefcount": getrefcount}
    exec(f"def count({names}): return getrefcount(x0)\ndef call(slot): return count({given})", space)  # noqa: S102, of text made here alone
    return space["call"](_Slot(np.empty(1)))


@cache
def held_by_slot() -> int:
    """The same as a built-in function of several arguments counts them."""
    slot = _Slot(np.empty(1))
    return getrefcount(slot.value) if held_by_owner(1) else 0


def arena_of(nbytes: int, parts: Sequence[tuple[int, Shape, Dtype]]) -> Callable[[], tuple[Any, ...]]:
    """Makes an arena: arrays at these offsets, of these shapes and dtypes, in one piece of memory."""

    def make() -> tuple[Any, ...]:
        memory = np.empty(nbytes + ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % ALIGNMENT
        return tuple(np.ndarray(shape, dtype, memory, first + offset) for offset, shape, dtype in parts)

    return make


def _silence() -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Switch NumPy's floating-point warnings off, and back to what they were.

    `numpy.errstate` takes longer than many a compiled step. What it sets is a context variable, which NumPy keeps to
    itself; where it cannot be found, `numpy.seterr` does the same.
    """
    internals = import_module("numpy._core.umath")
    variable, make = getattr(internals, "_extobj_contextvar", None), getattr(internals, "_make_extobj", None)
    if variable is None or make is None:
        return lambda: np.seterr(all="ignore"), lambda before: np.seterr(**before)
    return partial(variable.set, make(all="ignore")), variable.reset


unheard, heard = _silence()
