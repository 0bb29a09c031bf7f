"""Callbacks: what is told how a run goes, and may ask it to stop or to be saved.

A callback whose next decision depends on what it saw before gives that as its state; it is part of every checkpoint, so a
resumed run decides as the run that was never stopped. Nothing here computes a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chainrule.core.errors import ArgumentError
from chainrule.training.run import Record

if TYPE_CHECKING:
    from chainrule.training.trainer import Trainer

_MODES = ("auto", "min", "max")
_TO_MAXIMISE = ("accuracy", "precision", "recall", "f1", "auc", "r2")


class Callback:
    """What is told how a run goes; every method may be left out.

    Within an epoch `step` of all callbacks is called before a checkpoint may be written, and so is `epoch` at its end: what
    they keep in their state is as old as the weights beside it.

    Examples
    --------
    >>> import chainrule as cr
    >>> class Losses(cr.training.Callback):
    ...     def epoch(self, trainer, record):
    ...         print(record["epoch"], record["loss"] < 2)
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> _ = cr.training.fit(model, cr.data.digits("train"), lr=0.01, epochs=2, progress=False, callbacks=[Losses()])
    1 True
    2 True
    """

    def begin(self, trainer: Trainer) -> None:
        """Before the first step; of a resumed run, after the state was loaded."""

    def step(self, trainer: Trainer) -> None:
        """After every step."""

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """After every epoch, with its line of the metrics."""

    def end(self, trainer: Trainer) -> None:
        """When training is over, however it ended: ``trainer.done`` says whether there is nothing left to do."""

    def state_dict(self) -> dict[str, Any]:
        """What later decisions depend on: arrays, tensors and data that JSON can hold, nested in dicts and lists."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""


class Monitor:
    """The best value so far of one measurement of the epochs.

    Parameters
    ----------
    name : str
        A name in the epochs' records, such as "validation_loss".
    mode : {"auto", "min", "max"}
        Whether less or more is better; "auto" goes by the name.
    min_delta : float
        What a value must be better by than the best one.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in _MODES:
            raise ArgumentError(f"mode={mode!r}", mend=f"choose one of {', '.join(_MODES)}")
        if not 0 <= min_delta < math.inf:
            raise ArgumentError(f"min_delta={min_delta}", mend="it must be a finite number, at least 0")
        self.name = name
        self.sign = -1.0 if mode == "max" or (mode == "auto" and name.endswith(_TO_MAXIMISE)) else 1.0
        self.min_delta = min_delta
        self.best: float | None = None

    def better(self, record: Record) -> bool:
        """Whether an epoch is the best so far, which it is from then on; a value that is not a number never is."""
        if self.name not in record:
            names = [name for name, value in record.items() if isinstance(value, float)]
            lacking = self.name.startswith("validation_") and "validation_loss" not in record
            mend = "pass validation data" if lacking else f"choose one of {', '.join(names)}"
            raise ArgumentError(f"no measurement {self.name!r} is made after an epoch", mend=mend)
        value = record[self.name]
        if value is None or math.isnan(value):
            return False
        if self.best is not None and self.sign * value >= self.sign * self.best - self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(Callback):
    """Ends training when a measurement has not become better for some epochs.

    Parameters
    ----------
    monitor : str
    patience : int
        After so many epochs in a row without a better value training ends.
    min_delta : float
        Less than this is no improvement.
    mode : {"auto", "min", "max"}
        "auto" takes more for better if the name ends with accuracy, precision, recall, f1, auc or r2.
    restore_best : bool
        At the end the model gets the weights of the best epoch. The checkpoint keeps the last ones, so that the run can go on.

    Attributes
    ----------
    best : float or None
    best_epoch : int

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> stopping = cr.training.EarlyStopping("accuracy", patience=1, min_delta=0.05)
    >>> history = cr.training.fit(model, cr.data.digits("train"), lr=0.01, epochs=50, progress=False, callbacks=[stopping])
    >>> len(history.epochs) < 50, history.stopped
    (True, 'accuracy has not become better since epoch 2')
    """

    def __init__(
        self, monitor: str = "validation_loss", *, patience: int = 5, min_delta: float = 0.0, mode: str = "auto", restore_best: bool = False
    ) -> None:
        if patience < 1:
            raise ArgumentError(f"EarlyStopping: patience={patience}", mend="it must be at least 1")
        self._options = (monitor, mode, min_delta)
        self.patience = patience
        self.restore_best = restore_best
        self._reset()

    def _reset(self) -> None:
        self._monitor = Monitor(*self._options)
        self.best_epoch = self._waited = 0
        self._weights: dict[str, Any] = {}

    @property
    def best(self) -> float | None:
        """The best value so far."""
        return self._monitor.best

    def begin(self, trainer: Trainer) -> None:
        if not trainer.position.step:
            self._reset()
        self._decide(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        if self._monitor.better(record):
            self.best_epoch, self._waited = record["epoch"], 0
            self._weights = trainer.model.state_dict() if self.restore_best else {}
        else:
            self._waited += 1
        self._decide(trainer)

    def _decide(self, trainer: Trainer) -> None:
        if self._waited >= self.patience:
            trainer.stop(f"{self._monitor.name} has not become better since epoch {self.best_epoch}")

    def end(self, trainer: Trainer) -> None:
        if trainer.done and self._weights:
            trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self._waited, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._monitor.best = state["best"]
        self.best_epoch, self._waited, self._weights = int(state["best_epoch"]), int(state["waited"]), dict(state["weights"])


class Checkpoint(Callback):
    """Writes checkpoints within epochs too, and keeps the best epoch's weights; for runs with a run folder.

    After every epoch a checkpoint is written anyway.

    Parameters
    ----------
    every_steps : int, optional
        Steps between checkpoints.
    every_minutes : float, optional
        Minutes between checkpoints.
    best : str, optional
        The measurement by which ``best.safetensors`` is kept, such as "validation_loss".
    mode : {"auto", "min", "max"}
        As for `EarlyStopping`.

    Examples
    --------
    >>> import tempfile
    >>> import chainrule as cr
    >>> model, data = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)]), cr.data.digits("train")
    >>> keep = cr.training.Checkpoint(every_minutes=10, best="accuracy")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = cr.training.fit(model, data, epochs=2, run_dir=folder, progress=False, callbacks=[keep])
    ...     weights, about = cr.training.RunFolder.open(folder).read_best()
    >>> about["epoch"], sorted(weights)
    (2, ['layers.1.bias', 'layers.1.kernel'])
    """

    def __init__(self, *, every_steps: int | None = None, every_minutes: float | None = None, best: str | None = None, mode: str = "auto") -> None:
        for name, value in (("every_steps", every_steps), ("every_minutes", every_minutes)):
            if value is not None and not value > 0:
                raise ArgumentError(f"Checkpoint: {name}={value}", mend="it must be more than 0")
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._options = None if best is None else (best, mode)
        self._reset()

    def _reset(self) -> None:
        self._monitor = None if self._options is None else Monitor(*self._options)
        self._last = time.monotonic()

    def begin(self, trainer: Trainer) -> None:
        if trainer.folder is None:
            raise ArgumentError("Checkpoint: the run has no folder to write to", mend="pass run_dir=...")
        if not trainer.position.step:
            self._reset()

    def step(self, trainer: Trainer) -> None:
        minutes = (time.monotonic() - self._last) / 60
        counted = self.every_steps is not None and trainer.position.step % self.every_steps == 0
        if counted or (self.every_minutes is not None and minutes >= self.every_minutes):
            trainer.ask_to_save()
            self._last = time.monotonic()

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self._last = time.monotonic()
        # Before the checkpoint that knows of it: a run killed in between writes the same once more.
        if self._monitor is not None and self._monitor.better(record) and trainer.folder is not None:
            trainer.check_finite()
            trainer.folder.write_best(trainer.model.state_dict(), {"epoch": record["epoch"], self._monitor.name: self._monitor.best})

    def state_dict(self) -> dict[str, Any]:
        return {} if self._monitor is None else {"best": self._monitor.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._monitor is not None:
            self._monitor.best = state["best"]
