"""Nanoseconds for a call from Python into a step of machine code that does nothing, by the ways that there are.

``python benchmarks/entry.py`` prints the table; every figure is the least of many rounds, which the ways take in turns.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from timeit import Timer
from typing import Any

import numpy as np

from chainrule.compiler.native import engine
from chainrule.compiler.native.entry import enter
from chainrule.core.aval import Aval

STEP = "define void @nothing(ptr %args, i64 %thread, i64 %threads) nounwind {\n  ret void\n}\n"
ROUNDS, CALLS = 25, 4000
ARRAY, NUMBER = Aval((100,), np.dtype(np.float32)), Aval((), np.dtype(np.float32))


def ways(arrays: list[np.ndarray]) -> dict[str, Callable[..., Any]]:
    """Functions of ten arrays."""
    code = engine.load(STEP)
    step, inputs = code.address("nothing"), [ARRAY] * len(arrays)
    pooled = enter(step, inputs, [ARRAY], keep=code)
    # What a call through ctypes has to do besides: the block is there already, and nothing is checked or returned.
    block = (ctypes.c_void_p * (len(arrays) + 1))(*(x.ctypes.data for x in arrays))
    place, bare = ctypes.addressof(block), ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(step)

    def filled(*given: np.ndarray) -> None:
        for i, x in enumerate(given):
            block[i] = x.ctypes.data
        bare(place, 0, 1)

    return {
        "an empty Python function": lambda *_: None,
        "step without the pool, no results": enter(step, inputs, [], direct=True, keep=code),
        "step without the pool, 1 array": enter(step, inputs, [ARRAY], direct=True, keep=code),
        "pool of 1 thread, no results": enter(step, inputs, [], keep=code),
        "pool of 1 thread, 1 array": pooled,
        "pool of 1 thread, 1 value without axes": enter(step, inputs, [NUMBER], keep=code),
        "pool of 1 thread, 4 arrays": enter(step, inputs, [ARRAY] * 4, keep=code),
        "the same checks in Python, 1 array": pooled.__self__.long,
        "ctypes, a block that is there already": lambda *_: bare(place, 0, 1),
        "ctypes, a block from .ctypes.data": filled,
        "np.add of two of them": lambda *given: np.add(given[0], given[1], out=given[2]),
    }


def main() -> None:
    arrays = [np.zeros(ARRAY.shape, np.float32) for _ in range(10)]
    with engine.pool().using(1):
        timers = {
            name: Timer("call(a, b, c, d, e, f, g, h, i, j)", globals={"call": call, **dict(zip("abcdefghij", arrays, strict=True))})
            for name, call in ways(arrays).items()
        }
        best = dict.fromkeys(timers, float("inf"))
        for _ in range(ROUNDS):
            for name, timer in timers.items():
                best[name] = min(best[name], timer.timeit(CALLS) / CALLS)
    print(f"{platform.processor() or platform.machine()}, {engine.host().cpu}, Python {platform.python_version()}, NumPy {np.__version__}")
    for name, seconds in best.items():
        print(f"{name:42} {seconds * 1e9:8.0f} ns")


if __name__ == "__main__":
    main()
