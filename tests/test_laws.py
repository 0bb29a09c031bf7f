"""The laws of transforms, on programs that nobody wrote: whatever is nested in whatever, the numbers are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core import tree
from chainrule.core.primitive import TABLE, functions
from gates import BATCH, Case, Gate, frozen

Function = Callable[[Any], Any]

N = 3
A = np.array([[0.3, -0.8, 0.5], [0.9, 0.2, -0.4], [-0.6, 0.7, 0.1]])

STEPS: dict[str, Function] = {
    "tanh": cr.tanh,
    "sin": cr.sin,
    "square": lambda x: 0.5 * x * x,
    "matrix": lambda x: A @ x,
    "neighbours": lambda x: x * cr.roll(x, 1, axis=0),
    "softmax": cr.softmax,
    "waist": lambda x: cr.sum(x * x) * A[0],
    "sums": cr.cumulative_sum,
    "parts": lambda x: cr.concat([x[1:], cr.exp(-x[:1])]),
    "masked": lambda x: cr.where(x > 0, x, 0.1 * x * x),
    "solved": lambda x: cr.linalg.solve(3 * np.eye(N) + x[:, None] * x, x),
}

programs = st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5)
points = st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed).normal(size=(5, N)))


def program(steps: Sequence[str]) -> Function:
    """R^3 to R^3."""
    return lambda x: reduce(lambda value, step: STEPS[step](value), steps, x)


def scalar(steps: Sequence[str]) -> Function:
    f = program(steps)
    return lambda x: cr.sum(cr.sin(f(x) + 0.1) * A[1])


def traced(f: Function) -> Function:
    return lambda x: cr.trace(f, x).run(x)


def near(got: Any, expected: Any, rtol: float = 1e-8, atol: float = 1e-10) -> None:
    pairs = [(got, expected)] if isinstance(got, cr.Tensor) else zip(tree.leaves(got), tree.leaves(expected), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def rounding(function: Function, x: Any) -> float:
    """How far the last bits of the input move the result: no two orders of rounding agree better."""
    moved, still = (np.asarray(function(at)) for at in (x * (1 + 1e-15), x))
    return float(np.abs(moved - still).max())


@given(programs, points)
def test_forward_and_reverse_mode_are_each_others_transpose(steps: list[str], rows: Any) -> None:
    f, (x, t, ct, *_) = program(steps), rows
    _, tangent = cr.jvp(f, (x,), (t,))
    _, pull = cr.vjp(f, x)
    _, push = cr.linearize(f, x)
    near(cr.sum(tangent * ct), cr.sum(t * pull(ct)[0]))
    near(push(t), tangent)


@given(programs, points)
def test_a_map_is_a_stack_of_calls_and_so_is_its_gradient(steps: list[str], rows: Any) -> None:
    f = scalar(steps)
    near(cr.vmap(f)(rows), [float(f(row)) for row in rows])
    near(cr.grad(lambda rows: cr.sum(cr.vmap(f)(rows)))(rows), cr.vmap(cr.grad(f))(rows))
    near(cr.vmap(cr.grad(f))(rows), np.stack([np.asarray(cr.grad(f)(row)) for row in rows]))


@given(programs, points)
def test_every_mode_gives_the_same_jacobian(steps: list[str], rows: Any) -> None:
    f, x = program(steps), rows[0]
    expected = np.stack([np.asarray(cr.jvp(f, (x,), (t,))[1]) for t in np.eye(N)], axis=1)
    for mode in ("forward", "reverse", "auto"):
        near(cr.jacobian(f, mode=mode)(x), expected)
        near(cr.jacobian(f, mode=mode, memory_budget=1)(x), expected)


@settings(max_examples=30)
@given(programs, points)
def test_a_hessian_is_symmetric_and_the_same_in_all_orders_of_modes(steps: list[str], rows: Any) -> None:
    f, x, t = scalar(steps), rows[0], rows[1]
    H = np.asarray(cr.hessian(f)(x))
    atol = 1e-10 + 10 * rounding(cr.hessian(f), x)
    near(H, H.T, atol=atol)
    near(cr.hvp(f, (x,), (t,)), H @ t, atol=atol * max(1.0, float(np.abs(t).sum())))
    for inner, outer in product(("forward", "reverse"), repeat=2):
        near(cr.jacobian(cr.jacobian(f, mode=inner), mode=outer)(x), H, atol=atol)


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "value": lambda f: f,
    "grad": cr.grad,
    "hessian": cr.hessian,
    "jacobian": cr.jacobian,
    "jvp": lambda f: lambda x: cr.jvp(f, (x,), (A[0],)),
    "vjp": lambda f: lambda x: cr.vjp(f, x)[1](1.0),
    "linearize": lambda f: lambda x: cr.linearize(f, x)[1](A[0]),
    "vmap": lambda f: lambda x: cr.vmap(lambda s: f(s * x))(A[0]),
    "compile": cr.compile,
}


@settings(max_examples=30)
@given(programs, points, st.sampled_from(sorted(TRANSFORMS)))
def test_a_traced_transform_and_a_transform_of_a_graph_are_the_transform(steps: list[str], rows: Any, name: str) -> None:
    f, x = scalar(steps), rows[0]
    transform = TRANSFORMS[name]
    expected = transform(f)(x)
    near(traced(transform(f))(x), expected)
    near(transform(cr.trace(f, x).run)(x), expected)


# Higher orders of functions of one number.

DERIVATIVES: dict[str, Callable[[Function], Function]] = {
    "grad": cr.grad,
    "jvp": lambda f: lambda x: cr.jvp(f, (x,), (cr.ones_like(x),))[1],
    "vjp": lambda f: lambda x: cr.vjp(f, x)[1](cr.ones_like(x))[0],
    "linearize": lambda f: lambda x: cr.linearize(f, x)[1](cr.ones_like(x)),
    "forward jacobian": lambda f: cr.jacobian(f, mode="forward"),
    "reverse jacobian": lambda f: cr.jacobian(f, mode="reverse"),
    "grad of a map": lambda f: lambda x: cr.grad(lambda s: cr.sum(cr.vmap(f)(s * cr.ones((2,), dtype=cr.float64))))(x) / 2,
    "map of grads": lambda f: lambda x: cr.vmap(cr.grad(f))(cr.stack([x, x]))[1],
}


def sample(x: Any) -> Any:
    """x^5 + exp(2x), whose derivatives everyone knows."""
    return x**5 + cr.exp(2.0 * x)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(sorted(DERIVATIVES)), st.booleans()), min_size=1, max_size=4), st.floats(0.5, 1.0))
def test_derivatives_up_to_the_fourth_in_any_nesting(nesting: list[tuple[str, bool]], x: float) -> None:
    derivative: Function = sample
    for name, through_a_graph in nesting:
        derivative = DERIVATIVES[name](derivative)
        derivative = traced(derivative) if through_a_graph else derivative
    order = len(nesting)
    expected = np.prod(range(6 - order, 6)) * x ** (5 - order) + 2**order * np.exp(2 * x)
    near(derivative(cr.asarray(np.float64(x))), expected)


@pytest.mark.parametrize("kind", ["eager", "traced"])
@pytest.mark.parametrize(("outer", "inner"), list(product(("grad", "jvp", "vjp", "linearize", "forward jacobian", "map of grads"), repeat=2)))
def test_perturbations_are_not_confused(outer: str, inner: str, kind: str) -> None:
    """d/dx [x d/dy (x + y)] is 1, though d/dy depends on what x moves; within a map each x has its own."""
    f = lambda x: x * DERIVATIVES[inner](lambda y: x + y)(cr.asarray(np.float64(1.0)))
    run = traced if kind == "traced" else lambda f: f
    near(run(DERIVATIVES[outer](f))(np.float64(3.0)), 1.0)
    near(run(cr.vmap(DERIVATIVES[outer](f)))(np.array([3.0, 4.0])), [1.0, 1.0])
    g = lambda x: cr.sum(cr.vmap(lambda y: x * DERIVATIVES[inner](lambda z: x * z * y)(y))(np.array([1.0, 2.0])))
    near(run(DERIVATIVES[outer](g))(np.float64(3.0)), 2 * 3.0 * (1 + 2))


# Every gate.


def alike(cases: Sequence[Case]) -> bool:
    shapes = [[(x.shape, x.dtype) for x in case.arrays] for case in cases]
    return all(one == shapes[0] for one in shapes)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_map_over_a_gate_is_a_stack_of_calls_nested_too(name: str) -> None:
    gate = Gate(TABLE[name], getattr(functions, name))
    draws = [gate.cases(seed) for seed in range(BATCH)]
    for cases in zip(*draws, strict=True):
        case = cases[0]
        rows = [one.arrays for one in cases] if alike(cases) else [case.arrays] * BATCH
        if not case.places:
            continue
        with case:
            batch = [frozen(np.stack(column)) for column in zip(*rows, strict=True)]
            expected = [np.stack([np.asarray(out) for out in column]) for column in zip(*(case(*row) for row in rows), strict=True)]
            near(cr.vmap(case)(*batch), expected)
            twice = [frozen(np.stack([x, x[::-1]], axis=1)) for x in batch]
            near(cr.vmap(cr.vmap(case, in_axes=0), in_axes=1, out_axes=1)(*twice), [np.stack([y, y[::-1]], axis=1) for y in expected])
            if case.differentiable and gate.has_rules:
                total = lambda *xs, case=case: sum(cr.sum(cr.sin(out)) for out in case.real(*xs))
                every = tuple(range(len(batch)))
                each = [cr.grad(total, every)(*row) for row in rows]
                near(cr.vmap(cr.grad(total, every))(*batch), [np.stack([np.asarray(g) for g in column]) for column in zip(*each, strict=True)])


# Size.


def long(x: Any) -> Any:
    for i in range(5_000):
        x = cr.sin(x) + x * (0.1 + 1e-6 * i)
    return cr.sum(x)


def test_graphs_of_ten_thousand_nodes() -> None:
    x = np.array([0.3, 0.4])
    graph = cr.trace(long, x)
    assert len(graph.nodes) > 10_000
    gradient = graph.grad()
    assert len(gradient.nodes) > 20_000
    expected = cr.grad(long)(x)
    near(gradient.run(x)[0], expected)
    out, push = cr.linearize(long, x)
    near(out, graph.run(x))
    near(push(np.eye(2)[0]), expected[0])
    near(cr.vmap(graph.run)(np.stack([x, x])), [float(out)] * 2)
    near(cr.jacobian(graph.run, mode="reverse")(x), expected)
