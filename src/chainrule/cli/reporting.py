"""What ``train --report`` leaves: the report of a run, with its network traced on one batch of held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chainrule import nn
from chainrule.core.interp import no_grad
from chainrule.data import DataLoader
from chainrule.graph.trace import trace
from chainrule.ops.creation import asarray
from chainrule.tensor import Tensor
from chainrule.view.report import LayerFacts, write_report

_BATCH = 64


def report(run: Path, model: nn.Layer, loss: nn.losses.Loss | str, held_out: Any) -> Path:
    """Write the report of a run; returns the file."""
    batch = [asarray(x) for x in next(iter(DataLoader(held_out, _BATCH)))]
    *inputs, targets = batch
    measure = nn.losses.fetch(loss)

    def forward(x: Any, targets: Tensor) -> Tensor:
        return measure(model(*x) if isinstance(x, tuple) else model(x), targets)

    model.eval()
    graph = trace(forward, inputs[0] if len(inputs) == 1 else tuple(inputs), targets)
    with no_grad():
        rows = model.summary(*(x.shape for x in inputs), dtype=inputs[0].dtype).rows
    layers = [LayerFacts(row.path, row.kind, row.output, row.parameters, row.parameter_bytes) for row in rows]
    return write_report(run, graph, batch, layers)
