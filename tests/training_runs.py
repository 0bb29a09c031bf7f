"""A small network on three clouds of points, trained in a fraction of a second: what the tests of training share."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from chainrule import nn
from chainrule.data import Dataset
from chainrule.training import Callback, History, Trainer, fit

BATCHES, EPOCHS = 5, 3


def blobs(count: int = 40, seed: int = 0) -> Dataset:
    """Three clouds of points, as images of one row."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return Dataset((centres[labels] + rng.normal(size=(count, 2)) * 0.4).astype(np.float32), labels, name="blobs")


def network() -> nn.Layer:
    return nn.Sequential([nn.Dense(6, activation="relu"), nn.Dropout(0.2), nn.Dense(3)])


def train(run_dir: Path | None = None, model: nn.Layer | None = None, **options: Any) -> History:
    given: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 8, "lr": 0.05, "progress": False, **options}
    return fit(model or network(), blobs(), blobs(20, seed=1), run_dir=run_dir, **given)


def contents(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    weights = {name: value.tobytes() for name, value in load_file(folder / "weights.safetensors").items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return weights, [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


class Send(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.at, self.number = step, number

    def step(self, trainer: Trainer) -> None:
        if trainer.position.step == self.at:
            os.kill(os.getpid(), self.number)
