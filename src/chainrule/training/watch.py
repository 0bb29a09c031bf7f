"""Watch: how gradients and parameters move, parameter by parameter, once per epoch. It changes nothing about the run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.files import write_whole
from chainrule.training.callbacks import Callback
from chainrule.training.run import Record

if TYPE_CHECKING:
    from chainrule.tensor import Tensor
    from chainrule.training.trainer import Trainer

FILE = "watch.jsonl"
"""Its name in a run folder."""


class Watch(Callback):
    """Measures, in the middle step of every epoch, each parameter's gradient and how far the step moved it.

    In a run with a run folder the measurements stand there as ``watch.jsonl``, a line per epoch; ``chainrule train --report`` shows them.

    Attributes
    ----------
    records : list of dict
        "epoch", "step" (after the epoch), and "parameters": for each parameter "gradient", the norm of the gradient that the optimizer
        was given (after clipping), "value", the norm of the parameter after the step, and "update", the norm of the step over that of the
        parameter before it. A norm that is not finite, and a ratio to 0, is None.

    Notes
    -----
    At the end of a run many schedules hardly move anything any more, and the last batch may be small: so it is the middle step.
    An update near a thousandth of the parameter is usual: https://cs231n.github.io/neural-networks-3/#ratio-of-weightsupdates

    Examples
    --------
    >>> import chainrule as cr
    >>> model, watch = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)]), cr.training.Watch()
    >>> _ = cr.training.fit(model, cr.data.digits("train"), epochs=2, progress=False, callbacks=[watch])
    >>> [record["epoch"] for record in watch.records], sorted(watch.records[0]["parameters"])
    ([1, 2], ['layers.1.bias', 'layers.1.kernel'])
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._before: dict[str, Any] = {}
        self._measured: dict[str, Any] = {}

    def begin(self, trainer: Trainer) -> None:
        if not trainer.position.step:
            self.records = []
        self._measured = {}
        self._look(trainer)

    def step(self, trainer: Trainer) -> None:
        if _is_middle(trainer.position.step, trainer):
            self._measured = {
                name: _moved(x, self._before[name]) for name, x in trainer.model.named_parameters() if x.requires_grad and name in self._before
            }
            # There from now on, as the state is in the checkpoint: so whoever resumes the run sees that it is watched.
            self._write(trainer)
        self._look(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        if self._measured:
            self.records.append({"epoch": record["epoch"], "step": record["step"], "parameters": self._measured})
            self._measured = {}
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.folder is not None:
            write_whole(trainer.folder.path / FILE, "".join(json.dumps(line) + "\n" for line in self.records).encode())

    def _look(self, trainer: Trainer) -> None:
        """Keep the parameters as they are if the next step is the one that is measured."""
        if _is_middle(trainer.position.step + 1, trainer):
            self._before = {name: np.array(x) for name, x in trainer.model.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "measured": self._measured} if self.records or self._measured else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.records, self._measured = list(state["records"]), dict(state["measured"])


def _is_middle(step: int, trainer: Trainer) -> bool:
    """Whether the step of this number, counted from 1, is the middle one of its epoch."""
    return (step - 1) % trainer.steps == trainer.steps // 2


def _moved(x: Tensor, before: Any) -> dict[str, float | None]:
    after, size = np.asarray(x), _norm(before)
    step = _norm(after - before)
    return {
        "gradient": None if x.grad is None else _norm(np.asarray(x.grad)),
        "value": _norm(after),
        "update": step / size if step is not None and size else None,
    }


def _norm(x: Any) -> float | None:
    norm = float(np.linalg.norm(np.asarray(x, dtype=np.float64).ravel()))
    return norm if math.isfinite(norm) else None
