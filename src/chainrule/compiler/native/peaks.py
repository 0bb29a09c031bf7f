"""What the machine can do at most, measured: fused multiplications in registers, and copying of memory, by all threads of the pool."""

from __future__ import annotations

import ctypes
from functools import cache
from time import perf_counter

import numpy as np

from chainrule.compiler.native import engine
from chainrule.compiler.native.ir import I64, PTR, Function, Module, index, kind_of, literal

__all__ = ["bandwidth", "flops"]

_SUMS = 12
"""That run side by side: more than any processor's latency needs, fewer than there are registers."""
_ROUNDS = 100_000
_BYTES = 1 << 26
"""Of an array that is copied: more than caches hold."""
_TRIES = 5


@cache
def flops(dtype: str) -> float:
    """Floating-point operations a second; a fused multiplication and addition counts as two.

    Parameters
    ----------
    dtype : str
        "float32" or "float64".
    """
    kind = kind_of(np.dtype(dtype))
    kind = kind.wide(engine.host().bits // kind.bits)
    threads = engine.pool().threads
    f = Function(Module(), "peak", [("args", PTR), ("thread", I64), ("threads", I64)])
    with f.loop(0, _ROUNDS, 1, [literal(0.1 * i, kind) for i in range(_SUMS)]) as loop:
        loop.next(*(f.fma(x, literal(0.999, kind), literal(0.001, kind)) for x in loop.carried))
    own = f.at(f.parameters[0], f.mul(f.parameters[1], kind.lanes), kind)
    for x in loop.results:
        f.store(x, own, align=1)
    f.close()
    return 2.0 * kind.lanes * _SUMS * _ROUNDS * threads / _seconds(f, np.zeros(threads * kind.lanes, dtype))


@cache
def bandwidth() -> float:
    """Bytes a second that a copy of large arrays reads and writes."""
    kind = kind_of(np.dtype(np.float32))
    kind = kind.wide(engine.host().bits // kind.bits)
    memory = np.ones(2 * _BYTES // 4, np.float32)
    vectors = _BYTES // kind.nbytes
    f = Function(Module(), "copy", [("args", PTR), ("thread", I64), ("threads", I64)])
    source, thread, threads = f.parameters
    target = f.at(source, _BYTES // 4, kind)
    first, after = (f.div(f.mul(x, vectors), threads) for x in (thread, f.add(thread, 1)))
    with f.loop(first, after) as loop:
        at = f.mul(index(loop.index), kind.lanes)
        f.store(f.load(kind, f.at(source, at, kind), align=4), f.at(target, at, kind), align=4)
    f.close()
    return 2.0 * _BYTES / _seconds(f, memory)


def _seconds(f: Function, memory: np.ndarray) -> float:
    """The shortest run of a step."""
    code = engine.load(f.module.text())
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.pool().symbols["pool_run"])
    best = float("inf")
    for _ in range(_TRIES):
        began = perf_counter()
        run(code.address(f.name), memory.ctypes.data)
        best = min(best, perf_counter() - began)
    return best
