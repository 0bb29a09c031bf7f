"""linearize: the function runs once, its derivative as often as one likes; and how graphs are split for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.autodiff.cost import multiplications
from chainrule.autodiff.linearize import forward, reverse
from chainrule.core.errors import ArgumentError, GradientError, TraceError
from chainrule.graph.split import split

rng = np.random.default_rng(0)
A = rng.normal(size=(3, 2))


def near(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-12, atol=1e-14)


def f(p: dict[str, Any], q: Any) -> tuple[Any, dict[str, Any]]:
    h = cr.tanh(A @ p["x"]) * q
    return h, {"square": cr.sum(h * h)}


POINT = ({"x": cr.asarray(rng.normal(size=2))}, cr.asarray(np.float64(1.5)))


def test_value_and_tangents_are_those_of_jvp() -> None:
    out, push = cr.linearize(f, *POINT)
    for _ in range(3):
        direction = ({"x": rng.normal(size=2)}, np.float64(rng.normal()))
        expected, tangent = cr.jvp(f, POINT, direction)
        near(out[0], expected[0])
        near(out[1]["square"], expected[1]["square"])
        pushed = push(*direction)
        near(pushed[0], tangent[0])
        near(pushed[1]["square"], tangent[1]["square"])


def test_the_function_runs_once_and_push_repeats_nothing_that_the_point_decides() -> None:
    calls = []

    def counted(x: cr.Tensor) -> cr.Tensor:
        calls.append(x)
        return cr.sum(cr.exp(cr.sin(x)))

    x = np.ones(4)
    _, push = cr.linearize(counted, x)
    inside = cr.trace(push, x)
    assert [node.primitive.name for node in inside.nodes] == ["multiply", "multiply", "sum"]
    push(x)
    push(2 * x)
    assert len(calls) == 1


def test_the_linear_part_is_linear() -> None:
    _, push = cr.linearize(lambda x: cr.linalg.inv(x @ x.mT + np.eye(3)), rng.normal(size=(3, 2)))
    s, t = rng.normal(size=(2, 3, 2))
    near(push(2 * s + t), 2 * np.asarray(push(s)) + np.asarray(push(t)))


def test_it_can_be_differentiated_mapped_and_traced() -> None:
    g = lambda x: cr.linearize(lambda x: cr.sum(x**3), x)[1](np.ones(3))
    x = rng.normal(size=3)
    near(cr.grad(g)(x), 6 * x)
    near(cr.trace(cr.grad(g), x).run(x), 6 * x)
    near(cr.vmap(g)(x[:, None] * np.ones(3)), 9 * x**2)
    _, push = cr.linearize(lambda x: x * x, cr.asarray(x))
    near(cr.vmap(push)(np.eye(3)), np.diag(2 * x))
    near(cr.linearize(push, np.ones(3))[1](np.ones(3)), 2 * x)


def test_weights_from_outside_keep_their_history() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)
    out, push = cr.linearize(lambda x: cr.sum(w * x * x), cr.tensor([3.0, 4.0]))
    (out + push(cr.ones((2,)))).backward()
    assert w.grad.tolist() == [9 + 6, 16 + 8]


def test_a_generator_moves_on_once() -> None:
    cr.manual_seed(0)
    out, push = cr.linearize(lambda x: x * cr.random.uniform((3,)), cr.ones((3,)))
    assert push(cr.ones((3,))).tolist() == out.tolist()
    after = cr.random.default_generator.get_state()
    cr.manual_seed(0)
    cr.random.uniform((3,))
    assert after.tolist() == cr.random.default_generator.get_state().tolist()


def test_refusals() -> None:
    with pytest.raises(GradientError, match="dtype int64 cannot be differentiated"):
        cr.linearize(lambda x: x, 1)
    _, push = cr.linearize(cr.sin, np.ones(3))
    with pytest.raises(GradientError, match="must have the shape"):
        push(np.ones(2))
    with pytest.raises(TraceError, match=r"cr\.where"):
        cr.linearize(lambda x: x if x > 0 else -x, 1.0)


# Splitting.


def example() -> cr.Graph:
    def function(x: Any, y: Any) -> tuple[Any, Any, Any]:
        a = cr.exp(x)
        b = a * y
        return a + 1.0, b, cr.sin(y)

    return cr.trace(function, 1.0, 2.0)


def test_a_split_graph_computes_the_same_in_two_steps() -> None:
    graph = example().verify()
    early, late, residuals = split(graph, [1])
    assert [node.primitive.name for node in early.verify().nodes] == ["exp", "add"]
    assert [node.primitive.name for node in late.verify().nodes] == ["multiply", "sin"]
    assert [x.name for x in residuals] == ["a"]
    first, *kept = early.run(1.0)
    second, third = late.run(*kept, 2.0)
    assert [x.item() for x in (first, second, third)] == [x.item() for x in graph.run(1.0, 2.0)]


def test_the_second_half_may_be_asked_for_more_but_not_for_less() -> None:
    graph = example()
    early, late, residuals = split(graph, [1], [0, 1, 2])
    assert len(early.outputs) == len(residuals)
    assert len(late.outputs) == 3
    with pytest.raises(ArgumentError, match="depends on a late input"):
        split(graph, [1], [2])


def test_what_nobody_needs_is_in_neither_half() -> None:
    def function(x: Any, y: Any) -> Any:
        cr.exp(x)
        cr.sin(y)
        return x * y

    early, late, _ = split(cr.trace(function, 1.0, 2.0), [1])
    assert [len(early.nodes), len(late.nodes)] == [0, 1]


@pytest.mark.parametrize("mode", [forward, reverse])
def test_a_derivative_of_a_graph_runs_its_forward_pass_in_the_first_half(mode: Any) -> None:
    graph = cr.trace(lambda w, x: cr.sum(cr.tanh(w @ x)), A, np.ones(2))
    linear = mode(graph, [0, 1], [0])
    assert "tanh" in [node.primitive.name for node in linear.early.nodes]
    assert "tanh" not in [node.primitive.name for node in linear.late.nodes]
    assert linear.seeds == (2 if mode is forward else 1)
    assert linear.residuals + linear.seeds == len(linear.late.inputs)
    assert multiplications(linear.late) <= 2 * multiplications(graph)
