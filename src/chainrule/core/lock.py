"""Locks that a forked process has anew: none of its parent's other threads is there, and what one of them held would stay shut."""

from __future__ import annotations

import os
from functools import cache
from threading import RLock
from weakref import WeakSet

__all__ = ["Lock"]


class Lock:
    """For ``with lock.here:``, which a thread may enter again.

    Attributes
    ----------
    here : RLock
        That of this process.
    """

    __slots__ = ("__weakref__", "here")

    def __init__(self) -> None:
        self.here = RLock()
        _locks().add(self)


@cache
def _locks() -> WeakSet[Lock]:
    """All that live."""
    locks = WeakSet[Lock]()

    def renew() -> None:
        for lock in locks:
            lock.here = RLock()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return locks
