"""Optimizers and schedules as objects: copied, pickled, told nonsense, given damaged states."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ArgumentError, ChainruleError
from chainrule.optim import schedules

METHODS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "rmsprop": lambda p: optim.RMSProp(p, lr=0.1),
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.1),
    "lion": lambda p: optim.Lion(p, lr=0.1),
    "lbfgs": lambda p: optim.LBFGS(p, max_iter=2),
}
SCHEDULES: dict[str, Callable[[optim.Optimizer], schedules.Schedule]] = {
    "constant": schedules.Constant,
    "cosine": lambda o: schedules.Cosine(o, 5),
    "one cycle": lambda o: schedules.OneCycle(o, 5),
    "exponential": lambda o: schedules.ExponentialDecay(o, 0.5),
    "piecewise": lambda o: schedules.Piecewise(o, {2: 0.5}),
    "warm-up": lambda o: schedules.WarmUp(o, 3),
    "plateau": schedules.Plateau,
}


def weight(*values: float) -> cr.Tensor:
    return cr.tensor(values or [1.0, -2.0], requires_grad=True)


def go_on(pair: tuple[cr.Tensor, optim.Optimizer], steps: int) -> list[float]:
    w, optimizer = pair

    def closure() -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.sum(cr.square(w - 3.0))
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return w.tolist()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_of_parameters_and_optimizer_goes_on_as_they_do(method: str, again: Callable[[Any], Any]) -> None:
    w = weight()
    pair = w, METHODS[method]([w])
    go_on(pair, 3)
    other = again(pair)
    assert other[1].groups[0].parameters[0] is other[0]
    assert go_on(other, 3) == go_on(pair, 3)


def test_a_copy_made_before_the_first_call_of_the_model_goes_on_too() -> None:
    model = nn.Dense(2)
    twin, optimizer = pickle.loads(pickle.dumps((model, optim.Adam(model.parameters(), lr=0.1))))
    twin.initialize((1, 3))
    cr.sum(twin(np.ones((1, 3), "float32"))).backward()
    before = twin.kernel.tolist()
    optimizer.step()
    assert twin.kernel.tolist() != before


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a layer": (lambda: optim.Adam(nn.Dense(2)), "not a Dense"),  # pyright: ignore[reportArgumentType]
    "one tensor": (lambda: optim.Adam(weight()), "not a Tensor"),
    "one tensor in a group": (lambda: optim.Adam([{"params": weight()}]), "not a Tensor"),
    "a constant": (lambda: optim.Adam([cr.tensor([1.0])]), "requires no gradient"),
    "groups and tensors": (lambda: optim.Adam([{"params": [weight()]}, weight()]), "without 'params'"),  # pyright: ignore[reportArgumentType]
    "no rate": (lambda: optim.Adam([weight()], lr=None), "lr=None"),  # pyright: ignore[reportArgumentType]
    "a word for a rate": (lambda: optim.SGD([weight()], lr="0.1"), "lr='0.1'"),  # pyright: ignore[reportArgumentType]
    "one beta": (lambda: optim.Adam([weight()], betas=0.9), "betas=0.9"),  # pyright: ignore[reportArgumentType]
    "three betas": (lambda: optim.Lion([weight()], betas=(0.9, 0.9, 0.9)), "two numbers"),  # pyright: ignore[reportArgumentType]
    "a group's momentum": (lambda: optim.SGD([{"params": [weight()], "momentum": 3}]), "momentum=3"),
    "a group's nesterov": (lambda: optim.SGD([{"params": [weight()], "nesterov": True}]), "nesterov without momentum"),
    "a group's search": (lambda: optim.LBFGS([{"params": [weight()], "line_search_fn": "x"}]), "no line search"),  # pyright: ignore[reportArgumentType]
    "no loss": (lambda: optim.LBFGS([weight()]).step(lambda: None), "the closure returned None"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("case", WRONG)
def test_what_an_optimizer_cannot_step_is_refused(case: str) -> None:
    attempt, says = WRONG[case]
    with pytest.raises(ArgumentError, match=says):
        attempt()


def test_an_option_that_makes_no_sense_is_refused_when_it_is_set_too() -> None:
    (group,) = optim.Adam([weight()]).groups
    with pytest.raises(ArgumentError, match="betas=2"):
        group["betas"] = (2, 3)
    assert group["betas"] == (0.9, 0.999)


def test_a_parameter_that_two_unbuilt_models_share_is_refused_at_the_first_step() -> None:
    dense = nn.Dense(2)
    model = nn.Sequential([dense])
    optimizer = optim.SGD([{"params": model.parameters()}, {"params": dense.parameters(), "lr": 0.5}])
    cr.sum(model(np.ones((1, 2), "float32"))).backward()
    with pytest.raises(ArgumentError, match="twice"):
        optimizer.step()


def test_slots_keep_their_dtype_whatever_the_state_has() -> None:
    w = weight()
    pair = w, optim.Adam([w])
    go_on(pair, 1)
    state = pair[1].state_dict()
    state["state"] = {place: {name: np.asarray(slot.tolist()) for name, slot in slots.items()} for place, slots in state["state"].items()}
    pair[1].load_state_dict(state)
    assert {name: slot.dtype.name for name, slot in pair[1].state_dict()["state"]["0"].items()} == {
        "step": "int64", "mean": "float32", "square": "float32"
    }  # fmt: skip


KEYS = st.sampled_from(["0", "1", "lr", "step", "mean", "groups", "state", "betas"])
JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=32) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("method", ["adam", "sgd", "lbfgs"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_state_is_refused_whole_or_fits(method: str, data: st.DataObject) -> None:
    w = weight()
    pair = w, METHODS[method]([w])
    go_on(pair, 1)
    state: Any = pair[1].state_dict()
    part = data.draw(st.sampled_from(["all", "groups", "group", "state", "slots", "slot", "option"]))
    junk = data.draw(JUNK)
    if part == "all":
        state = junk
    elif part in state:
        state[part] = junk
    elif part == "group":
        state["groups"][0] = junk
    elif part == "option":
        state["groups"][0][data.draw(st.sampled_from(sorted(state["groups"][0])))] = junk
    elif part == "slots":
        state["state"]["0"] = junk
    else:
        state["state"]["0"][data.draw(st.sampled_from(sorted(state["state"]["0"])))] = junk
    before = repr(pair[1].state_dict())
    try:
        pair[1].load_state_dict(state)
    except ChainruleError:
        assert repr(pair[1].state_dict()) == before


@pytest.mark.parametrize("kind", SCHEDULES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_state_of_a_schedule_is_refused_whole_or_fits(kind: str, data: st.DataObject) -> None:
    schedule = SCHEDULES[kind](optim.SGD([weight()], lr=0.5))
    state: Any = schedule.state_dict()
    name = data.draw(st.sampled_from([None, *state]))
    junk = data.draw(JUNK)
    state = junk if name is None else {**state, name: [junk] if name == "initial" else junk}
    before = schedule.state_dict(), schedule.lr
    try:
        schedule.load_state_dict(state)
    except ChainruleError:
        assert (schedule.state_dict(), schedule.lr) == before
