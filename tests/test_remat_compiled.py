"""Compiled steps under a memory budget: what they allocate stays within it, results are the same, and parameters are updated in place."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.remat import measure
from chainrule.core.errors import ArgumentError
from test_remat import WIDTH, inputs, weight


def test_measure_tells_of_memory_and_time() -> None:
    found = measure(lambda: np.ones(1_000_000).sum())
    assert 8_000_000 <= found.peak < 8_100_000
    assert found.seconds > 0
    assert "8 MB" in str(found)


MEASURE = """
import tracemalloc
import numpy as np
import chainrule as cr

rng = np.random.default_rng(0)
weights = [cr.tensor(rng.normal(size=(32, 32)) / 4, dtype="float32", requires_grad=True) for _ in range(64)]
optimizer = cr.optim.SGD(weights, lr=0.01)

def step(x):
    for w in weights:
        x = cr.tanh(x @ w)
        if {dropout}:
            x = cr.random.dropout(x, {dropout})
    loss = cr.mean(x * x)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss

x = cr.tensor(rng.normal(size=(2048, 32)), dtype="float32")
run = {compile}
run(x)
tracemalloc.start()
before = tracemalloc.get_traced_memory()[0]
loss = run(x)
print(tracemalloc.get_traced_memory()[1] - before, loss.item(), float(sum(cr.sum(w) for w in weights)))
"""


def measured(compile: str, dropout: float) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", MEASURE.format(compile=compile, dropout=dropout)], capture_output=True, text=True, check=True)
    peak, _, numbers = done.stdout.partition(" ")
    return int(peak), numbers


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_compiled_step_of_64_layers_stays_within_its_budget(dropout: float) -> None:
    layer = 2048 * 32 * 4
    _, expected = measured("cr.compile(step)", dropout)
    for budget in (40 * layer, 16 * layer):
        peak, found = measured(f"cr.compile(step, memory_budget={budget})", dropout)
        assert peak <= budget
        assert found == expected


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_machine_code_keeps_a_budget_too(share: float) -> None:
    pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    weights = [weight(64, 64) for _ in range(32)]
    optimizer = cr.optim.SGD(weights, lr=0.01)

    def train(x: cr.Tensor) -> cr.Tensor:
        for w in weights:
            x = cr.tanh(x @ w)
        loss = cr.mean(x * x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    budget = int(share * 32 * 4 * 2048 * 64)
    step = cr.compile(train, backend="native", memory_budget=budget)
    step(cr.tensor(np.ones((2048, 64)), dtype="float32"))
    (told,) = step.stats().compilations
    assert told["memory"].after <= budget
    # Scalars lie in cache lines of their own.
    assert told["arena_bytes"] <= budget + 1024


@pytest.mark.parametrize("count", [4, 40])
def test_a_step_updates_its_parameters_in_place_however_many_there_are(count: int) -> None:
    weights = [cr.tensor(np.ones((100, 100)), dtype="float32", requires_grad=True) for _ in range(count)]

    # Machine code writes to two arrays in turn.
    @cr.compile(backend="numpy")
    def step() -> None:
        with cr.no_grad():
            for w in weights:
                w *= 0.5

    def places() -> list[int]:
        return [w._value.ctypes.data for w in weights]

    step()
    before = places()
    step()
    assert places() == before
    held = weights[0].detach()
    step()
    assert held[0, 0].item() == 0.25
    assert weights[0][0, 0].item() == 0.125


def test_a_compiled_step_tells_what_it_recomputes() -> None:
    weights = [weight(WIDTH, WIDTH) for _ in range(16)]

    def gradients(x: cr.Tensor) -> Any:
        def loss(ws: list[cr.Tensor]) -> cr.Tensor:
            y = x
            for w in ws:
                y = cr.tanh(y @ w)
            return cr.mean(y * y)

        return cr.grad(loss)(weights)

    (x,) = inputs()
    budget = "60KB"
    step = cr.compile(gradients, memory_budget=budget)
    for a, b in zip(cr.compile(gradients)(x), step(x), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    report = step.stats().compilations[0]["memory"]
    assert report.after <= report.budget == 60_000 < report.before
    assert "memory budget 60 KB" in str(step.stats())
    with pytest.raises(ArgumentError, match="the least possible is"):
        cr.compile(gradients, memory_budget="1KB")(x)
