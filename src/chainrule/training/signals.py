"""Ctrl-C and SIGTERM as a request to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """Training stopped on request and left a checkpoint.

    Parameters
    ----------
    what : str
        Where it stopped and how to go on.
    """


class StopRequest:
    """Inside the block SIGINT and SIGTERM only set `requested`; a second Ctrl-C interrupts at once.

    In other threads than the main one, signals cannot be taken over, and nothing is.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.requested = False
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that Python does not know, and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
