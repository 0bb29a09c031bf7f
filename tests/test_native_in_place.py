"""State in machine code: new values in the memory of old ones, unless somebody else holds those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 12)).astype("float32"), RNG.integers(0, 5, 16)


class Training:
    """A network, its optimizer, and a step that is compiled or not."""

    def __init__(self, optimizer: str = "Adam", compiled: bool = True) -> None:
        cr.manual_seed(0)
        self.model = nn.Sequential([nn.Dense(300, activation="relu"), nn.Dense(5)]).initialize((1, 12))
        self.parameters = list(self.model.parameters())
        self.optimizer = getattr(cr.optim, optimizer)(self.parameters, lr=0.01)
        self.step: Callable[..., Any] = cr.compile(self._step, backend="native") if compiled else self._step

    def _step(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        loss = nn.losses.softmax_cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def run(self, times: int, y: Any = Y) -> None:
        for _ in range(times):
            self.step(X, y)

    def values(self) -> list[np.ndarray]:
        return [p.detach().numpy().copy() for p in self.parameters]

    def memory(self) -> list[int]:
        return [p._value.__array_interface__["data"][0] for p in self.parameters]

    def gradients(self) -> list[int]:
        return [p.grad._value.__array_interface__["data"][0] for p in self.parameters if p.grad is not None]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_parameters_stay_where_they_are_and_are_as_without_compiling(optimizer: str) -> None:
    one, other = Training(optimizer), Training(optimizer, compiled=False)
    one.run(2)
    before = one.memory()
    one.run(5)
    other.run(7)
    assert one.memory() == before
    for a, b in zip(one.values(), other.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_what_somebody_holds_does_not_change() -> None:
    one, other = Training(), Training()
    one.run(3)
    arrays = [p._value for p in one.parameters]
    views = [p.detach().numpy()[:3] for p in one.parameters]
    snapshot = one.values()
    assert one.parameters[0].grad is not None
    gradient = one.parameters[0].grad
    kept = gradient.numpy().copy()
    one.run(3)
    for array, view, value in zip(arrays, views, snapshot, strict=True):
        np.testing.assert_array_equal(array, value)
        np.testing.assert_array_equal(view, value[:3])
    np.testing.assert_array_equal(gradient.numpy(), kept)
    other.run(6)
    for a, b in zip(one.values(), other.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_parameter_that_is_part_of_another_array_is_left_alone() -> None:
    whole = np.zeros((4, 8), np.float32)
    w = cr.tensor(0.0)
    w._value = whole[1:3]

    @cr.compile(backend="native")
    def step() -> None:
        w.assign(w + 1.0)

    for _ in range(3):
        step()
    assert not whole.any()
    np.testing.assert_array_equal(w.numpy(), np.full((2, 8), 3.0))


def test_two_tensors_of_one_array_part_when_one_is_assigned() -> None:
    array = np.zeros(100, np.float32)
    a, b = cr.tensor(0.0), cr.tensor(0.0)
    a._value = b._value = array

    @cr.compile(backend="native")
    def step() -> Any:
        a.assign(a + b + 1.0)
        return cr.sum(b)

    del array
    assert [step().item() for _ in range(3)] == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(a.numpy(), np.full(100, 3.0))


def test_a_step_that_fails_leaves_everything_as_it_was() -> None:
    one, other = Training(), Training()
    one.run(3)
    other.run(3)
    before, memory = one.values(), one.memory()
    wrong = Y.copy()
    wrong[7] = 5
    for _ in range(2):
        with pytest.raises(Exception, match="5"):
            one.step(X, wrong)
        for a, b in zip(one.values(), before, strict=True):
            np.testing.assert_array_equal(a, b)
    one.run(2)
    other.run(2)
    assert one.memory() == memory
    for a, b in zip(one.values(), other.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_value_that_is_swapped_with_another_or_read_otherwise_is_right() -> None:
    a, b, c = (cr.tensor(RNG.normal(size=(70, 70)).astype("float32")) for _ in range(3))
    start = [x.numpy().copy() for x in (a, b, c)]

    def step() -> Any:
        old = a * 1.0
        a.assign(b * 2.0)
        b.assign(old)
        c.assign(c.mT + c)
        return cr.sum(c)

    compiled = cr.compile(step, backend="native")
    for _ in range(4):
        compiled()
    x, y, z = start
    for _ in range(4):
        x, y, z = y * 2, x, z.T + z
    for tensor, expected in zip((a, b, c), (x, y, z), strict=True):
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_old_values_that_are_read_elsewhere_or_later_are_still_there() -> None:
    flipped, read = (cr.tensor(RNG.normal(size=(64, 64)).astype("float32")) for _ in range(2))
    x, y = flipped.numpy().copy(), read.numpy().copy()

    @cr.compile(backend="native")
    def step() -> Any:
        flipped.assign(cr.flip(flipped, axis=0) + 1.0)
        later = read * 0.5
        product = read @ read
        read.assign(later)
        return product

    for _ in range(4):
        product = step()
        np.testing.assert_allclose(product.numpy(), y @ y, rtol=1e-4, atol=1e-5)
        x, y = x[::-1] + 1, y * np.float32(0.5)
    np.testing.assert_array_equal(flipped.numpy(), x)
    np.testing.assert_array_equal(read.numpy(), y)


def test_gradients_take_turns_only_while_somebody_holds_them() -> None:
    one = Training()
    one.run(3)
    before = one.gradients()
    one.run(3)
    assert one.gradients() == before


def test_large_results_that_no_call_needed_lately_are_dropped() -> None:
    f = cr.compile(lambda x: (cr.exp(x), cr.sin(x)), backend="native")
    x = cr.zeros((200, 200))
    places = {f(x)[0]._value.__array_interface__["data"][0] for _ in range(3)}
    held = [f(x), f(x)]
    del held
    run: Any = f.entry((x,), {})[0].executable.run
    rings = run.__self__.long.__self__.rings
    assert [len(ring) for ring in rings] == [2, 2]
    for _ in range(3):
        f(x)
    assert [len(ring) for ring in rings] == [1, 1]
    np.testing.assert_array_equal(f(x)[0].numpy(), np.ones((200, 200)))
    assert len(places) == 1


@pytest.mark.parametrize("shape", [(33_000,), (100, 333), (3, 40_001)])
def test_an_update_whose_result_is_summed_too_happens_once_everywhere(shape: tuple[int, ...]) -> None:
    # Sums of so many are made in parts, and no vector ends where a row does.
    first, change = RNG.normal(size=shape).astype("float32"), RNG.normal(size=shape).astype("float32")
    sides: list[tuple[np.ndarray, ...]] = []
    for compiled in (True, False):
        parameter = cr.tensor(first)

        def update(gradient: Any, parameter: Any = parameter) -> Any:
            parameter.assign(0.9 * parameter - gradient)
            return cr.sum(parameter * parameter), cr.sum(parameter * parameter, axis=-1)

        step: Callable[..., Any] = cr.compile(update, backend="native") if compiled else update
        total, rows = [step(change) for _ in range(3)][-1]
        sides.append((parameter.numpy(), total.numpy(), rows.numpy()))
    for mine, eager in zip(*sides, strict=True):
        np.testing.assert_allclose(mine, eager, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_a_failing_step_would_replace_is_gone() -> None:
    one = Training()
    one.run(3)
    wrong = Y.copy()
    wrong[7] = 5
    with pytest.raises(Exception, match="5"):
        one.step(X, wrong)
    assert all(p.grad is None for p in one.parameters)
    one.run(1)
    assert all(p.grad is not None for p in one.parameters)
