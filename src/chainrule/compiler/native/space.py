"""The memory of a call that Python prepares; in debug mode every value lies between canaries.

``CHAINRULE_NATIVE_DEBUG=1``: what a step writes outside of its values is found and named, inputs and constants included. Memory holds
NaN before a step runs, canaries are NaN too, so what is read and was never written shows in the results. Values do not share memory
then, and every call allocates and compares.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np

from chainrule.compiler.memory import ALIGNMENT
from chainrule.core.aval import Aval
from chainrule.core.errors import TraceError
from chainrule.core.variable import Variable

__all__ = ["Fenced", "Space", "debugging", "spread"]

GAP = 4 * ALIGNMENT
"""Bytes of canaries on each side of a value."""

# As float32 and as float64.
_CANARY = np.frombuffer(np.uint32(0xFFFA5A5A).tobytes(), np.uint8)
_NAN = 0xFF


def debugging(settings: Mapping[str, str] = os.environ) -> bool:
    """Whether debug mode is on."""
    return settings.get("CHAINRULE_NATIVE_DEBUG", "") not in ("", "0")


def spread(values: Iterable[Variable]) -> tuple[dict[Variable, int], int]:
    """Places in an arena with gaps around every value; and the size of that arena."""
    places: dict[Variable, int] = {}
    end = GAP
    for x in values:
        places[x] = end
        end += _aligned(x.nbytes) + GAP
    return places, end


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Space:
    """The memory of one call."""

    def given(self, x: Variable, value: np.ndarray) -> np.ndarray:
        """An input or constant as a step reads it."""
        return np.ascontiguousarray(value).reshape(x.shape)

    def made(self, x: Variable, aval: Aval) -> np.ndarray:
        """Where a step writes a result."""
        return np.empty(aval.shape, aval.dtype)

    def arena(self, nbytes: int, places: Mapping[Variable, int]) -> np.ndarray:
        """Bytes in which values of so many bytes lie at these places."""
        memory = np.empty(nbytes + ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % ALIGNMENT
        return memory[first : first + nbytes]

    def check(self) -> None:
        """Nothing to see."""


class Fenced(Space):
    """The memory of one call, with canaries."""

    def __init__(self) -> None:
        self.watched: list[tuple[str, np.ndarray, bytes]] = []

    def given(self, x: Variable, value: np.ndarray) -> np.ndarray:
        made = self.made(x, Aval(x.shape, x.dtype))
        made[...] = np.reshape(value, x.shape)
        self._watch(x, made)
        return made

    def made(self, x: Variable, aval: Aval) -> np.ndarray:
        return np.ndarray(aval.shape, aval.dtype, self.arena(2 * GAP + _aligned(x.nbytes), {x: GAP}), GAP)

    def arena(self, nbytes: int, places: Mapping[Variable, int]) -> np.ndarray:
        memory = super().arena(nbytes, places)
        memory[...] = np.resize(_CANARY, nbytes)
        for x, start in places.items():
            end = start + x.nbytes
            memory[start:end] = _NAN
            self._watch(x, memory[start - GAP : start])
            self._watch(x, memory[end : start + _aligned(x.nbytes) + GAP])
        return memory

    def _watch(self, x: Variable, part: np.ndarray) -> None:
        self.watched.append((x.name, part, part.tobytes()))

    def check(self) -> None:
        """See that all canaries live.

        Raises
        ------
        TraceError
            With the names of the values at whose edges something was written: a mistake of the library.
        """
        hit = dict.fromkeys(name for name, part, before in self.watched if part.tobytes() != before)
        if hit:
            mend = "report it, with the function that was compiled; backend='numpy' runs it meanwhile"
            raise TraceError(f"a compiled step wrote where it must not: around {', '.join(hit)}", mend=mend)
