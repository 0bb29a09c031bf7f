"""Traces in traces, in transforms and in modes: a graph passes the derivatives that eager code passes, and no others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr


def bits(x: Any) -> tuple[Any, ...]:
    array = np.asarray(x)
    return array.dtype, array.shape, array.tobytes()


def test_traces_nest() -> None:
    w = cr.tensor(2.0, requires_grad=True)

    def outer(x: Any) -> Any:
        inner = cr.trace(lambda z: cr.sin(z * x) * w, 1.0)
        assert len(inner.captured) == 2
        return inner.run(x) + inner.grad("z").run(x * 2.0)

    graph = cr.trace(outer, 0.5).verify()
    assert [x.name for x in graph.inputs] == ["x", "w"]
    assert bits(graph.run(0.5)) == bits(outer(cr.tensor(0.5)))
    assert bits(graph.grad(0).run(0.5)) == bits(cr.grad(outer)(0.5))


def test_transforms_trace_and_traces_transform() -> None:
    f = lambda x: cr.sum(cr.exp(x) * x)
    x = np.array([0.1, 0.2])
    expected = cr.grad(f)(x)
    assert bits(cr.trace(cr.grad(f), x).run(x)) == bits(expected)
    assert bits(cr.grad(cr.trace(f, x).run)(x)) == bits(expected)
    assert bits(cr.trace(f, x).grad(0).run(x)) == bits(expected)
    tangent = cr.jvp(f, (x,), (x,))[1]
    assert bits(cr.trace(lambda x: cr.jvp(f, (x,), (x,))[1], x).run(x)) == bits(tangent)
    assert bits(cr.jvp(cr.trace(f, x).run, (x,), (x,))[1]) == bits(tangent)
    out, pull = cr.vjp(cr.trace(f, x).run, x)
    assert bits(out) == bits(f(cr.asarray(x)))
    assert bits(pull(1.0)[0]) == bits(expected)
    hessian = lambda f: cr.grad(lambda x: cr.sum(cr.grad(f)(x)))
    assert bits(cr.trace(hessian(f), x).run(x)) == bits(hessian(f)(x))
    assert bits(hessian(cr.trace(f, x).run)(x)) == bits(hessian(f)(x))


def test_arguments_that_require_a_gradient() -> None:
    x = cr.tensor([1.0, 2.0], requires_grad=True)
    graph = cr.trace(lambda x: cr.sum(x**2), x)
    graph.run(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 4]
    assert graph.run(x.detach()).requires_grad is False


def test_a_trace_under_no_grad_can_be_differentiated() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    with cr.no_grad():
        graph = cr.trace(lambda x: w * x**2, 3.0)
        assert graph.grad("x").run(3.0).item() == 12
        assert not graph.run(3.0).requires_grad
    assert graph.run(3.0).requires_grad
    assert cr.grad(graph.run)(3.0).item() == 12


@cr.no_grad()
def squared(x: Any) -> Any:
    return x * x


def through_no_grad(x: Any) -> Any:
    with cr.no_grad():
        y = x * x
    return cr.sum(y * x)


def through_enable_grad(x: Any) -> Any:
    with cr.no_grad(), cr.enable_grad():
        y = x * x
    return cr.sum(y * x)


def through_a_leaf(x: Any) -> Any:
    z = x.detach().requires_grad_()
    cr.sum(z**3).backward()
    return cr.sum(z.grad * x)


def through_a_gradient_in_no_grad(x: Any) -> Any:
    with cr.no_grad():
        g = cr.grad(lambda z: cr.sum(z**3))(x)
    return cr.sum(g * x)


def through_a_tangent_in_no_grad(x: Any) -> Any:
    with cr.no_grad():
        out, t = cr.jvp(lambda z: z**3, (x,), (x,))
    return cr.sum(t * x) + cr.sum(out)


def through_state(x: Any) -> Any:
    state = cr.zeros(2, dtype="float64")
    state.assign(x * x)
    return cr.sum(state * x)


def through_training(x: Any) -> Any:
    w = cr.tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    optimizer = cr.optim.SGD([w], lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        cr.sum((w * x) ** 2).backward()
        optimizer.step()
    return cr.sum(w * x)


def through_changes(x: Any) -> Any:
    y = x * 1.0
    y += x
    y[0] = x[1] * 3.0
    return cr.sum(y * x)


def through_a_branch_without_gradient(x: Any) -> Any:
    with cr.no_grad():
        y = cr.cond(cr.sum(x) > 0, lambda x: cr.sum(x * x), cr.sum, x)
    return cr.sum(y * x)


def without_gradient_in_a_branch(x: Any) -> Any:
    return cr.cond(cr.sum(x) > 0, through_no_grad, cr.sum, x)


CUTS: dict[str, Callable[[Any], Any]] = {
    "detach": lambda x: cr.sum(x.detach() * x),
    "stop_gradient": lambda x: cr.sum(cr.stop_gradient(x) * x),
    "new tensor": lambda x: cr.sum(cr.tensor(x) * x),
    "copy": lambda x: cr.sum(copy.copy(x) * x),
    "no_grad": through_no_grad,
    "no_grad as a decorator": lambda x: cr.sum(squared(x) * x),
    "no_grad to the end": lambda x: cr.sum(squared(x)) + cr.sum(x),
    "enable_grad": through_enable_grad,
    "a leaf": through_a_leaf,
    "a gradient in no_grad": through_a_gradient_in_no_grad,
    "a tangent in no_grad": through_a_tangent_in_no_grad,
    "a gradient": lambda x: cr.sum(cr.grad(lambda z: cr.sum(z**3))(x) * x),
    "state": through_state,
    "training": through_training,
    "changes in place": through_changes,
    "cond in no_grad": through_a_branch_without_gradient,
    "no_grad in cond": without_gradient_in_a_branch,
    "vmap": lambda x: cr.sum(cr.vmap(lambda z: z.detach() * z)(x)),
    "integers": lambda x: cr.sum(cr.astype(x, cr.int64) * x),
}


@pytest.mark.parametrize("way", CUTS)
def test_a_graph_passes_the_derivatives_that_eager_code_passes_and_no_others(way: str) -> None:
    f, x = CUTS[way], np.array([0.5, 1.5])
    graph = cr.trace(f, x).verify()
    expected, tangent = cr.grad(f)(x), cr.jvp(f, (x,), (x,))[1]
    second = cr.grad(lambda x: cr.sum(cr.grad(f)(x)))(x)
    for got in (graph.grad(0).run(x), cr.grad(graph.run)(x), cr.grad(cr.trace(graph.run, x).run)(x)):
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-14)
    np.testing.assert_allclose(np.asarray(cr.jvp(graph.run, (x,), (x,))[1]), np.asarray(tangent), rtol=1e-14)
    for gradient in (graph.grad(0).run, cr.grad(graph.run)):
        got = cr.grad(lambda x: cr.sum(gradient(x)))(x)  # noqa: B023, it is called at once
        np.testing.assert_allclose(np.asarray(got), np.asarray(second), rtol=1e-14)
