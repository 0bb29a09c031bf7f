"""From Python with arrays into a step of machine code, and back with results: the last few nanoseconds of a compiled call.

`enter` gives a built-in function, written in IR, that reads the arrays where CPython and NumPy keep them, runs the step on the
pool and hands out results whose memory nobody else holds any more. What it does not expect (an array that is not contiguous, a
second caller at the same time, results all still in use) it passes on to `_Entry`, which does the same in Python. Nothing here
knows what a step computes.

Nanoseconds for ten arrays of 100 float32 and a step that does nothing, on an AMD EPYC (Zen 4), 2 cores, shared; Python 3.11.7,
NumPy 2.4.6; ``python benchmarks/entry.py``:

================================================  =======
an empty Python function                               69
run, no results, `direct` / with the pool         60 / 88
run, one array, `direct` / with the pool         76 / 106
run, one value without axes, with the pool            122
run, four arrays, with the pool                       122
ctypes, with a block of pointers that is there        460
ctypes, with a block from ``.ctypes.data``         11,500
the long way, one array                            13,400
``np.add(a, b, out=c)``                               408
================================================  =======

The difference between `direct` and the pool (of one thread here) is the release of the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from sys import getrefcount
from types import MappingProxyType
from typing import Any
from weakref import WeakSet

import numpy as np

from chainrule.compiler.backend import Run, held_by_owner, held_by_slot
from chainrule.compiler.memory import ALIGNMENT
from chainrule.compiler.native import engine
from chainrule.compiler.native.fastcall import IDLE, Array, Result, Word, address, built_in, claim, usable
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["enter"]

# Larger results have two candidates, the one in use and the next; with more, what nobody needs would take much memory.
_LARGE, _FEW, _SEVERAL = 1 << 16, 2, 4
_NEVER = -(1 << 62)
"""Calls counted so far where no count shall be reached."""


class _Memory(np.ndarray[Any, Any]):
    """Bytes that an aligned array lies in. Views of the array keep hold of the array, as NumPy passes over bases of its own type only."""


class _Table(np.ndarray[Any, Any]):
    """What the built-in function gets as itself; it keeps the entry alive."""

    long: Any


def enter(
    step: int,
    inputs: Sequence[Aval],
    outputs: Sequence[Aval],
    constants: Sequence[np.ndarray] = (),
    scratch_bytes: int = 0,
    *,
    results: Sequence[int] | None = None,
    donors: Mapping[int, int] = MappingProxyType({}),
    direct: bool = False,
    failed: Callable[[int], Any] | None = None,
    keep: Any = None,
) -> Run:
    """A function ``run(*arrays)`` that calls a step.

    Parameters
    ----------
    step : int
        The address of ``void step(ptr args, i64 thread, i64 threads)``. ``args`` is a block of pointers: inputs, constants,
        outputs, scratch memory, and an i64 that is 0 and that the step may set to say that it failed.
    inputs, outputs : sequence of Aval
        Inputs are contiguous in the step, whatever is given. Outputs overlap nothing; their memory holds anything at first.
    constants : sequence of numpy.ndarray
        Copied, contiguous and aligned.
    scratch_bytes : int
        Memory of the call's own, aligned for any vector; it holds anything at first.
    results : sequence of int, optional
        Which places in the block are returned, in order; by default, all outputs.
    donors : Mapping of int to int
        Per output the input, of the same shape and dtype and no result itself, whose array it is if nothing but one Tensor's slot holds
        that, and the caller passes it right from there: ``run(x._value, state._value)``. A step that fails must not have written to it.
    direct : bool
        The caller's thread alone runs the step, and other Python threads wait meanwhile: for steps that take less time (some 20
        microseconds) than it takes to wake the pool when it sleeps.
    failed : callable, optional
        ``failed(status)`` raises what is wrong if a step sets a status.
    keep : object, optional
        Lives as long as the function: the step's code.

    Returns
    -------
    callable
        Takes one array or NumPy scalar per input, and returns a tuple: new arrays, NumPy scalars for outputs without axes. Results
        stay what they are while anything holds them or a view of them. Several threads may call at once.

    Raises
    ------
    MissingExtraError
        Without llvmlite.
    """
    donors = donors if usable() and held_by_slot() else {}
    entry = _Entry(step, inputs, outputs, constants, scratch_bytes, results, donors, direct, failed or _failed, keep)
    if not usable():
        return entry.long
    table = entry.table.view(_Table)
    table.long = entry.long
    entry.table[Word.LONG] = id(table.long)
    return built_in(table)


@dataclass(eq=False)
class _Entry:
    """The long way into a step, and what both ways share; the fields are the arguments of `enter`."""

    step: int
    inputs: Sequence[Aval]
    outputs: Sequence[Aval]
    constants: Sequence[np.ndarray]
    scratch_bytes: int
    results: Sequence[int] | None
    donors: Mapping[int, int]
    direct: bool
    failed: Callable[[int], Any]
    keep: Any

    def __post_init__(self) -> None:
        self.fixed = [_copy(value) for value in self.constants]
        self.first = len(self.inputs) + len(self.fixed)
        every = range(self.first, self.first + len(self.outputs))
        self.given_back = [self._result(place) for place in (every if self.results is None else self.results)]
        # Whoever comes while another call has the first frame makes one more; frames are used again.
        self.frame, self.spare = self._new_frame(), list[np.ndarray]()
        self.rings: list[list[np.ndarray]] = [[] for _ in self.outputs]
        self.lengths = np.array([*chain.from_iterable(aval.shape for aval in (*self.inputs, *self.outputs)), 0], np.int64)
        self.slots = [0 if k in self.donors else _slots(aval) for k, aval in enumerate(self.outputs)]
        self.pointers = np.zeros(sum(self.slots) + 1, np.int64)
        self.table = self._table()
        self.run: Callable[[int], Any]
        if self.direct:
            alone = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self.step)
            self.run = lambda block: alone(block, 0, 1)
        else:
            pooled = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(engine.pool().symbols["pool_turn"])
            step, mood = self.step, address(self.table) + 8 * Word.MOOD
            self.run = lambda block: pooled(step, block, mood)
        _entries().add(self)

    # The table that the fast way reads.

    def _table(self) -> np.ndarray:
        counts = len(self.inputs), len(self.outputs), len(self.given_back)
        at = int(Word.END)
        table = np.zeros(at + Array.END * sum(counts[:2]) + 2 * counts[2], np.int64)
        start = address(table)
        given, made = at, at + Array.END * counts[0]
        taken = made + Array.END * counts[1]
        table[[Word.STEP, Word.DIRECT]] = self.step, self.direct
        table[[Word.INPUTS, Word.OUTPUTS, Word.RESULTS]] = counts
        table[[Word.INPUT_RECORDS, Word.OUTPUT_RECORDS, Word.RESULT_RECORDS]] = [start + 8 * place for place in (given, made, taken)]
        table[[Word.BLOCK, Word.STATUS]] = address(self.frame), self._status(self.frame)
        table[[Word.FAILED, Word.HELD, Word.MEMORY]] = id(self.failed), held_by_slot(), id(_Memory)
        lengths, pointers = address(self.lengths), address(self.pointers)
        self.records = [table[place : place + Array.END] for place in range(made, taken, Array.END)]
        for i, aval in enumerate((*self.inputs, *self.outputs)):
            record = table[given + Array.END * i : given + Array.END * (i + 1)]
            record[[Array.DTYPE, Array.AXES, Array.LENGTHS]] = id(aval.dtype), aval.ndim, lengths
            record[Array.SCALAR] = 0 if aval.ndim or i >= counts[0] else id(aval.dtype.type)
            lengths += 8 * aval.ndim
            if i >= counts[0]:
                k = i - counts[0]
                record[[Array.RING, Array.SLOTS, Array.PLACE]] = pointers, self.slots[k], self.first + k
                record[[Array.DONOR, Array.FIRST]] = self.donors.get(k, -1) + 1, _NEVER
                pointers += 8 * self.slots[k]
        for i, (kind, value) in enumerate(self.given_back):
            what = value if kind == Result.INPUT else id(value) if kind == Result.FIXED else start + 8 * (made + Array.END * value)
            table[taken + 2 * i : taken + 2 * i + 2] = kind, what
        return table

    def _result(self, place: int) -> tuple[Result, Any]:
        if place < len(self.inputs):
            return Result.INPUT, place
        if place < self.first:
            return Result.FIXED, self.fixed[place - len(self.inputs)][()]
        number = place - self.first
        return (Result.ARRAY if self.outputs[number].ndim else Result.VALUE), number

    # A call's own memory: the block, the values without axes, the status, the scratch memory.

    @property
    def size(self) -> int:
        """Of the block."""
        return self.first + len(self.outputs) + 2

    def _new_frame(self) -> np.ndarray:
        values = -(-8 * self.size // ALIGNMENT) * ALIGNMENT
        scratch = values + ALIGNMENT * (sum(not aval.ndim for aval in self.outputs) + 1)
        frame = _aligned(Aval((scratch + self.scratch_bytes,), np.dtype(np.uint8)))
        start = address(frame)
        block = self._block(frame)
        block[len(self.inputs) : self.first] = [address(value) for value in self.fixed]
        free = start + values
        for k, aval in enumerate(self.outputs):
            if not aval.ndim:
                block[self.first + k] = free
                free += ALIGNMENT
        block[-2:] = start + scratch, free
        frame[values:scratch] = 0
        return frame

    def _status(self, frame: np.ndarray) -> int:
        return int(self._block(frame)[-1])

    def _block(self, frame: np.ndarray) -> np.ndarray:
        return frame[: 8 * self.size].view(np.int64)

    # The long way.

    def long(self, *arrays: Any) -> tuple[Any, ...]:
        """As the function that `enter` gives."""
        given = self._check(arrays)
        first = claim()(address(self.table)) != 0
        frame = self.frame
        try:
            if not first:
                frame = self._spare_frame()
            made = {k: self._take(k) if first and self.slots[k] else _aligned(aval) for k, aval in enumerate(self.outputs) if aval.ndim}
            block = self._block(frame)
            block[: len(given)] = [address(x) for x in given]
            for k, x in made.items():
                block[self.first + k] = address(x)
            self.run(address(block))
            status = ctypes.c_int64.from_address(self._status(frame))
            if status.value:
                said, status.value = status.value, 0
                return self.failed(said)
            values = {k: self._value(k, int(block[self.first + k])) for k, aval in enumerate(self.outputs) if not aval.ndim}
            words = {Result.ARRAY: made, Result.VALUE: values, Result.INPUT: arrays}
            return tuple(value if kind == Result.FIXED else words[kind][value] for kind, value in self.given_back)
        finally:
            if first:
                self.table[Word.BUSY] = 0
            else:
                self.spare.append(frame)

    def let_go(self) -> None:
        """Nobody is in the step."""
        self.table[Word.BUSY] = ctypes.c_int64.from_address(self._status(self.frame)).value = 0

    def _spare_frame(self) -> np.ndarray:
        try:
            return self.spare.pop()
        except IndexError:
            return self._new_frame()

    def _value(self, k: int, address: int) -> Any:
        dtype = self.outputs[k].dtype
        return np.frombuffer(ctypes.string_at(address, dtype.itemsize), dtype)[0]

    def _check(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """The inputs as the step wants them."""
        if len(arrays) != len(self.inputs):
            raise ShapeError(f"a compiled step of {len(self.inputs)} arrays got {len(arrays)}", mend="give one array per input")
        return [_fit(x, aval, i) for i, (x, aval) in enumerate(zip(arrays, self.inputs, strict=True))]

    def _take(self, k: int) -> np.ndarray:
        """An output's array that nobody else holds; a new one takes the place of the one that was made first."""
        aval, ring = self.outputs[k], self.rings[k]
        for x in ring:
            if getrefcount(x) <= _unheld() and x.shape == aval.shape and x.dtype is aval.dtype and x.flags.writeable:
                # The fast way stops at the first output that reaches the count; the others are one short of it.
                if self.records[k][Array.FIRST] >= IDLE - 1:
                    self._keep(k, [x])
                return x
        made = _aligned(aval)
        self._keep(k, [*ring[len(ring) == self.slots[k] :], made])
        return made

    def _keep(self, k: int, arrays: list[np.ndarray]) -> None:
        """Let these be the arrays of an output."""
        # What is dropped must be out of the table before.
        before, self.rings[k] = self.rings[k], arrays
        start, slots = sum(self.slots[:k]), self.slots[k]
        self.pointers[start : start + slots] = [*map(id, arrays), *[0] * (slots - len(arrays))]
        self.records[k][Array.FIRST] = 0 if len(arrays) > 1 and slots == _FEW else _NEVER
        del before


@cache
def _entries() -> WeakSet[_Entry]:
    """All that live. A forked child has none of the threads that may have been in their steps."""
    entries = WeakSet[_Entry]()

    def let_go() -> None:
        for entry in entries:
            entry.let_go()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=let_go)
    return entries


def _slots(aval: Aval) -> int:
    """How many arrays are kept for an output."""
    return 0 if not aval.ndim else _FEW if aval.size * aval.dtype.itemsize > _LARGE else _SEVERAL


def _failed(status: int) -> Any:
    raise ArgumentError(f"a compiled step failed with status {status}", mend="run it uncompiled to see where")


@cache
def _unheld() -> int:
    """References to an array of a ring that nobody holds, as `_Entry._take` counts them; 0 where nobody can tell."""
    counts = [getrefcount(x) for x in [np.empty(1)]]
    return counts[0] if held_by_owner(1) else 0


def _aligned(aval: Aval) -> np.ndarray:
    """A new array whose memory begins where vectors like it."""
    memory = _Memory((aval.size * aval.dtype.itemsize + ALIGNMENT,), np.uint8)
    return np.ndarray(aval.shape, aval.dtype, memory, -address(memory) % ALIGNMENT)


def _copy(value: np.ndarray) -> np.ndarray:
    made = _aligned(Aval(value.shape, value.dtype))
    made[...] = value
    made.flags.writeable = False
    return made


def _fit(x: Any, aval: Aval, number: int) -> np.ndarray:
    """An input as the step wants it: aligned, contiguous, with the machine's byte order."""
    if x.__class__ is np.ndarray and x.dtype is aval.dtype and x.shape == aval.shape and x.flags.c_contiguous and x.flags.aligned:
        return x
    given = np.asarray(x)
    if given.shape != aval.shape:
        raise ShapeError(f"input {number} of a compiled step is {aval}, and got shape {given.shape}", mend="compile the function for this shape")
    if not np.can_cast(given.dtype, aval.dtype, "equiv"):
        raise DtypeError(f"input {number} of a compiled step is {aval}, and got {given.dtype}", mend="convert it with astype")
    return np.require(given, aval.dtype, ["C", "A"])
