"""What ``train --report`` leaves: the report of a run, with its network traced on one batch of held-out data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chainrule import nn
from chainrule.core.files import write_whole
from chainrule.core.interp import no_grad
from chainrule.data import DataLoader
from chainrule.graph.ir import Graph
from chainrule.graph.trace import trace
from chainrule.ops.creation import asarray
from chainrule.tensor import Tensor
from chainrule.training import Callback
from chainrule.training.run import Record
from chainrule.training.trainer import Trainer
from chainrule.view.report import LayerFacts, write_report
from chainrule.view.units import FILE, dead_units

_BATCH = 64


class Units(Callback):
    """Counts after every epoch the dead units on one batch of held-out data, and keeps them in the run folder. It changes nothing about the run."""

    def __init__(self, loss: nn.losses.Loss | str, held_out: Any) -> None:
        self._loss = loss
        self._batch = _first_batch(held_out)
        self._graph: Graph | None = None
        self._records: list[Record] = []

    def begin(self, trainer: Trainer) -> None:
        if not trainer.position.step:
            self._records = []

    def epoch(self, trainer: Trainer, record: Record) -> None:
        # A graph reads the parameters as they are whenever it runs.
        if self._graph is None:
            with trainer.model.evaluating():
                self._graph = _traced(trainer.model, self._loss, self._batch)
        gates = [asdict(gate) for gate in dead_units(self._graph, self._batch)]
        self._records.append({"epoch": record["epoch"], "gates": gates})
        if trainer.folder is not None:
            write_whole(trainer.folder.path / FILE, "".join(json.dumps(line) + "\n" for line in self._records).encode())

    def state_dict(self) -> dict[str, Any]:
        return {"records": self._records} if self._records else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._records = list(state["records"])


def report(run: Path, model: nn.Layer, loss: nn.losses.Loss | str, held_out: Any) -> Path:
    """Write the report of a run; returns the file."""
    batch = _first_batch(held_out)
    step = _traced(model.train(), loss, batch)
    graph = _traced(model.eval(), loss, batch)
    *inputs, _ = batch
    with no_grad():
        rows = model.summary(*(x.shape for x in inputs), dtype=inputs[0].dtype).rows
    layers = [LayerFacts(row.path, row.kind, row.output, row.parameters, row.parameter_bytes) for row in rows]
    return write_report(run, graph, step, batch, layers)


def _first_batch(data: Any) -> list[Tensor]:
    return [asarray(x) for x in next(iter(DataLoader(data, _BATCH)))]


def _traced(model: nn.Layer, loss: nn.losses.Loss | str, batch: list[Tensor]) -> Graph:
    """From a batch to the loss, in the mode that the model is in."""
    *inputs, targets = batch
    measure = nn.losses.fetch(loss)

    def forward(x: Any, targets: Tensor) -> Tensor:
        return measure(model(*x) if isinstance(x, tuple) else model(x), targets)

    return trace(forward, inputs[0] if len(inputs) == 1 else tuple(inputs), targets)
