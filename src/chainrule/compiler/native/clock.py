"""A clock that Python and machine code both read, in nanoseconds: one counter of the system, so that each one's times lie between the other's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from chainrule.compiler.native.ir import I32, I64, PTR, Function, Kind, Value, index, literal

__all__ = ["Clock", "clock_of", "now", "write_now"]

_SECOND = 1_000_000_000


class Clock(NamedTuple):
    """What Python calls for the time, and what writes code for it."""

    now: Callable[[], int]
    write: Callable[[Function], Value]


def clock_of(system: str = sys.platform) -> Clock:
    """On Windows the performance counter, which Python counts in as well; the monotonic clock of Unix elsewhere."""
    return Clock(time.perf_counter_ns, _performance) if system == "win32" else Clock(_now, _monotonic)


def now() -> int:
    """The time."""
    return clock_of().now()


def write_now(f: Function) -> Value:
    """What `now` gives."""
    return clock_of().write(f)


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def _monotonic(f: Function) -> Value:
    f.module.declare("clock_gettime", I32, [I32, PTR])
    pair = f.allocate(Kind("[2 x i64]"))
    f.call("clock_gettime", I32, literal(time.CLOCK_MONOTONIC, I32), pair)
    return index(f.add(f.mul(f.load(I64, pair), _SECOND), f.load(I64, f.at(pair, 1, I64))))


def _performance(f: Function) -> Value:
    f.module.declare("QueryPerformanceCounter", I32, [PTR])
    count = f.allocate(I64)
    f.call("QueryPerformanceCounter", I32, count)
    ticks = f.load(I64, count)
    frequency = round(1.0 / time.get_clock_info("perf_counter").resolution)
    # As Python does: no product of all ticks with nanoseconds, which would soon be too large.
    whole, rest = f.div(ticks, frequency), f.rem(ticks, frequency)
    return index(f.add(f.mul(whole, _SECOND), f.div(f.mul(rest, _SECOND), frequency)))
