"""Tensors that a compiled function assigns have the history that they have without compiling: gradients through them are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.jit import Compiled
from chainrule.core.errors import GradientError
from test_compile import backend as backend

Compile = Callable[[Callable[..., Any]], Any]


def eagerly(f: Callable[..., Any]) -> Any:
    return f


def same(case: Callable[[Compile], Any]) -> None:
    """A case gives the same without compiling and with it."""
    for a, b in zip(case(eagerly), case(cr.compile), strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-5)


def parameter(*values: float) -> cr.Tensor:
    return cr.tensor([*values], requires_grad=True)


def test_a_value_made_of_parameters_and_assigned_leads_back_to_them() -> None:
    def case(compiled: Compile) -> Any:
        w, x = parameter(1.0, 2.0), cr.tensor([0.0, 0.0])

        def f() -> Any:
            x.assign(3.0 * w)

        compiled(f)()
        assert x.requires_grad
        assert not x.is_leaf
        cr.sum(x * x).backward()
        return x, w.grad

    same(case)


def test_a_state_carries_its_history_from_call_to_call() -> None:
    def case(compiled: Compile) -> Any:
        w, h = parameter(1.0, 2.0), cr.tensor([1.0, 1.0])

        def f(x: Any) -> Any:
            h.assign(cr.tanh(h * w + x))
            return cr.sum(h)

        step = compiled(f)
        losses = [step(cr.tensor(x)) for x in (0.1, 0.2, 0.3, 0.4)]
        cr.sum(cr.stack(losses)).backward()
        # It requires a gradient from the second call on, and no call after that compiles anew.
        assert not isinstance(step, Compiled) or len(step.stats().compilations) == 2
        return h, w.grad

    same(case)


def test_an_argument_that_is_assigned_to_carries_the_history_too() -> None:
    def case(compiled: Compile) -> Any:
        w, h = parameter(1.0, 2.0), cr.tensor([3.0, 4.0])

        def f(x: Any) -> None:
            x *= w

        step = compiled(f)
        step(h)
        step(h)
        cr.sum(h).backward()
        return h, w.grad

    same(case)


def test_what_a_transform_differentiates_flows_through_an_assignment() -> None:
    def case(compiled: Compile) -> Any:
        h = cr.tensor([1.0, 1.0])

        def f(w: Any) -> Any:
            h.assign(h * w)
            return cr.sum(h)

        step = compiled(f)
        return cr.grad(lambda w: step(w) + cr.sum(h * h))(cr.tensor([1.0, 2.0])), h

    same(case)


def test_what_no_grad_or_a_backward_pass_inside_leaves_has_none() -> None:
    weights: list[Any] = [parameter(1.0, 2.0)]
    mean, hidden, other = cr.zeros((2,)), cr.zeros((2,)), cr.zeros((2,))

    @cr.compile
    def step(x: Any) -> Any:
        (w,) = weights
        hidden.assign(cr.tanh(w * x))
        loss = cr.sum(hidden * hidden)
        loss.backward()
        with cr.no_grad():
            mean.assign(0.9 * mean + 0.1 * w)
            w -= w.grad
        other.assign((w * x).detach())
        w.grad = None
        return loss

    for _ in range(3):
        step(cr.tensor(0.5))
    assert len(step.stats().compilations) == 1
    assert not any(x.requires_grad for x in (mean, hidden, other))
    assert weights[0].is_leaf
    assert weights[0].requires_grad


def test_a_parameter_is_assigned_under_no_grad_alone_and_what_was_computed_outside_anywhere() -> None:
    w = parameter(1.0, 2.0)
    with pytest.raises(GradientError, match="changed in place"):
        cr.compile(lambda: w.assign(2.0 * w))()

    def case(compiled: Compile) -> Any:
        v = parameter(1.0, 2.0)
        h = v * 3.0

        def f() -> None:
            h.assign(h * v)

        compiled(f)()
        cr.sum(h).backward()
        return h, v.grad

    same(case)


def test_an_argument_is_a_leaf_or_none_at_every_call() -> None:
    def case(compiled: Compile) -> Any:
        v = parameter(1.0, 2.0)

        def f(x: Any) -> None:
            with cr.no_grad():
                x *= 2.0

        step = compiled(f)
        found: list[Any] = []
        for x in (parameter(1.0, 2.0), v * 3.0, parameter(5.0, 6.0), v * 4.0):
            step(x)
            found += [x, x.requires_grad]
        return found

    same(case)
