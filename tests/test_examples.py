"""The programs in examples/: each runs as it stands, with little to do, and says what it reached."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

import chainrule as cr

EXAMPLES = sorted(path.stem for path in (Path(__file__).parents[1] / "examples").glob("*.py") if not path.name.startswith("_"))

ONE_EPOCH = ["--epochs", "1"]
LITTLE: dict[str, list[str]] = {
    **dict.fromkeys(("logistic_regression", "softmax_classifier", "svm", "mlp", "lenet", "autoencoder"), ONE_EPOCH),
    "alexnet": [*ONE_EPOCH, "--batch-size", "64"],
    "resnet": [*ONE_EPOCH, "--batch-size", "64"],
    "linear_regression": ["--steps", "20"],
    "xor": ["--steps", "20"],
    "transformer": ["--steps", "2", "--layers", "1", "--width", "16", "--context", "8", "--sample", "4"],
    "lstm_language_model": ["--steps", "2", "--units", "8", "--length", "8"],
    "neural_turing_machine": ["--steps", "2", "--length", "2"],
    "wgan_gp": ["--steps", "2"],
}
"""Arguments that leave little to do."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_reports(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    digits = cr.data.digits
    monkeypatch.setattr(cr.data, "digits", lambda split="train": digits(split).subset(slice(128)))
    reached = importlib.import_module(name).main(LITTLE[name])
    assert reached
    assert all(math.isfinite(value) for value in reached.values())
    assert capsys.readouterr().out.splitlines()[-1].startswith("result: ")
