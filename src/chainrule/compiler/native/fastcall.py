"""A built-in function of Python, written in IR, that calls a step: it reads arrays where CPython and NumPy keep them.

What it is to do stands in a table of words that `entry` fills in; one function serves all steps. It hands on what it does not
expect, and it is not there at all where Python keeps its objects otherwise (`usable`). Nothing here knows what a step computes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from enum import IntEnum, auto
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from chainrule.compiler.native import engine
from chainrule.compiler.native.ir import I1, I8, I32, I64, PTR, VOID, Function, Kind, Module, Value

# Where CPython and NumPy keep what is read here; `usable` checks it.
_TYPE, _DATA, _NDIM, _DIMS, _BASE, _DESCR, _FLAGS, _SCALAR = 8, 16, 24, 32, 48, 56, 64, 16
_READABLE, _WRITEABLE, _OWNER = 0x101, 0x501, 0x4


class Word(IntEnum):
    """The words at the head of a table; what is plural or ends so is an address or a count of records further on."""

    STEP = 0
    DIRECT = auto()
    BUSY = auto()
    LONG = auto()
    FAILED = auto()
    BLOCK = auto()
    STATUS = auto()
    INPUTS = auto()
    INPUT_RECORDS = auto()
    OUTPUTS = auto()
    OUTPUT_RECORDS = auto()
    RESULTS = auto()
    RESULT_RECORDS = auto()
    # Two i32 of the pool's.
    MOOD = auto()
    # References to an array that one Tensor holds, and the type of arrays that others' memory is in.
    HELD = auto()
    MEMORY = auto()
    END = auto()


class Array(IntEnum):
    """The words of an input's or output's record."""

    DTYPE = 0
    AXES = auto()
    # Where its shape stands.
    LENGTHS = auto()
    # The type of scalars that will do.
    SCALAR = auto()
    # Where the arrays stand that an output may be, and how many places there are; 0 for a value without axes, or with a donor.
    RING = auto()
    SLOTS = auto()
    # The number of the input whose memory it takes over, and 1 more; 0 for none.
    DONOR = auto()
    # In the block.
    PLACE = auto()
    # The one that is handed out now.
    CHOSEN = auto()
    # How often in a row it was the first, while there are others; at `IDLE` the others go.
    FIRST = auto()
    END = auto()


IDLE = 2
"""Calls in a row after which arrays that none of them needed are dropped."""


class Result(IntEnum):
    """What a result is; its record is this and an address or, of an input, its number."""

    ARRAY = 0
    VALUE = auto()
    INPUT = auto()
    FIXED = auto()


def address(x: np.ndarray) -> int:
    """Of an array's first byte."""
    # Asking NumPy takes some microseconds.
    return (ctypes.c_void_p.from_address(id(x) + _DATA).value or 0) if usable() else _asked(x)


def _asked(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def _written() -> str:
    """The built-in function ``run``, and how the long way asks for the table."""
    module = Module()
    module.data["PyArray_Type"] = "@PyArray_Type = external global i8"
    for name, (result, arguments) in _API.items():
        module.declare(name, result, arguments)
    module.declare("pool_turn", VOID, [PTR, PTR, PTR])
    _write_claim(module)
    _write_enter(module)
    return module.text()


_API = {
    "PyTuple_New": (PTR, [I64]),
    "PyTuple_SetItem": (I32, [PTR, I64, PTR]),
    "Py_IncRef": (VOID, [PTR]),
    "Py_DecRef": (VOID, [PTR]),
    "PyEval_SaveThread": (PTR, []),
    "PyEval_RestoreThread": (VOID, [PTR]),
    "PyLong_FromLongLong": (PTR, [I64]),
    "PyObject_CallOneArg": (PTR, [PTR, PTR]),
    "PyObject_Vectorcall": (PTR, [PTR, PTR, I64, PTR]),
    "PyArray_Scalar": (PTR, [PTR, PTR, PTR]),
}
_NULL, _ZERO = Value("null", PTR), Value("0", I64)


def _write_claim(module: Module) -> None:
    f = Function(module, "claim", [("table", PTR)], I64)
    (table,) = f.parameters
    pair = f.value(Kind("{ i64, i1 }"), f"cmpxchg {f.at(table, Word.BUSY, I64)}, i64 0, i64 1 acquire monotonic")
    f.close(f.cast("zext", f.value(I1, f"extractvalue {pair}, 1"), I64))


class _Writer:
    """Writes `run`: what is not as it should be leads to the block ``long``."""

    def __init__(self, module: Module) -> None:
        self.f = Function(module, "run", [("self", PTR), ("args", PTR), ("count", I64)], PTR)
        self.table = self.load(self.f.parameters[0], _DATA, PTR)

    def load(self, pointer: Value, offset: int, kind: Kind) -> Value:
        """So many bytes into an object."""
        place = self.f.value(PTR, f"getelementptr i8, {pointer}, i64 {offset}")
        return self.f.load(kind, place)

    def word(self, record: Value, number: int, kind: Kind = I64) -> Value:
        return self.load(record, 8 * number, kind)

    def demand(self, condition: Value, otherwise: str = "long") -> None:
        following = self.f.fresh("good")
        self.f.branch(condition, following, otherwise)
        self.f.label(following)

    def array(self, x: Value, record: Value, flags: int, otherwise: str) -> None:
        """Demand that an array has the record's dtype and shape, and these flags."""
        f = self.f
        self.demand(f.compare("eq", self.load(x, _DESCR, PTR), self.word(record, Array.DTYPE, PTR)), otherwise)
        found = f.binary("and", self.load(x, _FLAGS, I32), Value(str(flags), I32))
        self.demand(f.compare("eq", found, Value(str(flags), I32)), otherwise)
        axes = self.load(x, _NDIM, I32)
        self.demand(f.compare("eq", axes, self.word(record, Array.AXES, I32)), otherwise)
        have, wanted = self.load(x, _DIMS, PTR), self.word(record, Array.LENGTHS, PTR)
        with f.loop(0, f.cast("zext", axes, I64)) as axis:
            same = f.compare("eq", f.load(I64, f.at(have, axis.index, I64)), f.load(I64, f.at(wanted, axis.index, I64)))
            self.demand(same, otherwise)


def _write_enter(module: Module) -> None:
    w = _Writer(module)
    f, table = w.f, w.table
    _, args, count = f.parameters
    busy = f.at(table, Word.BUSY, I64)
    block = w.word(table, Word.BLOCK, PTR)
    w.demand(f.compare("eq", f.load(I64, busy), _ZERO))
    w.demand(f.compare("eq", count, w.word(table, Word.INPUTS)))
    with f.loop(0, count) as number:
        record = f.at(w.word(table, Word.INPUT_RECORDS, PTR), f.mul(number.index, Array.END), I64)
        x = f.load(PTR, f.at(args, number.index, PTR))
        place = f.at(block, number.index, PTR)
        kind = w.load(x, _TYPE, PTR)
        array, other, stored = f.fresh("array"), f.fresh("other"), f.fresh("stored")
        f.branch(f.compare("eq", kind, Value("@PyArray_Type", PTR)), array, other)
        f.label(array)
        w.array(x, record, _READABLE, "long")
        f.store(w.load(x, _DATA, PTR), place)
        f.jump(stored)
        f.label(other)
        w.demand(f.compare("eq", kind, w.word(record, Array.SCALAR, PTR)))
        f.store(f.at(x, _SCALAR, I8), place)
        f.jump(stored)
        f.label(stored)
    with f.loop(0, w.word(table, Word.OUTPUTS)) as number:
        record = f.at(w.word(table, Word.OUTPUT_RECORDS, PTR), f.mul(number.index, Array.END), I64)
        slots = w.word(record, Array.SLOTS)
        with f.when(f.compare("ne", slots, _ZERO)):
            _choose(w, record, slots, block)
        donor = w.word(record, Array.DONOR)
        with f.when(f.compare("ne", donor, _ZERO)):
            _take_over(w, record, f.load(PTR, f.at(args, f.sub(donor, 1), PTR)), block)
    f.store(Value("1", I64), busy)
    _run(w, block)
    status = w.word(table, Word.STATUS, PTR)
    said = f.load(I64, status)
    w.demand(f.compare("eq", said, _ZERO), "wrong")
    made = f.call("PyTuple_New", PTR, w.word(table, Word.RESULTS))
    w.demand(f.compare("ne", made, _NULL), "end")
    _fill(w, made, args, block)
    f.store(_ZERO, busy)
    f.write(f"ret {made}")
    f.label("wrong")
    f.store(_ZERO, status)
    f.store(_ZERO, busy)
    number = f.call("PyLong_FromLongLong", PTR, said)
    w.demand(f.compare("ne", number, _NULL), "end")
    answer = f.call("PyObject_CallOneArg", PTR, w.word(table, Word.FAILED, PTR), number)
    f.call("Py_DecRef", VOID, number)
    f.write(f"ret {answer}")
    f.label("lost")
    f.call("Py_DecRef", VOID, made)
    f.jump("end")
    f.label("end")
    f.store(_ZERO, busy)
    f.write("ret ptr null")
    f.label("long")
    f.close(f.call("PyObject_Vectorcall", PTR, w.word(table, Word.LONG, PTR), args, count, _NULL))


def _choose(w: _Writer, record: Value, slots: Value, block: Value) -> None:
    """Find an output's array that only the ring holds, and that is as it was made."""
    f = w.f
    found = f.fresh("found")
    with f.loop(0, slots) as slot:
        x = f.load(PTR, f.at(w.word(record, Array.RING, PTR), slot.index, PTR))
        w.demand(f.compare("ne", x, _NULL))
        further = f.fresh("further")
        w.demand(f.compare("eq", w.load(x, 0, I32), Value("1", I32)), further)
        w.array(x, record, _WRITEABLE, further)
        counted = f.binary("add", w.word(record, Array.FIRST), Value("1", I64))
        counted = f.select(f.compare("eq", slot.index, _ZERO), counted, _ZERO)
        f.store(counted, f.at(record, Array.FIRST, I64))
        w.demand(f.compare("slt", counted, Value(str(IDLE), I64)))
        _hand_out(w, record, x, block)
        f.jump(found)
        f.label(further)
    f.jump("long")
    f.label(found)


def _take_over(w: _Writer, record: Value, x: Value, block: Value) -> None:
    """Let an output be an input's array, if only one Tensor holds that, and its memory is its own."""
    f = w.f
    w.demand(f.compare("eq", w.load(x, _TYPE, PTR), Value("@PyArray_Type", PTR)))
    w.demand(f.compare("eq", w.load(x, 0, I32), w.word(w.table, Word.HELD, I32)))
    w.array(x, record, _WRITEABLE, "long")
    own, foreign = f.fresh("own"), f.fresh("foreign")
    flag = f.binary("and", w.load(x, _FLAGS, I32), Value(str(_OWNER), I32))
    f.branch(f.compare("ne", flag, Value("0", I32)), own, foreign)
    f.label(foreign)
    base = w.load(x, _BASE, PTR)
    w.demand(f.compare("ne", base, _NULL))
    w.demand(f.compare("eq", w.load(base, _TYPE, PTR), w.word(w.table, Word.MEMORY, PTR)))
    f.jump(own)
    f.label(own)
    _hand_out(w, record, x, block)


def _hand_out(w: _Writer, record: Value, x: Value, block: Value) -> None:
    f = w.f
    f.store(x, f.at(record, Array.CHOSEN, I64))
    f.store(w.load(x, _DATA, PTR), f.at(block, w.word(record, Array.PLACE), PTR))


def _run(w: _Writer, block: Value) -> None:
    """The step, by this thread alone, or by the pool while other Python threads may go on."""
    f = w.f
    step = w.word(w.table, Word.STEP, PTR)
    direct, pooled, done = f.fresh("direct"), f.fresh("pooled"), f.fresh("done")
    f.branch(f.compare("ne", w.word(w.table, Word.DIRECT), _ZERO), direct, pooled)
    f.label(direct)
    f.write(f"call void {step.text}({block}, i64 0, i64 1)")
    f.jump(done)
    f.label(pooled)
    state = f.call("PyEval_SaveThread", PTR)
    f.call("pool_turn", VOID, step, block, f.at(w.table, Word.MOOD, I64))
    f.call("PyEval_RestoreThread", VOID, state)
    f.jump(done)
    f.label(done)


def _fill(w: _Writer, made: Value, args: Value, block: Value) -> None:
    """Put the results into the tuple; it may be this call's last deed, so nothing is handed out twice before."""
    f = w.f
    start = w.word(w.table, Word.RESULT_RECORDS, PTR)
    with f.loop(0, w.word(w.table, Word.RESULTS)) as number:
        entry = f.at(start, f.mul(number.index, 2), I64)
        kind, what = w.word(entry, 0), w.word(entry, 1, PTR)
        value, known, array, given, fixed, ready = (f.fresh(stem) for stem in ("value", "known", "array", "given", "fixed", "ready"))
        cases = f"i64 {Result.VALUE}, label %{value} i64 {Result.ARRAY}, label %{array} i64 {Result.INPUT}, label %{given}"
        f.write(f"switch {kind}, label %{fixed} [ {cases} ]")
        f.label(value)
        data = f.load(PTR, f.at(block, w.word(what, Array.PLACE), PTR))
        scalar = f.call("PyArray_Scalar", PTR, data, w.word(what, Array.DTYPE, PTR), _NULL)
        w.demand(f.compare("ne", scalar, _NULL), "lost")
        of_value = f.block
        f.jump(ready)
        f.label(array)
        chosen = w.word(what, Array.CHOSEN, PTR)
        f.jump(known)
        f.label(given)
        argument = f.load(PTR, f.at(args, f.cast("ptrtoint", what, I64), PTR))
        f.jump(known)
        f.label(fixed)
        f.jump(known)
        f.label(known)
        held = f.value(PTR, f"phi ptr [ {chosen.text}, %{array} ], [ {argument.text}, %{given} ], [ {what.text}, %{fixed} ]")
        f.call("Py_IncRef", VOID, held)
        f.jump(ready)
        f.label(ready)
        result = f.value(PTR, f"phi ptr [ {scalar.text}, %{of_value} ], [ {held.text}, %{known} ]")
        f.call("PyTuple_SetItem", I32, made, number.index, result)


@cache
def _code() -> engine.Code:
    """The built-in function, for every step; it stays."""
    symbols = {name: _place(getattr(ctypes.pythonapi, name)) for name in _API if name.startswith("Py") and not name.startswith("PyArray")}
    symbols |= {"PyArray_Type": id(np.ndarray), "PyArray_Scalar": _numpy_function(60)}
    return engine.load(loops=_written(), symbols=symbols, permanent=True)


def _place(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _numpy_function(number: int) -> int:
    """From the table that NumPy gives to extension modules; its order is fixed."""
    capsule = import_module("numpy._core._multiarray_umath")._ARRAY_API
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
    return ctypes.c_void_p.from_address(pointer(capsule, None) + 8 * number).value or 0


class _Definition(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


def built_in(table: np.ndarray) -> Callable[..., Any]:
    """The function for a table; it keeps the array alive that it is given."""
    kinds = ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p
    make = ctypes.PYFUNCTYPE(*kinds)(("PyCFunction_NewEx", ctypes.pythonapi))
    return make(ctypes.addressof(_method()), table, None)


@cache
def _method() -> _Definition:
    """A PyMethodDef with METH_FASTCALL."""
    made = _Definition(b"run", _code().address("run"), 0x80, None)
    # Functions read it when they die, which may be after this module.
    ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", ctypes.pythonapi))(made)
    return made


@cache
def claim() -> Callable[[int], int]:
    """Whether the caller may use a table's frame; it is one step, as the lock of the interpreter is held."""
    return ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(_code().address("claim"))


@cache
def usable() -> bool:
    """Whether CPython and NumPy keep things where the fast way looks for them."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)() or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False

    def at(x: Any, offset: int, kind: Any) -> Any:
        return kind.from_address(id(x) + offset).value

    for x in (np.zeros((2, 3, 5), np.float32), np.zeros((7, 1), np.int64)[::2], np.zeros((), np.bool_)):
        flags = 0x1 * x.flags.c_contiguous + _OWNER * x.flags.owndata + 0x100 * x.flags.aligned + 0x400 * x.flags.writeable
        words = [at(x, offset, ctypes.c_void_p) for offset in (_TYPE, _DATA, _BASE, _DESCR)]
        if (
            words != [id(np.ndarray), _asked(x), None if x.base is None else id(x.base), id(x.dtype)]
            or at(x, _NDIM, ctypes.c_int32) != x.ndim
            or at(x, _FLAGS, ctypes.c_int32) & (_WRITEABLE | _OWNER) != flags
        ):
            return False
        if x.ndim and (ctypes.c_int64 * x.ndim).from_address(at(x, _DIMS, ctypes.c_void_p))[:] != list(x.shape):
            return False
        before = at(x, 0, ctypes.c_int32)
        more = [x, x]
        if at(x, 0, ctypes.c_int32) != before + len(more):
            return False
    scalars = (np.dtype(code).type(1) for code in "?bBhHiIqQefdFD")
    return all(at(x, _TYPE, ctypes.c_void_p) == id(type(x)) and ctypes.string_at(id(x) + _SCALAR, x.nbytes) == x.tobytes() for x in scalars)
