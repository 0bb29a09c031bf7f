"""Schedules: PyTorch's learning rates step by step, states to go on from, and no compilation when a rate changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import optim
from chainrule.core.errors import ArgumentError, TraceError
from chainrule.optim import schedules

Make = Callable[[optim.Optimizer], schedules.Schedule]

RATES = (0.3, 0.02)
CASES: dict[str, tuple[Make, Callable[[Any, Any], Any], int]] = {
    "constant": (schedules.Constant, lambda lr, o: lr.LambdaLR(o, lambda count: 1.0), 5),
    "step": (lambda o: schedules.StepDecay(o, 3, 0.4), lambda lr, o: lr.StepLR(o, 3, 0.4), 20),
    "piecewise": (lambda o: schedules.Piecewise(o, {9: 0.04, 4: 0.2}), lambda lr, o: lr.MultiStepLR(o, [4, 9], 0.2), 15),
    "lambda": (lambda o: schedules.Lambda(o, lambda n: 1 / (1 + n)), lambda lr, o: lr.LambdaLR(o, lambda n: 1 / (1 + n)), 15),
    "exponential": (lambda o: schedules.ExponentialDecay(o, 0.93), lambda lr, o: lr.ExponentialLR(o, 0.93), 50),
    "cosine": (lambda o: schedules.Cosine(o, 30, minimum=0.001), lambda lr, o: lr.CosineAnnealingLR(o, 30, 0.001), 30),
    "restarts": (lambda o: schedules.CosineRestarts(o, 7), lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 7), 40),
    "growing restarts": (
        lambda o: schedules.CosineRestarts(o, 5, growth=2, minimum=0.003),
        lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 5, 2, 0.003),
        40,
    ),
    "one cycle": (
        lambda o: schedules.OneCycle(o, 40),
        lambda lr, o: lr.OneCycleLR(o, list(RATES), 40, cycle_momentum=False),
        39,
    ),
    "one cycle in lines": (
        lambda o: schedules.OneCycle(o, 33, rising=0.45, first=10.0, last=100.0, shape="linear"),
        lambda lr, o: lr.OneCycleLR(
            o, list(RATES), 33, pct_start=0.45, anneal_strategy="linear", cycle_momentum=False, div_factor=10.0, final_div_factor=100.0
        ),
        32,
    ),
    "warm-up": (lambda o: schedules.WarmUp(o, 6, start=0.1), lambda lr, o: lr.LinearLR(o, 0.1, 1.0, 6), 12),
    "warm-up, then cosine": (
        lambda o: schedules.WarmUp(o, 5, start=0.25, then=schedules.Cosine(o, 20)),
        lambda lr, o: lr.SequentialLR(o, [lr.LinearLR(o, 0.25, 1.0, 5), lr.CosineAnnealingLR(o, 20)], [5]),
        24,
    ),
    "warm-up, then steps": (
        lambda o: schedules.WarmUp(o, 4, start=0.5, then=schedules.StepDecay(o, 3, 0.5)),
        lambda lr, o: lr.SequentialLR(o, [lr.LinearLR(o, 0.5, 1.0, 4), lr.StepLR(o, 3, 0.5)], [4]),
        20,
    ),
}


def optimizer_of(*rates: float) -> optim.SGD:
    return optim.SGD([{"params": [cr.tensor(1.0, requires_grad=True)], "lr": rate} for rate in rates or RATES])


def rates(optimizer: optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.groups]


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("case", CASES)
def test_the_rates_are_pytorchs(case: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    make, theirs, steps = CASES[case]
    optimizer = optimizer_of()
    other = torch.optim.SGD([{"params": [torch.ones(1, requires_grad=True)], "lr": rate} for rate in RATES])
    schedule, expected = make(optimizer), theirs(torch.optim.lr_scheduler, other)
    for _ in range(steps):
        np.testing.assert_allclose(rates(optimizer), [group["lr"] for group in other.param_groups], rtol=1e-12, atol=1e-17)
        other.step()
        expected.step()
        schedule.step()
    assert schedule.lr == optimizer.lr


PLATEAUS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"factor": 0.5, "patience": 2}, {"factor": 0.5, "patience": 2}),
    ({"factor": 0.3, "patience": 0, "cooldown": 3}, {"factor": 0.3, "patience": 0, "cooldown": 3}),
    ({"factor": 0.1, "patience": 1, "minimum": 0.01}, {"factor": 0.1, "patience": 1, "min_lr": 0.01}),
    ({"factor": 0.5, "patience": 1, "threshold": 0.2, "mode": "max"}, {"factor": 0.5, "patience": 1, "threshold": 0.2, "mode": "max"}),
]


@pytest.mark.parametrize(("ours", "theirs"), PLATEAUS, ids=lambda options: str(options))
def test_a_plateaus_rates_are_pytorchs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    optimizer = optimizer_of()
    other = torch.optim.SGD([{"params": [torch.ones(1, requires_grad=True)], "lr": rate} for rate in RATES])
    schedule, expected = schedules.Plateau(optimizer, **ours), torch.optim.lr_scheduler.ReduceLROnPlateau(other, eps=0.0, **theirs)
    metrics = np.random.default_rng(0).normal(size=40) ** 2 + np.linspace(3, 1, 40)
    metrics[7] = np.nan
    for metric in metrics:
        schedule.step(cr.tensor(metric))
        expected.step(metric)
        np.testing.assert_allclose(rates(optimizer), [group["lr"] for group in other.param_groups], rtol=1e-12)
    assert optimizer.lr < RATES[0]


@pytest.mark.parametrize("case", [*CASES, "plateau"])
def test_a_restored_schedule_goes_on_with_the_same_rates(case: str) -> None:
    make = CASES[case][0] if case in CASES else lambda o: schedules.Plateau(o, patience=1, factor=0.5, cooldown=1)
    optimizer = optimizer_of()
    schedule = make(optimizer)
    for i in range(9):
        schedule.step(float(i % 4))
    fresh = optimizer_of()
    fresh.load_state_dict(optimizer.state_dict())
    restored = make(fresh)
    restored.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    for i in range(12):
        assert rates(fresh) == rates(optimizer)
        schedule.step(float(i % 3))
        restored.step(float(i % 3))


def test_a_schedule_with_a_name_needs_only_the_number_of_steps() -> None:
    for name in schedules.NAMES:
        optimizer = optimizer_of(0.5)
        schedule = schedules.get(name)(optimizer, steps=100)
        seen = []
        for _ in range(100):
            seen.append(optimizer.lr)
            schedule.step()
        assert max(seen) == pytest.approx(0.5)
        assert min(seen) > 0
        assert name == "constant" or optimizer.lr < 1e-5
        schedule.step()
    assert set(schedules.NAMES) == {"constant", "cosine", "warmup_cosine", "one_cycle"}


def test_a_warm_up_rises_to_the_initial_rate_whatever_comes_after() -> None:
    optimizer = optimizer_of(0.5)
    schedule = schedules.WarmUp(optimizer, 2, start=0.5, then=schedules.OneCycle(optimizer, 10))
    assert schedule.initial == [0.5]
    assert [schedule.rate(count, 0.5) for count in range(3)] == pytest.approx([0.25, 0.375, 0.5 / 25])


def test_after_its_steps_a_cosine_stays_at_the_minimum() -> None:
    schedule = schedules.Cosine(optimizer_of(0.5), 4, minimum=0.125)
    assert [schedule.rate(count, 0.5) for count in (4, 5, 8)] == [0.125] * 3


def test_a_compiled_step_takes_each_rate_without_compiling_anew() -> None:
    w = cr.tensor(np.array([1.0]), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)
    schedule = schedules.WarmUp(optimizer, 3, start=0.1, then=schedules.Cosine(optimizer, 5))

    @cr.compile
    def step(x: cr.Tensor) -> None:
        optimizer.zero_grad()
        cr.sum(w * x).backward()
        optimizer.step()

    expected = 1.0
    for _ in range(8):
        expected -= optimizer.lr * 2.0
        step(cr.tensor(np.array([2.0])))
        schedule.step()
    assert w.item() == pytest.approx(expected, rel=1e-12)
    assert len(step.stats().compilations) == 1


@pytest.mark.parametrize("make", [lambda o: schedules.Cosine(o, 5), schedules.Plateau], ids=["Cosine", "Plateau"])
def test_a_step_inside_a_compiled_function_says_to_call_it_outside(make: Make) -> None:
    optimizer = optimizer_of()
    schedule = make(optimizer)
    before = schedule.state_dict()
    with pytest.raises(TraceError, match="call it outside"):
        cr.compile(lambda: schedule.step(1.0))()
    assert schedule.state_dict() == before
    assert rates(optimizer) == list(RATES)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda o: schedules.Cosine(o, 0), "Cosine: steps=0"),
        (lambda o: schedules.Cosine(o, 10, minimum=-1.0), "Cosine: minimum=-1.0"),
        (lambda o: schedules.CosineRestarts(o, 10, growth=0), "growth=0"),
        (lambda o: schedules.StepDecay(o, -1), "every=-1"),
        (lambda o: schedules.ExponentialDecay(o, 0.0), "factor=0.0"),
        (lambda o: schedules.Piecewise(o, {3: -0.5}), r"shares\[3\]=-0.5"),
        (lambda o: schedules.OneCycle(o, 1), "steps=1"),
        (lambda o: schedules.OneCycle(o, 10, shape="cos"), "no shape 'cos'"),
        (lambda o: schedules.WarmUp(o, 3, then=schedules.Plateau(o)), "a Plateau"),
        (lambda o: schedules.WarmUp(o, 3, then=schedules.Constant(optimizer_of())), "another optimizer"),
        (lambda o: schedules.WarmUpCosine(o, 3, warm_up=3), "3 of 3 steps"),
        (lambda o: schedules.Plateau(o, mode="least"), "no mode 'least'"),
        (lambda o: schedules.Plateau(o, factor=1.0), "factor=1.0"),
        (lambda o: schedules.Plateau(o).step(), "without a metric"),
        (lambda o: schedules.Constant(o).load_state_dict({"count": 3}), "has the state"),
        (lambda o: schedules.Constant(o).load_state_dict({"count": 3, "initial": [0.1]}), "has the state"),
        (lambda o: schedules.get("cosin"), "did you mean 'cosine'"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[optim.Optimizer], object], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        wrong(optimizer_of())
