"""How training goes, for people: a live bar in a terminal, plain lines elsewhere. The only file that knows rich."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from chainrule.training.callbacks import Callback
from chainrule.training.run import Record

if TYPE_CHECKING:
    from chainrule.training.trainer import Trainer

_EVERY = 15.0
_HIDDEN = ("kind", "epoch", "step", "lr", "seconds")


def as_words(name: str, value: float, held_out: str) -> str:
    """A measurement such as ``test accuracy 98.31%``."""
    words = name.replace("validation_", f"{held_out} ").replace("_", " ")
    if name.endswith("accuracy"):
        return f"{words} {value:.2%}"
    return f"{words} {value:.4f}" if abs(value) < 1e4 else f"{words} {value:.5g}"


def as_time(seconds: float) -> str:
    """A duration such as ``2 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


class Progress(Callback):
    """Shows each epoch's measurements, and in between the loss, the metrics and the time left.

    Parameters
    ----------
    held_out : str
        What the validation data is called.
    stream : text stream, optional
        Standard output if not given.

    Examples
    --------
    `fit` makes one unless it is told not to; one's own may write elsewhere.

    >>> import io
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> shown = io.StringIO()
    >>> _ = cr.training.fit(model, cr.data.digits("train"), progress=False, callbacks=[cr.training.Progress(stream=shown)])
    >>> "epoch 1" in shown.getvalue()
    True
    """

    def __init__(self, held_out: str = "validation", stream: TextIO | None = None) -> None:
        self._held_out = held_out
        self._stream = stream if stream is not None else sys.stdout
        self._display: _Lines | _Bar = _Lines(self._stream)

    def begin(self, trainer: Trainer) -> None:
        done = trainer.position.step
        self._display = _display(self._stream)
        self._display.begin(done, trainer.epochs * trainer.steps)
        if trainer.position.epoch >= trainer.epochs:
            self._display.say(f"all {trainer.epochs} epochs were done already; ask for more epochs to go on")
        elif done:
            self._display.say(f"resumed after step {done} (epoch {trainer.position.epoch + 1})")

    def step(self, trainer: Trainer) -> None:
        position = trainer.position
        self._display.advance(position.step, f"epoch {position.epoch + 1}/{trainer.epochs}", lambda: self._words(position.means.values()))

    def epoch(self, trainer: Trainer, record: Record) -> None:
        shown = {name: value for name, value in record.items() if name not in _HIDDEN}
        width = len(str(trainer.epochs))
        self._display.say(f"epoch {record['epoch']:>{width}}/{trainer.epochs}   {self._words(shown)}   {as_time(record['seconds'])}")

    def end(self, trainer: Trainer) -> None:
        if trainer.stopped:
            self._display.say(f"training ended early: {trainer.stopped}")
        self._display.end()

    def _words(self, values: Mapping[str, float]) -> str:
        return "   ".join(as_words(name, value, self._held_out) for name, value in values.items())


class _Lines:
    """Plain lines, now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = self._last = time.perf_counter()
        self._first = self._total = 0

    def begin(self, done: int, total: int) -> None:
        self._begun = self._last = time.perf_counter()
        self._first, self._total = done, total

    def advance(self, step: int, where: str, words: Callable[[], str]) -> None:
        now = time.perf_counter()
        if now - self._last >= _EVERY:
            self._last = now
            left = (now - self._begun) / (step - self._first) * (self._total - step)
            self.say(f"{where}   step {step} of {self._total}   {words()}   {as_time(left)} left")

    def say(self, line: str) -> None:
        self._last = time.perf_counter()
        self._stream.write(line + "\n")
        self._stream.flush()

    def end(self) -> None:
        pass


class _Bar:
    """A live bar below the lines."""

    def __init__(self, bar: Any) -> None:
        # rich's Progress; its type is known only where rich is installed.
        self._bar = bar
        self._task: Any = None
        self._shown = 0.0

    def begin(self, done: int, total: int) -> None:
        self._task = self._bar.add_task("", total=total, completed=done, where="starting", words="")
        self._bar.start()

    def advance(self, step: int, where: str, words: Callable[[], str]) -> None:
        now = time.perf_counter()
        if now - self._shown >= 0.1:
            self._shown = now
            self._bar.update(self._task, completed=step, where=where, words=words())

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        self._bar.stop()


def _display(stream: TextIO) -> _Lines | _Bar:
    # A stream may be no file: a notebook's, a logger's.
    if not getattr(stream, "isatty", bool)() or os.environ.get("TERM") == "dumb":
        return _Lines(stream)
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        lines = _Lines(stream)
        lines.say('(a live progress bar needs rich: pip install "chainrule[train]")')
        return lines
    columns = (
        TextColumn("{task.fields[where]}"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    return _Bar(Progress(*columns, console=Console(file=stream), transient=True, refresh_per_second=5))
