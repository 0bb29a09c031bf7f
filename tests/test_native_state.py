"""State that compiled steps change, in place where they may: as without compiling, call after call, and nothing that a caller holds changes.

``CHAINRULE_FUZZ`` is how many random programs are run elsewhere; here it is a fifth of that, of several calls each.
"""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import chainrule as cr

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

from chainrule.compiler.jit import Compiled
from fuzz_state import Plan, World, fuzz, wrong

STEPS = int(os.environ.get("CHAINRULE_FUZZ", "1500" if os.environ.get("CI") else "300")) // 5


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that is never needed again is not kept."""
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")


def test_random_steps_change_state_as_they_do_without_compiling() -> None:
    assert fuzz(0, STEPS) == []


def test_steps_are_compiled_once_and_called_several_times() -> None:
    world = World(Plan(3), compiled=True)
    for turn in range(world.plan.calls):
        world.call(turn)
    assert isinstance(world.step, Compiled)
    assert len(world.step.stats().compilations) == 1


def test_a_change_of_what_a_caller_holds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison finds a step that writes where it must not."""
    plan = Plan(0)
    honest = World.call

    def careless(world: World, turn: int) -> None:
        honest(world, turn)
        if isinstance(world.step, Compiled) and turn == 2:
            world.machine.states[0]._value[...] += 1.0

    assert wrong(plan) == ""
    monkeypatch.setattr(World, "call", careless)
    assert wrong(plan) != ""


@pytest.mark.parametrize("held", ["nothing", "the value", "an array", "a view", "a result"])
def test_what_is_held_of_a_parameter_stays_as_it_was(held: str) -> None:
    p = cr.tensor(np.ones((40, 40)), requires_grad=True)
    optimizer = cr.optim.SGD([p], lr=0.1, momentum=0.9)

    @cr.compile(backend="native")
    def step() -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.sum(p * p)
        loss.backward()
        optimizer.step()
        return p.detach()

    keep = {
        "nothing": lambda: None,
        "the value": p.detach,
        "an array": lambda: np.asarray(p.detach()),
        "a view": lambda: np.asarray(p.detach())[::2, 1:],
        "a result": step,
    }[held]
    seen, plain, momentum = [], 1.0, 0.0
    for _ in range(4):
        kept = keep()
        if held == "a result":
            momentum = 0.9 * momentum + 2 * plain
            plain -= 0.1 * momentum
        seen.append((kept, plain))
        out = step()
        momentum = 0.9 * momentum + 2 * plain
        plain -= 0.1 * momentum
        np.testing.assert_allclose(np.asarray(p.detach()), plain)
        np.testing.assert_allclose(np.asarray(out), plain)
        for value, then in seen:
            if value is not None:
                np.testing.assert_allclose(np.asarray(value), then)


def test_a_step_that_fails_leaves_state_as_it_was() -> None:
    """An error comes before anything is changed, and the step goes on afterwards."""
    total, table = cr.zeros((300, 300)), cr.tensor(np.eye(4))

    @cr.compile(backend="native")
    def step(x: cr.Tensor, at: cr.Tensor) -> cr.Tensor:
        total.assign(total + 1.0)
        table.assign(table + cr.linalg.inv(x))
        return cr.take(total, at, axis=0)

    good, at = cr.tensor(2 * np.eye(4)), cr.tensor(np.array([0, 299]))
    for count in range(1, 4):
        assert float(cr.max(step(good, at))) == count
        for x, places, error in ((cr.zeros_like(good), at, cr.errors.LinAlgError), (good, at + 1, cr.errors.AxisError)):
            with pytest.raises(error):
                step(x, places)
            np.testing.assert_array_equal(np.asarray(total), count)
            np.testing.assert_array_equal(np.asarray(table), (1 + count / 2) * np.eye(4))


def test_state_that_nothing_else_holds_stays_in_its_memory() -> None:
    state = cr.tensor(np.zeros(1000))

    @cr.compile(backend="native")
    def step(x: cr.Tensor) -> None:
        state.assign(state + x)

    x = cr.tensor(np.ones(1000))
    step(x)
    places: set[int] = set()
    for _ in range(5):
        step(x)
        places.add(state.numpy().ctypes.data)
    assert len(places) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer that interrupts: run on Unix")
def test_an_interrupt_leaves_all_state_as_before_the_step_or_after_it() -> None:
    large, small = [cr.tensor(np.zeros((300, 300)), requires_grad=True) for _ in range(3)], cr.tensor(0.0)

    @cr.compile(backend="native")
    def step(x: cr.Tensor) -> None:
        cr.sum(large[0] * x).backward()
        with cr.no_grad():
            for value in (*large, small):
                value.assign(value + 1.0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def call_for_ever(delay: float) -> None:
        # Again and again: Python drops an exception that is raised while it collects garbage.
        signal.setitimer(signal.ITIMER_REAL, delay, 0.1)
        try:
            while True:
                step(x)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    x = cr.tensor(np.ones((300, 300)))
    # Once without a gradient there, and then with one: nothing is compiled any more.
    step(x), step(x), step(x)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(30):
            with pytest.raises(KeyboardInterrupt):
                call_for_ever(0.003 + 7e-5 * i)
            assert {number for value in (*large, small) for number in np.unique(value.detach())} == {small.item()}
    finally:
        signal.signal(signal.SIGALRM, before)
