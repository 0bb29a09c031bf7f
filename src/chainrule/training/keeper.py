"""Keeper: keeps a run while it goes on: its time, its folder if it has one, and requests to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from chainrule.training.signals import Interrupted, StopRequest

if TYPE_CHECKING:
    from chainrule.training.trainer import Trainer


class Keeper:
    """Inside the block Ctrl-C and SIGTERM wait for `stop_if_asked`, if the run has a folder to be saved to."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._request = StopRequest()
        self._last = time.perf_counter()
        self._due = False

    def __enter__(self) -> None:
        # Without a folder there is nothing to save, and a signal does what it always does.
        if self._trainer.folder is not None:
            self._request.__enter__()
        self._last = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._request.__exit__(*exc)

    def tick(self) -> None:
        """Count the time since the last tick."""
        now = time.perf_counter()
        self._trainer.position.seconds += now - self._last
        self._last = now

    def ask_to_save(self) -> None:
        """Let the next `save_if_due` save."""
        self._due = True

    def save_if_due(self) -> None:
        if self._due:
            self.save()

    def save(self) -> None:
        self._due = False
        if self._trainer.folder is not None:
            self._trainer.save(self._trainer.folder)

    def stop_if_asked(self) -> None:
        """Save and stop, if a signal asked for it.

        Raises
        ------
        Interrupted
        """
        if not self._request.requested:
            return
        self.save()
        trainer = self._trainer
        path = None if trainer.folder is None else trainer.folder.path
        raise Interrupted(f"stopped after {trainer.where}; resume=True goes on from the checkpoint in {path}")
