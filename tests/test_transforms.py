"""vjp, grad, value_and_grad and jvp: nested in any order, on any containers, without confusion."""

from __future__ import annotations

import gc
import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.interp import Tag


def derivative_by_grad(f):
    return cr.grad(f)


def derivative_by_jvp(f):
    return lambda x: cr.jvp(f, (x,), (np.ones(()),))[1]


def derivative_by_vjp(f):
    def g(x):
        _, pull = cr.vjp(f, x)
        return pull(np.ones(()))[0]

    return g


def derivative_by_backward(f):
    def g(x):
        x = cr.asarray(x)
        inside = x * 1.0 if x.requires_grad else cr.tensor(x, requires_grad=True)
        (gradient,) = cr.autograd.grad(f(inside), [inside], create_graph=True)
        return gradient

    return g


DERIVATIVES = (derivative_by_grad, derivative_by_jvp, derivative_by_vjp)


def f(x):
    return cr.sin(x) * cr.exp(x * x) / (1 + x)


def numeric(order, x):
    """Exact derivatives by a truncated power series around x, computed in NumPy."""
    h = 1e-1
    nodes = np.cos(np.pi * (np.arange(40) + 0.5) / 40) * h
    values = np.sin(x + nodes) * np.exp((x + nodes) ** 2) / (1 + x + nodes)
    return np.polynomial.Chebyshev.fit(nodes, values, 24, domain=[-h, h]).deriv(order)(0.0)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_nesting_of_modes_gives_the_same_derivative(order):
    x = 0.3
    expected = numeric(order, x)
    for modes in itertools.product(DERIVATIVES, repeat=order) if order < 4 else [(m,) * 4 for m in DERIVATIVES]:
        g = f
        for mode in modes:
            g = mode(g)
        np.testing.assert_allclose(float(g(np.float64(x))), expected, rtol=1e-6, err_msg=str([m.__name__ for m in modes]))


@pytest.mark.parametrize("outer", DERIVATIVES)
def test_autograd_grad_inside_a_transform(outer):
    g = outer(derivative_by_backward(f))
    np.testing.assert_allclose(float(g(cr.tensor(0.3, dtype=cr.float64, requires_grad=True))), numeric(2, 0.3), rtol=1e-8)


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(DERIVATIVES, repeat=2)))
def test_perturbations_are_not_confused(outer, inner):
    """d/dx [x * d/dy (x + y)] is 1, and 2x for x * d/dy (x * y)."""
    assert float(outer(lambda x: x * inner(lambda y: x + y)(np.float64(1.0)))(np.float64(3.0))) == 1
    assert float(outer(lambda x: x * inner(lambda y: x * y)(np.float64(1.0)))(np.float64(3.0))) == 6


def test_results_carry_no_trace_of_ended_transforms():
    gc.collect()
    taken = Tag._taken
    for result in (
        cr.grad(f)(0.3),
        cr.grad(cr.grad(f))(0.3),
        *cr.jvp(cr.grad(f), (0.3,), (1.0,)),
        cr.grad(lambda x: cr.jvp(f, (x,), (1.0,))[1])(0.3),
        *cr.value_and_grad(f)(0.3),
    ):
        assert not result.requires_grad
    assert Tag._taken == taken, "every tag is back in the pool"


def test_transforms_see_through_to_tensors_that_require_gradients():
    w = cr.tensor(2.0, requires_grad=True)
    cr.grad(lambda x: x * x * w)(3.0).backward()
    assert w.grad.item() == 6
    w.grad = None
    cr.jvp(lambda x: x * w * w, (3.0,), (5.0,))[1].backward()
    assert w.grad.item() == 20


def test_pullbacks_serve_many_times_and_can_be_differentiated():
    out, pull = cr.vjp(lambda x, y: (x * y, cr.exp(x)), 1.0, 2.0)
    assert [t.item() for t in out] == pytest.approx([2, np.e])
    assert [t.item() for t in pull((1.0, 0.0))] == [2, 1]
    assert [t.item() for t in pull((0.0, 1.0))] == pytest.approx([np.e, 0])
    assert cr.grad(lambda ct: pull((ct * ct, 0.0))[0])(3.0).item() == 12


def test_many_living_pullbacks_do_not_disturb_each_other():
    pulls = [cr.vjp(lambda x, k=k: x**k, 2.0)[1] for k in range(1, 70)]
    for k, pull in enumerate(pulls, 1):
        assert pull(1.0)[0].item() == pytest.approx(k * 2.0 ** (k - 1))


class Point(NamedTuple):
    x: object
    y: object


def test_nested_containers_in_and_out():
    params = {"layers": [(cr.ones(2), 0.5), (cr.ones(2), 1.5)], "scale": Point(2.0, None)}

    def loss(p):
        return sum(cr.sum(w * b) for w, b in p["layers"]) * p["scale"].x

    value, gradient = cr.value_and_grad(loss)(params)
    assert value.item() == 8
    assert [w.tolist() for w, _ in gradient["layers"]] == [[1, 1], [3, 3]]
    assert gradient["layers"][1][1].item() == 4
    assert gradient["scale"].x.item() == 4
    assert gradient["scale"].y is None
    out, tangent = cr.jvp(lambda p: {"sum": loss(p)}, (params,), (cr.core.tree.map(cr.ones_like, params),))
    assert out["sum"].item() == 8
    assert tangent["sum"].item() == pytest.approx(4 + 4 + 8 + 4)


def test_argnums_and_aux():
    def h(x, y, z):
        return x * y * z, {"product": x * y, "note": "kept"}

    (value, aux), (gx, gz) = cr.value_and_grad(h, argnums=(0, -1), has_aux=True)(2.0, 3.0, 4.0)
    assert (value.item(), gx.item(), gz.item()) == (24, 12, 6)
    assert aux["note"] == "kept"
    assert not aux["product"].requires_grad
    gradient, aux = cr.grad(h, argnums=1, has_aux=True)(2.0, 3.0, 4.0)
    assert (gradient.item(), aux["product"].item()) == (8, 6)


@pytest.mark.parametrize("transform", [cr.grad, cr.value_and_grad, cr.jacobian, cr.hessian])
@pytest.mark.parametrize("argnums", [(0, 0), (1, -1)])
def test_an_argument_is_differentiated_once(transform, argnums):
    with pytest.raises(ArgumentError, match="names an argument twice"):
        transform(lambda x, y: x * y, argnums)(2.0, 3.0)


def test_inputs_on_which_nothing_depends_get_zeros():
    gx, gy = cr.grad(lambda x, y: x * 2.0, argnums=(0, 1))(1.0, cr.ones((2, 3)))
    assert gx.item() == 2
    assert gy.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert cr.jvp(lambda x: cr.ones(2), (1.0,), (1.0,))[1].tolist() == [0, 0]


def test_transforms_work_inside_no_grad_and_respect_it_within():
    with cr.no_grad():
        assert cr.grad(lambda x: x * x)(3.0).item() == 6

    def partly(x):
        with cr.no_grad():
            y = x * x
        return y * x

    assert cr.grad(partly)(3.0).item() == 9
    assert cr.jvp(partly, (3.0,), (1.0,))[1].item() == 9


def test_calling_backward_inside_a_transformed_function():
    def gradient_of_cube(x):
        w = cr.tensor(3.0, requires_grad=True)
        (x * w * w * w).backward()
        return w.grad

    assert cr.grad(gradient_of_cube)(2.0).item() == 27


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cr.grad(lambda x: x)(cr.ones(2)), "not a scalar"),
        (lambda: cr.grad(lambda x: (x, x))(1.0), "tuple"),
        (lambda: cr.grad(lambda x: x)(1), "int64"),
        (lambda: cr.grad(lambda x: x)(1j), "complex"),
        (lambda: cr.jvp(lambda x: x, (1.0,), (cr.ones(2),)), r"\(2,\)"),
        (lambda: cr.jvp(lambda x: x, (1.0,), ((1.0, 2.0),)), "structure"),
        (lambda: cr.jvp(lambda x: x, 1.0, 1.0), "tuple"),
        (lambda: cr.vjp(lambda x: x, 1.0)[1](cr.ones(2)), "shape"),
    ],
)
def test_misuse_is_told(call, says):
    with pytest.raises(GradientError, match=says):
        call()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(), (3,), (2, 3)]))
def test_forward_and_reverse_are_transposes(seed, shape):
    rng = np.random.default_rng(seed)
    x, t, u = rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=shape)

    def g(x):
        return cr.tanh(x) * cr.sum(x * x) + cr.exp(-x)

    _, pull = cr.vjp(g, x)
    left = np.sum(u * np.asarray(cr.jvp(g, (x,), (t,))[1]))
    right = np.sum(np.asarray(pull(u)[0]) * t)
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)
