"""Derivatives of compiled functions, from outside: as without compiling, of any order, within a memory budget."""

import tracemalloc

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, TraceError
from test_compile import backend as backend


def test_a_compiled_function_is_differentiated_by_backward():
    w = cr.tensor([1.0, 2.0], requires_grad=True)
    x = cr.tensor([3.0, 4.0], requires_grad=True)
    f = cr.compile(lambda x: cr.sum(w * w * cr.exp(x)))
    for _ in range(2):
        f(x).backward()
    np.testing.assert_allclose(w.grad, 2 * 2 * w.detach() * cr.exp(x.detach()), rtol=1e-6)
    np.testing.assert_allclose(x.grad, 2 * w.detach() ** 2 * cr.exp(x.detach()), rtol=1e-6)


def test_transforms_of_a_compiled_function():
    def f(x):
        return cr.sum(cr.sin(x) * x * x)

    g = cr.compile(f)
    x, v = cr.tensor([0.3, 0.7], dtype="float64"), cr.tensor([1.0, -2.0], dtype="float64")
    np.testing.assert_allclose(cr.grad(g)(x), cr.grad(f)(x), rtol=1e-12)
    np.testing.assert_allclose(cr.grad(lambda x: cr.sum(cr.grad(g)(x) ** 2))(x), cr.grad(lambda x: cr.sum(cr.grad(f)(x) ** 2))(x), rtol=1e-12)
    np.testing.assert_allclose(cr.jvp(g, (x,), (v,))[1], cr.jvp(f, (x,), (v,))[1], rtol=1e-12)
    np.testing.assert_allclose(cr.jvp(cr.grad(g), (x,), (v,))[1], cr.jvp(cr.grad(f), (x,), (v,))[1], rtol=1e-12)
    np.testing.assert_allclose(cr.grad(lambda x: cr.jvp(g, (x,), (v,))[1])(x), cr.grad(lambda x: cr.jvp(f, (x,), (v,))[1])(x), rtol=1e-12)
    xs = cr.stack([x, 2 * x, 3 * x])
    np.testing.assert_allclose(cr.vmap(g)(xs), cr.vmap(f)(xs), rtol=1e-12)
    np.testing.assert_allclose(cr.vmap(cr.grad(g))(xs), cr.vmap(cr.grad(f))(xs), rtol=1e-12)
    np.testing.assert_allclose(cr.compile(cr.grad(g))(x), cr.grad(f)(x), rtol=1e-12)


def test_a_memory_budget_is_kept_by_derivatives_from_outside():
    weights = [cr.tensor(np.full((8, 8), 0.1 + 0.01 * i)) for i in range(24)]
    x = cr.tensor(np.linspace(-1, 1, 8 * 4096).reshape(4096, 8))

    def f(x):
        for w in weights:
            x = cr.tanh(x @ w)
        return cr.sum(x * x)

    large = 8 * x.size

    def peak(budget):
        gradient = cr.grad(cr.compile(f, backend="numpy", memory_budget=budget))
        gradient(x)
        tracemalloc.start()
        found = gradient(x)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken, found

    free, expected = peak(None)
    for layers in (40, 12):
        taken, found = peak(layers * large)
        assert taken <= 1.05 * min(free, layers * large)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ArgumentError, match="the least possible is"):
        peak(2 * large)


def test_transforms_of_a_function_within_a_memory_budget():
    def f(x):
        for _ in range(6):
            x = cr.sin(x * x + 0.1)
        return cr.sum(x)

    # Too little for what a backward pass reads, enough for one that computes it again.
    g = cr.compile(f, memory_budget=14_000)
    x, v = cr.tensor(np.linspace(0.1, 1.0, 200)), cr.tensor(np.linspace(-1.0, 1.0, 200))
    np.testing.assert_allclose(cr.grad(g)(x), cr.grad(f)(x), rtol=1e-12)
    np.testing.assert_allclose(cr.jvp(g, (x,), (v,))[1], cr.jvp(f, (x,), (v,))[1], rtol=1e-12)
    np.testing.assert_allclose(cr.hvp(g, (x,), (v,)), cr.hvp(f, (x,), (v,)), rtol=1e-12)


def test_where_is_safe_in_compiled_gradients():
    f = cr.compile(cr.grad(lambda x: cr.sum(cr.where(x > 0, cr.log(x) + cr.sqrt(x), 0.0))))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(f(cr.tensor([0.0, 1.0, -1.0])), [0, 1.5, 0])
    w = cr.tensor([[2.0], [1.0]])
    g = cr.compile(cr.grad(lambda x: cr.sum(cr.where(x > 0, (cr.stack([cr.log(x), x], axis=1) @ w).reshape(3), 0.0))))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(g(cr.tensor([0.0, 1.0, -2.0])), [0, 3, 0])


def test_what_no_cotangent_reaches_gets_none():
    f = cr.compile(lambda x, y: (cr.sum(x * x), cr.sum(cr.sqrt(x)), 2.0 * y))
    x, y = cr.tensor([0.0, 4.0], requires_grad=True), cr.tensor(3.0, requires_grad=True)
    with np.errstate(all="ignore"):
        f(x, y)[0].backward()
    np.testing.assert_array_equal(x.grad, [0, 8])
    assert y.grad is None
    first, second = cr.tensor([1.0, 4.0], requires_grad=True), cr.tensor(3.0, requires_grad=True)
    _, b, c = f(first, second)
    (b + c).backward()
    np.testing.assert_array_equal(first.grad, [0.5, 0.25])
    assert second.grad.item() == 2


def test_a_choice_outside_of_a_compiled_function_masks_its_gradients():
    root = cr.compile(lambda x: cr.sqrt(x * 1.0))
    slope = cr.grad(lambda x: cr.sum(cr.where(x > 0, root(x), 0.0)))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(slope(cr.tensor([0.0, 4.0])), [0, 0.25])
        curve = cr.grad(lambda x: cr.sum(cr.where(x > 0, slope(x), 0.0)))
        np.testing.assert_array_equal(curve(cr.tensor([0.0, 4.0])), [0, -1 / 32])


def test_a_backward_pass_into_an_argument_is_refused():
    @cr.compile
    def f(x):
        (x * x).backward()

    with pytest.raises(TraceError, match=r"x\.detach\(\)"):
        f(cr.tensor(1.0, requires_grad=True))


def test_a_backward_pass_that_would_end_at_a_computed_tensor_is_refused():
    w = cr.tensor(2.0, requires_grad=True)
    h = w * w

    @cr.compile
    def f(x):
        (h * x).backward()

    with pytest.raises(TraceError, match="reaches h, float32"):
        f(cr.tensor(1.0))
    assert w.grad is None
