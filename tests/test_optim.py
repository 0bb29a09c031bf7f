"""Optimizers: the steps of their papers, PyTorch's numbers, and a state to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ArgumentError

Make = Callable[[Any], optim.Optimizer]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd with weight decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "sgd with momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd with nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {"lr": 0.03}),
    "adam with options": ("Adam", {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.03, "weight_decay": 0.2}),
}


def made(case: str) -> Make:
    name, options = CASES[case]
    return lambda parameters: getattr(optim, name)(parameters, **options)


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 3)), rng.normal(size=3)]


def run(make: Make, steps: int, dtype: str = "float64") -> list[np.ndarray]:
    w, b = (cr.tensor(value, dtype=dtype, requires_grad=True) for value in start())
    x = cr.tensor(np.random.default_rng(1).normal(size=(5, 4)), dtype=dtype)
    optimizer = make([w, b])
    for _ in range(steps):
        optimizer.zero_grad()
        (cr.tanh(x @ w + b) ** 2).sum().backward()
        optimizer.step()
    return [w.detach().numpy(), b.detach().numpy()]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_numbers_are_pytorchs(case: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    name, options = CASES[case]
    w, b = (torch.tensor(value, dtype=getattr(torch, dtype), requires_grad=True) for value in start())
    x = torch.tensor(np.random.default_rng(1).normal(size=(5, 4)), dtype=getattr(torch, dtype))
    optimizer = getattr(torch.optim, name)([w, b], **options)
    for _ in range(20):
        optimizer.zero_grad()
        (torch.tanh(x @ w + b) ** 2).sum().backward()
        optimizer.step()
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    for ours, theirs in zip(run(made(case), 20, dtype), (w, b), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_sgd_follows_its_formula() -> None:
    w = cr.tensor([1.0, -2.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1, momentum=0.5)
    velocity, expected = np.zeros(2), np.array([1.0, -2.0])
    for _ in range(3):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        velocity = 0.5 * velocity + 2 * expected
        expected = expected - 0.1 * velocity
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-6)


def test_adam_follows_algorithm_1() -> None:
    w = cr.tensor(np.array([1.0, -2.0]), requires_grad=True)
    optimizer = optim.Adam([w], lr=0.1)
    mean, square, expected = np.zeros(2), np.zeros(2), np.array([1.0, -2.0])
    for step in range(1, 6):
        optimizer.zero_grad()
        (w**3).sum().backward()
        optimizer.step()
        gradient = 3 * expected**2
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected = expected - 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_restored_optimizer_goes_on_bit_for_bit(case: str) -> None:
    def stopped(parameters: list[cr.Tensor]) -> optim.Optimizer:
        optimizer = made(case)(parameters)
        real, count = optimizer.step, 0

        def step() -> None:
            nonlocal count
            real()
            count += 1
            if count == 3:
                state = optimizer.state_dict()
                groups = json.loads(json.dumps(state["groups"]))
                arrays = {place: {name: np.array(value) for name, value in slots.items()} for place, slots in state["state"].items()}
                optimizer._slots.clear()
                optimizer.lr = 123.0
                optimizer.load_state_dict({"state": arrays, "groups": groups})

        optimizer.step = step
        return optimizer

    for ours, expected in zip(run(stopped, 7, "float32"), run(made(case), 7, "float32"), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_parameters_keep_their_identity_and_what_held_their_values_does_not_change() -> None:
    w = cr.tensor([1.0], requires_grad=True)
    before = w.detach()
    optimizer = optim.SGD([w], lr=0.5)
    (w * 1).sum().backward()
    optimizer.step()
    assert (w.item(), before.item()) == (0.5, 1)
    assert w.requires_grad
    assert w.is_leaf


def test_parameters_without_a_gradient_stay() -> None:
    used, unused = cr.tensor(1.0, requires_grad=True), cr.tensor(1.0, requires_grad=True)
    optimizer = optim.Adam([used, unused], lr=0.1, weight_decay=0.1)
    (used * 2).backward()
    optimizer.step()
    assert unused.item() == 1
    assert list(optimizer.state_dict()["state"]) == ["0"]


def test_zero_grad_forgets() -> None:
    w = cr.tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([w])
    (w * 2).backward()
    optimizer.zero_grad()
    assert w.grad is None


def test_an_optimizer_can_be_made_before_the_parameters() -> None:
    model = nn.Sequential([nn.Dense(2), nn.Dense(1)])
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    model(np.ones((3, 4))).sum().backward()
    before = model.state_dict()
    optimizer.step()
    assert all(not np.array_equal(value.numpy(), before[name].numpy()) for name, value in model.state_dict().items())


def test_a_layer_that_joins_later_is_stepped_too() -> None:
    model = nn.Sequential([nn.Dense(2)])
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.layers.append(nn.Dense(1))
    model(np.ones((3, 4))).sum().backward()
    optimizer.step()
    assert len(optimizer.state_dict()["state"]) == 4


def test_groups_have_options_of_their_own() -> None:
    a, b = cr.tensor(1.0, requires_grad=True), cr.tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    (a + b).backward()
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((0.9, 0.5))
    optimizer.groups[1]["lr"] = 0.25
    assert [group["lr"] for group in optimizer.groups] == [0.1, 0.25]
    optimizer.lr = 0.2
    assert [group["lr"] for group in optimizer.groups] == [0.2, 0.2]


def test_the_learning_rate_is_a_tensor_that_keeps_its_identity() -> None:
    optimizer = optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=0.1)
    rate = optimizer.groups[0].rate
    optimizer.lr = 0.05
    assert optimizer.groups[0].rate is rate
    assert rate.item() == 0.05


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: optim.SGD([w], lr=-1), "lr=-1"),
        (lambda w: optim.SGD([w], lr=float("nan")), "lr=nan"),
        (lambda w: optim.SGD([w], momentum=1.0), "momentum=1.0"),
        (lambda w: optim.SGD([w], nesterov=True), "nesterov without momentum"),
        (lambda w: optim.Adam([w], betas=(0.9, 1.0)), "betas=1.0"),
        (lambda w: optim.Adam([w], eps=-1e-8), "eps=-1e-08"),
        (lambda w: optim.AdamW([w], weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda w: optim.SGD([w, w]), "twice"),
        (lambda w: optim.SGD([]), "no parameters"),
        (lambda w: optim.SGD([w * 2]), "computed tensor"),
        (lambda w: optim.SGD([cr.tensor(1.0)]), "require a gradient"),
        (lambda w: optim.SGD([{"params": [w], "rate": 1}]), "no option 'rate'"),
        (lambda w: optim.SGD([{"lr": 1}]), "without 'params'"),
        (lambda w: optim.get("adma"), "did you mean 'adam'"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[cr.Tensor], object], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        wrong(cr.tensor(1.0, requires_grad=True))


def test_a_state_of_another_model_is_refused_whole() -> None:
    a, b = cr.tensor([1.0], requires_grad=True), cr.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.Adam([a])
    (a * 2).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ArgumentError, match="needs the state"):
        optim.Adam([b]).load_state_dict(state)
    with pytest.raises(ArgumentError, match="has 1 groups"):
        optim.Adam([{"params": [a]}, {"params": [b]}]).load_state_dict(state)
    with pytest.raises(ArgumentError, match="needs the state"):
        optim.SGD([a], momentum=0.9).load_state_dict({**state, "groups": optim.SGD([a]).state_dict()["groups"]})
