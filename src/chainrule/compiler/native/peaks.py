"""What the machine can do at most, measured: multiplications with additions in registers, and copying of memory, by all threads of the pool.

Every thread is timed by itself: where other processes want the processors, hardly ever are all of them undisturbed at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from time import perf_counter

import numpy as np

from chainrule.compiler.native import engine
from chainrule.compiler.native.clock import write_now
from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Kind, Module, Value, kind_of, literal
from chainrule.core.aval import Dtype

__all__ = ["bandwidth", "flops"]

_SUMS = 12
"""That run side by side: more than any processor's latency needs, fewer than there are registers."""
_ROUNDS = 20_000
_BYTES = 1 << 26
"""Of an array that is copied: more than caches hold."""
_LEAST, _MOST = 10, 0.2
"""Tries, and the seconds after which there are no more of them."""


@cache
def flops(dtype: str) -> float:
    """Floating-point operations a second; a fused multiplication and addition counts as two.

    Parameters
    ----------
    dtype : str
        "float32" or "float64".
    """
    kind = _widest(np.dtype(dtype))
    threads = engine.pool().threads

    def write(f: Function, memory: Value, thread: Value, threads: Value) -> None:
        with f.loop(0, _ROUNDS, 1, [literal(0.1 * i, kind) for i in range(_SUMS)]) as loop:
            loop.next(*(f.intrinsic("fmuladd", x, literal(0.999, kind), literal(0.001, kind)) for x in loop.carried))
        for x in loop.results:
            f.store(x, f.at(memory, f.mul(thread, kind.lanes), kind), align=1)

    return _most(write, np.zeros(threads * kind.lanes, dtype), 2 * kind.lanes * _SUMS * _ROUNDS * threads)


@cache
def bandwidth() -> float:
    """Bytes a second that a copy of large arrays reads and writes."""
    kind = _widest(np.dtype(np.float32))

    def write(f: Function, memory: Value, thread: Value, threads: Value) -> None:
        count = _BYTES // kind.nbytes
        target = f.at(memory, count * kind.lanes, kind)
        first, after = (f.div(f.mul(x, count), threads) for x in (thread, f.add(thread, 1)))
        with f.loop(first, after) as loop:
            at = f.mul(loop.index, kind.lanes)
            f.store(f.load(kind, f.at(memory, at, kind), align=4), f.at(target, at, kind), align=4)

    return _most(write, np.ones(2 * _BYTES // 4, np.float32), 2 * _BYTES)


def _widest(dtype: Dtype) -> Kind:
    kind = kind_of(dtype)
    return kind.wide(engine.host().bits // kind.bits)


def _most(write: Callable[[Function, Value, Value, Value], None], memory: np.ndarray, work: int) -> float:
    """How much of the work is done in a second, where all threads do as much; the most of many tries."""
    f = Function(Module(), "step", [("args", PTR), ("thread", I64), ("threads", I64)])
    args, thread, threads = f.parameters
    f.module.declare("pool_barrier", VOID, [I64, I64])
    f.call("pool_barrier", VOID, thread, threads)
    begin = write_now(f)
    write(f, f.load(PTR, args), thread, threads)
    f.store(f.binary("sub", write_now(f), begin), f.at(f.load(PTR, f.at(args, 1, PTR)), thread, I64))
    f.close()
    pool = engine.pool()
    code = engine.load(f.module.text())
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(pool.symbols["pool_run"])
    times = np.zeros(pool.threads, np.int64)
    block = (ctypes.c_void_p * 2)(memory.ctypes.data, times.ctypes.data)
    most, tries, end = 0.0, 0, perf_counter() + _MOST
    while tries < _LEAST or perf_counter() < end:
        tries += 1
        times[:] = 0
        run(code.address(f.name), block)
        # Where the pool is at work for somebody else, this thread ran alone and did its own share of a step of one.
        did = times[times > 0]
        most = max(most, float((work / len(did) / (1e-9 * did)).sum()))
    return most
