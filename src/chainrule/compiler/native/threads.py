"""The pool of threads of this process, and how many there are of them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from chainrule.compiler.native.pool_code import MOST, SYMBOLS, text
from chainrule.core.errors import ArgumentError

__all__ = ["MOST", "Pool", "processors", "text", "thread_count"]

# Rounds of looking (about 15 ns each) before the processor is offered to others, few where threads wait for a processor
# themselves. Where other processes want all processors, a wait takes as long as the rounds; with fewer than 2,000, one that is short ends too late.
_SPIN, _SPIN_CROWDED = 2_000, 32


class Pool:
    """The threads of this process. They are created when the first step runs, and again in a forked child.

    Parameters
    ----------
    address : callable
        Of the functions in the pool's module, by name; it must have been loaded to stay.
    threads : int
        How many run a step, the caller's own included.
    """

    def __init__(self, address: Callable[[str], int], threads: int) -> None:
        self.symbols: Mapping[str, int] = {name: address(name) for name in SYMBOLS}
        self._resize = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.c_int32)(address("pool_resize"))
        self._reset = ctypes.CFUNCTYPE(None)(address("pool_reset"))
        self._reset()
        self.resize(threads)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def resize(self, threads: int) -> None:
        """Share the steps that begin from now on by so many threads."""
        self.threads = max(1, min(threads, MOST))
        self._resize(self.threads, _SPIN if self.threads <= processors() else _SPIN_CROWDED)

    @contextmanager
    def using(self, threads: int) -> Generator[None]:
        """Another number of threads for a while."""
        before = self.threads
        self.resize(threads)
        try:
            yield
        finally:
            self.resize(before)


def thread_count(settings: Mapping[str, str] = os.environ) -> int:
    """How many threads a step is shared by: ``CHAINRULE_NUM_THREADS``, or else the processors that this process may run on.

    Raises
    ------
    ArgumentError
        If what is set is not a whole number above 0.
    """
    asked = settings.get("CHAINRULE_NUM_THREADS", "").strip()
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise ArgumentError(f"CHAINRULE_NUM_THREADS is {asked!r}", mend="set it to a whole number above 0, or leave it out")
        return int(asked)
    return processors()


def processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
