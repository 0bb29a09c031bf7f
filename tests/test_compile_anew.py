"""When a compiled function is compiled again, and when not: what a trace takes for granted is watched."""

import gc
import warnings
import weakref
from functools import partial

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import CompileWarning
from test_compile import backend as backend
from test_compile import compilations


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ((cr.ones((32, 2)),), (cr.ones((31, 2)),), "axis 0 of x: 32 -> 31"),
        ((cr.ones(2),), (cr.ones((2, 2)),), "shape of x: (2,) -> (2, 2)"),
        ((cr.ones(2),), (cr.ones(2, dtype="float64"),), "dtype of x: float32 -> float64"),
        ((cr.ones(2), 1), (cr.ones(2), 2), "n: 1 -> 2"),
        ((cr.ones(2), 1), (cr.ones(2), True), "n: 1 -> True"),
        ((cr.ones(2), 0.0), (cr.ones(2), -0.0), "n: 0.0 -> -0.0"),
        ((cr.ones(2),), (cr.ones(2), 1), "arguments"),
        ((cr.ones(2),), (cr.tensor([1.0, 1.0], requires_grad=True),), "x requires a gradient"),
    ],
)
def test_every_recompilation_says_why(first, second, why):
    @cr.compile
    def f(x, n=2):
        return x * n

    f(*first)
    f(*second)
    reasons = compilations(f)
    assert reasons[0] == "first call"
    assert why in reasons[1]
    f(*first)
    assert len(compilations(f)) == 2


def test_the_learning_rate_is_read_anew_and_other_options_compile_anew():
    w = cr.tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5, momentum=0.0)

    @cr.compile
    def step():
        optimizer.zero_grad()
        (w * 2.0).backward()
        optimizer.step()

    step()
    assert w.item() == 0
    optimizer.lr = 0.25
    step()
    assert w.item() == -0.5
    assert len(compilations(step)) == 1
    optimizer.groups[0]["weight_decay"] = 0.5
    step()
    assert "weight_decay: 0.0 -> 0.5" in compilations(step)[-1]


def test_training_and_evaluation_mode_compile_apart():
    layer = nn.Dropout(0.5)
    f = cr.compile(lambda x: layer(x))
    x = cr.ones(100)
    assert (np.asarray(f(x)) == 0).any()
    layer.eval()
    np.testing.assert_array_equal(f(x), x)
    assert "training: True -> False" in compilations(f)[-1]


def test_a_closure_that_changes_compiles_anew():
    scale = 2.0
    options = {"shift": 1.0}

    @cr.compile
    def f(x):
        return x * scale + options["shift"]

    assert f(cr.tensor(1.0)).item() == 3
    scale = 5.0
    assert f(cr.tensor(1.0)).item() == 6
    assert "scale: 2.0 -> 5.0" in compilations(f)[-1]
    options["shift"] = 2.0
    assert f(cr.tensor(1.0)).item() == 7


class Knobs:
    gain = 1.0

    def __init__(self):
        self.shift = cr.tensor(0.0)
        self.parts = [cr.sin]

    def scaled(self, x):
        return x * self.gain * GAIN

    @cr.compile
    def step(self, x):
        return sum(part(self.scaled(x)) for part in self.parts) + self.shift


GAIN = 1.0


def test_what_a_method_reads_of_its_object_is_watched(monkeypatch):
    knobs, x = Knobs(), cr.tensor(0.5)
    changes = {
        "gain": lambda: setattr(knobs, "gain", 2.0),
        "GAIN": lambda: monkeypatch.setitem(globals(), "GAIN", -1.0),
        "shift": lambda: setattr(knobs, "shift", cr.tensor(4.0)),
        "parts": lambda: knobs.parts.append(cr.cos),
    }
    knobs.step(x)
    for name, change in changes.items():
        change()
        assert knobs.step(x).item() == pytest.approx(Knobs.step.function(knobs, x).item(), rel=1e-6), name
        assert name in compilations(Knobs.step)[-1]
    count = len(compilations(Knobs.step))
    knobs.unused = 1
    knobs.step(x)
    assert len(compilations(Knobs.step)) == count


@pytest.mark.parametrize(("before", "after"), [(0.0, -0.0), (1, True), ([1], [1.0]), ((0.0,), (-0.0,)), ({"a": [1]}, {"a": [2]})])
def test_what_is_equal_and_not_the_same_compiles_anew(before, after):
    held = before
    f = cr.compile(lambda x: x if str(held) == str(before) else -x)
    assert f(cr.tensor(1.0)).item() == 1
    held = after
    assert f(cr.tensor(1.0)).item() == -1


def test_lists_are_watched_item_by_item():
    held = {"weights": [1.0, 2.0]}
    f = cr.compile(lambda x: x * held["weights"][1])
    f(cr.tensor(1.0))
    held["weights"][1] = 5.0
    assert f(cr.tensor(1.0)).item() == 5
    # However deep it goes.
    held["self"] = held
    assert f(cr.tensor(1.0)).item() == 5
    held["weights"][1] = 6.0
    assert f(cr.tensor(1.0)).item() == 6


def test_default_arguments_are_watched():
    def scaled(x, *, options, names=set()):  # noqa: B006, it is what may change
        return x * options["scale"] * (1 + len(names))

    options = {"scale": 2.0}
    f = cr.compile(partial(scaled, options=options))
    assert f(cr.tensor(1.0)).item() == 2
    options["scale"] = 3.0
    assert f(cr.tensor(1.0)).item() == 3
    scaled.__kwdefaults__["names"].add("one")
    assert f(cr.tensor(1.0)).item() == 6


def test_layers_in_a_list_may_come_and_go():
    layers = [cr.nn.Dense(2, activation="tanh")]

    @cr.compile
    def f(x):
        for layer in layers:
            x = layer(x)
        return x

    x = cr.ones((1, 2))
    for _ in range(3):
        f(x)
        f(x)
        layers.append(cr.nn.Dense(2))
        np.testing.assert_array_equal(f(x), f.function(x))


def test_what_a_function_inside_names_is_watched(monkeypatch):
    f = cr.compile(lambda x: sum(y * GAIN for y in (x, x)))
    assert f(cr.tensor(1.0)).item() == 2
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert f(cr.tensor(1.0)).item() == 6


def test_going_to_and_fro_compiles_once_each_way():
    layer = cr.nn.Dropout(0.5)
    f = cr.compile(layer)
    x = cr.ones(3)
    for _ in range(4):
        layer.train()
        f(x)
        layer.eval()
        np.testing.assert_array_equal(f(x), x)
    assert len(compilations(f)) == 2


def test_what_was_compiled_before_is_let_go():
    scale = cr.tensor(1.0)
    f = cr.compile(lambda x: x * scale)
    gone = weakref.ref(scale)
    f(cr.tensor(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileWarning)
        for i in range(20):
            scale = cr.tensor(float(i))
            assert f(cr.tensor(1.0)).item() == i
    gc.collect()
    assert gone() is None


def test_many_signatures_are_bounded_and_told():
    @cr.compile
    def f(x):
        return x + 1.0

    for size in range(1, 16):
        f(cr.ones(size))
    with pytest.warns(CompileWarning, match="axis 0 of x: 15 -> 16"):
        f(cr.ones(16))
    for size in range(17, 80):
        f(cr.ones(size))
    assert f.stats().signatures == 64
    assert len(compilations(f)) == 79


def test_no_grad_and_grad_compile_apart():
    w = cr.tensor(2.0, requires_grad=True)
    f = cr.compile(lambda x: w * x)
    assert f(cr.tensor(1.0)).requires_grad
    with cr.no_grad():
        assert not f(cr.tensor(1.0)).requires_grad
    assert f(cr.tensor(1.0)).requires_grad


def test_a_frozen_parameter_compiles_anew():
    w = cr.tensor(2.0, requires_grad=True)
    f = cr.compile(lambda x: w * x)
    f(cr.tensor(1.0))
    w.requires_grad_(False)
    assert not f(cr.tensor(1.0)).requires_grad


def test_a_hook_that_comes_or_goes_compiles_anew():
    w = cr.tensor(2.0, requires_grad=True)

    @cr.compile
    def step():
        w.grad = None
        (w * 3.0).backward()

    step()
    remove = w.register_hook(lambda g: g * 10)
    step()
    assert w.grad.item() == 30
    remove()
    step()
    assert w.grad.item() == 3


def test_what_a_wrapped_function_names_is_watched_too():
    scale = 2.0
    f = cr.compile(cr.grad(lambda x: scale * x * x))
    assert f(cr.tensor(1.0)).item() == 4
    scale = 3.0
    assert f(cr.tensor(1.0)).item() == 6
